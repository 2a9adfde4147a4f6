"""A model and data small enough that a step takes a tenth of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

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
from export.training.config import TrainingConfig, training_config
from export.training.dataset import ground_truth
from export.training.shapes import CLASSES, ShapesSet

SIZE = 64


def small_model_config(classes: tuple[str, ...] = CLASSES, **changes: Any) -> ModelConfig:
    settings: dict[str, Any] = {
        "backbone": BackboneConfig(depth=18, stem_width=4, stage_widths=(16, 16, 16, 16)),
        "fpn": FpnConfig(channels=8),
        "rpn": RpnConfig(channels=8, cells=anchor_cells(((12,), (20,), (32,), (48,), (64,)))),
        "heads": HeadConfig(box_fc_widths=(16,), mask_conv_widths=(8,), mask_deconv_width=8),
        "detection": DetectionConfig(max_detections=10),
        "input": InputConfig(min_size=SIZE, max_size=SIZE),
    }
    return ModelConfig(classes=classes, **(settings | changes))


def small_training(**changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 2,
        "train_bn": True,
        "evaluate_every": 100,
        "evaluate_pictures": 2,
        "optimizer": {"learning_rate": 0.01},
        "targets": {"pre_nms_topk": 50, "post_nms_topk": 30, "rois_per_image": 16, "append_gt_boxes": True},
    }
    return training_config(settings | changes)


def write_coco(root: Path, split: str, count: int, seed: int) -> None:
    """The generated shapes as COCO-format files."""
    pictures = ShapesSet(count, SIZE, seed)
    document = ground_truth(pictures, range(count))
    folder = root / split
    folder.mkdir(parents=True)
    for index, image in enumerate(document["images"]):
        image["file_name"] = f"{index}.png"
        Image.fromarray(pictures[index].image).save(folder / image["file_name"])
    for annotation in document["annotations"]:
        counts = annotation["segmentation"]["counts"].decode("ascii")
        annotation["segmentation"] = {"size": list(annotation["segmentation"]["size"]), "counts": counts}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


SMALL_CONFIG_FILE = {
    "model": {
        "backbone": {"depth": 18, "stem_width": 4, "stage_widths": [16, 16, 16, 16]},
        "fpn": {"channels": 8},
        "rpn": {"channels": 8, "anchor_sizes": [12, 20, 32, 48, 64]},
        "heads": {"box_fc_widths": [16], "mask_conv_widths": [8], "mask_deconv_width": 8},
        "detection": {"max_detections": 10},
        "input": {"min_size": SIZE, "max_size": SIZE},
    },
    "training": {
        "steps": 3,
        "batch_size": 2,
        "evaluate_pictures": 2,
        "optimizer": {"learning_rate": 0.01},
        "targets": {"pre_nms_topk": 50, "post_nms_topk": 30, "rois_per_image": 16, "append_gt_boxes": True},
    },
}
