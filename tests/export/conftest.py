"""A tiny model, its checkpoint and its bundle, made once: tracing takes most of the time of these tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from export.build_engine import main as build_engine
from export.model.config import (
    BackboneConfig,
    DetectionConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    ModelConfig,
    RpnConfig,
    anchor_cells,
)
from export.model.mask_rcnn import MaskRCNN

TINY = ModelConfig(
    classes=("background", "circle", "square"),
    backbone=BackboneConfig(depth=18, stem_width=8, stage_widths=(8, 8, 16, 16)),
    fpn=FpnConfig(channels=8),
    rpn=RpnConfig(
        channels=8, pre_nms_topk=60, post_nms_topk=40, cells=anchor_cells(((16,), (32,), (64,), (128,), (256,)))
    ),
    heads=HeadConfig(box_fc_widths=(16,), mask_conv_widths=(8,), mask_deconv_width=8),
    detection=DetectionConfig(score_threshold=0.05, max_detections=20),
    input=InputConfig(min_size=96, max_size=160),
)


def make_tiny_model(seed: int = 0) -> MaskRCNN:
    """Random weights with the outputs pulled apart, so that no two scores are within rounding of each other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskRCNN(replace(TINY)).eval()
    with torch.no_grad():
        for layer in (model.rpn_head.logits, model.box_head.class_logits, model.mask_head.logits):
            layer.weight.mul_(30)
    return model


def save_checkpoint(model: MaskRCNN, path: Path) -> Path:
    values = {"maskline_checkpoint": 1, "config": model.config.to_dict(), "model": model.state_dict(), "training": {}}
    torch.save(values, path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> MaskRCNN:
    return make_tiny_model()


@pytest.fixture(scope="session")
def checkpoint(tiny_model: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_model, tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="session")
def tiny_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `build_engine` makes of the checkpoint. Not to be changed."""
    output = tmp_path_factory.mktemp("bundles") / "tiny"
    assert build_engine(["--weights", str(checkpoint), "--output", str(output)]) == 0
    return output


@pytest.fixture
def traced(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "model.onnx")
