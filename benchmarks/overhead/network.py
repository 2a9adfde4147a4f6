"""A Mask R-CNN of about 2 ms a picture on one core, or more, as a bundle, and pictures for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("background", "this", "that")
DETECTIONS = 3
"""The most that the network finds in a picture, and with these weights what it does find."""

PICTURE_WH, JPEG_QUALITY = (400, 300), 98
"""About 100 KB with the noise of `jpeg`."""


def write_bundle(folder: Path, min_size: int = 128) -> Path:
    """ResNet-18, FPN, RPN and both heads, all of them thin; weights are drawn from a fixed seed. `min_size`: pixels of
    the shorter side in the network."""
    import torch
    from torch import nn

    from export.graph import bundle
    from export.graph.trace import trace
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

    config = ModelConfig(
        classes=CLASSES,
        backbone=BackboneConfig(depth=18, stem_width=16, stage_widths=(16, 24, 32, 48)),
        fpn=FpnConfig(channels=16),
        rpn=RpnConfig(
            channels=16,
            cells=anchor_cells(((16,), (32,), (64,), (96,), (128,))),
            pre_nms_topk=50,
            post_nms_topk=20,
        ),
        heads=HeadConfig(box_fc_widths=(32,), mask_conv_widths=(16,), mask_deconv_width=16),
        detection=DetectionConfig(max_detections=DETECTIONS),
        input=InputConfig(min_size=min_size, max_size=min_size * 3 // 2),
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MaskRCNN(config).eval()
        for layer in (model.box_head.class_logits, model.mask_head.logits):
            nn.init.normal_(layer.weight, std=1.0)  # sure of itself: scores above one half
    folder.mkdir(parents=True)
    graph = trace(model)
    files = [bundle.save_onnx(graph, folder), bundle.save_inlined(graph, folder, "fp32")]
    weights = folder / bundle.ONNX_FILE
    bundle.save_card(bundle.make_card(config, name="small", model_version="1", weights=weights, files=files), folder)
    return folder


def jpeg(seed: int = 0) -> bytes:
    """A photograph's share of detail: soft colours, and noise on them."""
    rng = np.random.default_rng(seed)
    w, h = PICTURE_WH
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    noisy = np.asarray(soft, np.float64) + rng.normal(0, 14, (h, w, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
