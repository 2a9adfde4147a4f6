"""The command line of build_engine.py: what it takes, and values that cannot be meant. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

PLAN_OPTIONS = ("max_batch", "timing_cache", "workspace_gib", "version_compatible", "hardware_compatible")
"""Options that mean something to TensorRT only."""


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="build_engine.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add(
        "--weights",
        metavar="SRC",
        help="a checkpoint of export/train.py, torchvision's .pth, detectron2's .pkl or .pth, Matterport's .h5, or "
        "torchvision:maskrcnn_resnet50_fpn, torchvision:maskrcnn_resnet50_fpn_v2 (fetched)",
    )
    add("--output", type=Path, metavar="DIR", help="the bundle; its last part becomes the model's name")
    add("--model-version", default="1", metavar="V", help="default: %(default)s")
    add("--family", choices=("native", "torchvision", "detectron2", "matterport"), help="default: recognised")
    add("--classes", type=Path, metavar="FILE", help="other class names, one a line, without the background")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp16: the networks in half; int8: their layers in 8 bits (needs --calibration); boxes and scores are in "
        "float32 in all (default: %(default)s)",
    )
    add("--engine", choices=("onnx", "tensorrt"), default="onnx", help="tensorrt adds a plan (default: %(default)s)")
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures that set the ranges of int8: at least 4, of which at most 20 are taken",
    )
    add(
        "--canvas",
        type=_canvas,
        nargs="+",
        metavar="HxW",
        help="a list of canvases; default: each picture's own size, for tensorrt a short list that holds every picture",
    )
    add("--min-size", type=_positive, metavar="N", help="shortest edge after the resize, pixels")
    add("--max-size", type=_positive, metavar="N", help="limit of the longest edge after the resize, pixels")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="what an imported file does not tell: detectron2's config.yaml, "
        "Matterport's values or torchvision's arguments as JSON",
    )
    add("--bn-eps", type=float, metavar="E", help="epsilon of an imported model's BatchNorm")
    add("--max-detections", type=_positive, metavar="N", help="most detections a picture; a query cannot pass it")
    add("--score-threshold", type=_fraction, metavar="T", help="least score; a query cannot go below it")
    add("--verify", type=Path, metavar="DIR", help="pictures to compare on: a folder, or COCO data")
    add(
        "--max-loss",
        type=_points,
        default=1.0,
        metavar="P",
        help="AP points that the bundle may lose on annotated --verify pictures (default: %(default)s)",
    )
    _add_plan_options(made)
    add("--inspect", nargs="?", const=True, metavar="FILE", help="say what the weights are, and build nothing")
    return made


def _add_plan_options(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("with --engine tensorrt").add_argument
    add("--max-batch", type=_positive, metavar="N", help="largest batch (default: 8)")
    add("--timing-cache", type=Path, metavar="FILE", help="timings of earlier builds, read and brought up to date")
    add("--workspace-gib", type=_above_zero, metavar="N", help="limit of TensorRT's scratch memory")
    add("--version-compatible", action="store_const", const=True, help="a plan for later versions of TensorRT too")
    add(
        "--hardware-compatible",
        choices=("ampere+", "same"),
        help="a plan for every GPU since Ampere, or for all of this compute capability",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _points(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _canvas(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text} is not HEIGHTxWIDTH, such as 800x1088")
    return int(height), int(width)
