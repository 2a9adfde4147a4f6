"""A small model card for tests."""

from __future__ import annotations

from typing import Any

from server.contract.card import ModelCard

NATIVE_RESIZE = {
    "rule": "shortest_edge",
    "min_size": 64,
    "max_size": 96,
    "rounding": "half_up",
    "interpolation": "antialias",
}


def card_values() -> dict[str, Any]:
    """What `model.json` of a model with two classes holds."""
    return {
        "schema_version": 1,
        "name": "shapes",
        "version": "1",
        "classes": ["background", "disc", "square"],
        "input": {
            "resize": NATIVE_RESIZE,
            "dtype": "uint8",
            "placement": "top_left",
            "padding": "zero",
            "size_divisor": 32,
            "canvases": "exact",
        },
        "output": {
            "mask_size": 28,
            "mask_paste": "detectron2",
            "max_detections": 5,
            "score_threshold": 0.1,
            "default_score_threshold": 0.5,
            "nms_iou_threshold": 0.5,
        },
        "files": [{"path": "model.onnx", "sha256": "0" * 64, "engine": "onnxruntime", "precision": "fp32"}],
        "provenance": {
            "weights_sha256": "0" * 64,
            "family": "native",
            "created": "2026-01-01T00:00:00Z",
            "maskline": "0.1.0",
            "torch": "2.13.0",
            "opset": 20,
        },
        "verification": {},
    }


def model_card() -> ModelCard:
    return ModelCard.model_validate(card_values())
