"""From a file of each family to a verified bundle whose card says how the family treats a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build_engine import main
from server.contract.card import ModelCard
from server.pipeline import Pipeline
from tests.export.weights import detectron2_files, matterport_files, torchvision_files

SIZES = ["--min-size", "64", "--max-size", "128"]


def torchvision(folder: Path) -> list[str]:
    torch.save(torchvision_files.draw(v2=True), folder / "model.pth")
    return ["--weights", str(folder / "model.pth"), *SIZES]


def detectron2(folder: Path) -> list[str]:
    path = detectron2_files.save_pkl(detectron2_files.draw(detectron2_files.Network(), seed=3), folder)
    config = detectron2_files.save_config({"TEST.DETECTIONS_PER_IMAGE": 30}, folder)
    return ["--weights", str(path), "--config", str(config), *SIZES]


def matterport(folder: Path) -> list[str]:
    path = matterport_files.save(matterport_files.draw(matterport_files.layer_shapes()), folder / "mask_rcnn.h5")
    values = {"MASK_POOL_SIZE": 6, "MASK_SHAPE": [12, 12], "PRE_NMS_LIMIT": 500, "DETECTION_MIN_CONFIDENCE": 0.25}
    (folder / "config.json").write_text(json.dumps(values))
    return ["--weights", str(path), "--config", str(folder / "config.json"), *SIZES]


def rules_of(card: ModelCard) -> dict[str, Any]:
    rule = card.input
    return {
        "resize": (rule.resize.rule, rule.resize.rounding, rule.resize.interpolation),
        "canvas": (rule.dtype, rule.placement, rule.padding, rule.size_divisor, rule.canvases),
        "paste": card.output.mask_paste,
    }


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        pytest.param(
            torchvision,
            {
                "resize": ("shortest_edge", "floor", "linear"),
                "canvas": ("float32", "top_left", "zero", 32, "exact"),
                "paste": "torchvision",
            },
            id="torchvision",
        ),
        pytest.param(
            detectron2,
            {
                "resize": ("shortest_edge", "half_up", "antialias"),
                "canvas": ("uint8", "top_left", "zero", 32, "exact"),
                "paste": "detectron2",
            },
            id="detectron2",
        ),
        pytest.param(
            matterport,
            {
                "resize": ("grow_shortest_edge", "half_even", "linear_zero_border"),
                "canvas": ("uint8", "centre", "black", 64, [(128, 128)]),
                "paste": "matterport",
            },
            id="Matterport",
        ),
    ],
)
def test_a_file_becomes_a_bundle(
    words: Callable[[Path], list[str]],
    rules: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*words(tmp_path), "--output", str(tmp_path / "mine")]) == 0
    assert "--min-size" in capsys.readouterr().err
    pipeline = Pipeline.open(tmp_path / "mine")
    assert rules_of(pipeline.card) == rules
    assert pipeline.card.verification["verdict"] == "accepted"
    assert pipeline.card.verification["agreeing"] > 20
    assert pipeline.card.output.default_score_threshold == pipeline.card.output.score_threshold
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    answer = pipeline.predict(picture)
    assert (answer.width, answer.height) == (90, 70)
    assert {d.class_name for d in answer.detections} <= set(pipeline.card.classes[1:])
    assert answer.detections
