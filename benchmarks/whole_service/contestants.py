"""Who is measured: the endpoint that people write themselves, and Maskline with each CPU engine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.contestants import Found, agreement
from benchmarks.overhead.contestants import Contestant

BASELINE = "FastAPI + torchvision"
ENGINES = {
    "OpenVINO fp32": ("openvino", "fp32"),
    "ONNX Runtime fp32": ("onnxruntime", "fp32"),
    "OpenVINO int8": ("openvino", "int8"),
}
"""Engine and precision of the bundle."""

LEAST_AGREEMENT = 0.95
"""Of the baseline's detections, with fp32: random weights magnify rounding."""


def contestants(weights: Path, bundles: Mapping[str, Path], peer_python: str) -> list[Contestant]:
    """The baseline first."""
    peer = [peer_python, "-m", "benchmarks.whole_service.fastapi_torchvision", str(weights)]
    return [
        Contestant(BASELINE, lambda port: [*peer, str(port)], "/health", _raw),
        *(_maskline(name, engine, bundles[precision]) for name, (engine, precision) in ENGINES.items()),
    ]


def _maskline(name: str, engine: str, bundle: Path) -> Contestant:
    command = [sys.executable, "-m", "server", str(bundle), "--engine", engine, "--log-level", "warning", "--port"]
    return Contestant(name, lambda port: [*command, str(port)], "/health/ready", _raw)


def _raw(picture: bytes) -> tuple[bytes, str]:
    return picture, "application/octet-stream"


def agreeing(expected: Sequence[Sequence[Mapping[str, Any]]], answers: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """The part of the detections in pictures that other answers have as well, from either side: the smaller."""
    wanted, found = ([_found(one) for one in ones] for ones in (expected, answers))
    return min(agreement(wanted, found, 0.0), agreement(found, wanted, 0.0))


def _found(detections: Sequence[Mapping[str, Any]]) -> list[Found]:
    """Those with a mask."""
    return [Found(one["class_id"], one["score"], tuple(one["box"])) for one in detections if one["mask"]]
