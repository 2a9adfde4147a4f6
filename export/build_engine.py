"""Builds a bundle for the server from weights.

    python export/build_engine.py --weights runs/nuclei/best.pt --output models/nuclei
    python export/build_engine.py --weights model_final.pkl --config config.yaml --output models/mine
    python export/build_engine.py --weights torchvision:maskrcnn_resnet50_fpn --output models/coco
    python export/build_engine.py --inspect FILE

The bundle is a folder with model.onnx and model.json. It is compared with PyTorch, picture by picture, before it takes
its place; a bundle that was there stays until then. Exit status: 0 done, 2 wrong usage or weights, 3 the bundle does
not give PyTorch's answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from export.model.config import InputConfig
    from export.verify import Report
    from export.weights import Given, Imported


class UsageError(Exception):
    """The command cannot do what it was asked for; the message is for the person who asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    console = Console(stderr=True)
    try:
        _refuse_unavailable(arguments)
        return _run(arguments, console)
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        console.print(f"build_engine: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_engine.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
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
    add("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    add("--engine", choices=("onnx", "tensorrt"), default="onnx", help="default: %(default)s")
    add("--calibration", type=Path, metavar="DIR", help="pictures that set the ranges of int8")
    add("--max-batch", type=_positive, metavar="N", help="largest batch of a TensorRT engine")
    add("--canvas", type=_canvas, nargs="+", metavar="HxW", help="a list of canvases; default: each picture's own size")
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
    add("--inspect", nargs="?", const=True, metavar="FILE", help="say what the weights are, and build nothing")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
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


def _refuse_unavailable(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for what the command line of a later version can do."""
    wants = {
        f"--precision {arguments.precision}": arguments.precision != "fp32",
        f"--engine {arguments.engine}": arguments.engine != "onnx",
        "--calibration": arguments.calibration is not None,
        "--max-batch": arguments.max_batch is not None,
    }
    for what, wanted in wants.items():
        if wanted:
            raise UsageError(f"{what} is not available in this version.")


def _expected_errors() -> tuple[type[Exception], ...]:
    from export.graph.bundle import OutputError
    from export.pictures import PicturesError
    from export.weights import WeightsError

    return (UsageError, WeightsError, OutputError, PicturesError)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from rich.console import Console

    from export.weights import load, resolve

    weights = arguments.weights or (arguments.inspect if isinstance(arguments.inspect, str) else None)
    if weights is None:
        raise UsageError("--weights is missing: name the file.")
    if arguments.output is None and not arguments.inspect:
        raise UsageError("--output is missing: name the folder for the bundle, or give --inspect.")
    path = resolve(weights)  # before the status, which would overwrite a download's bar
    with console.status("Reading the weights"):
        imported = load(path, _given(arguments))
    if arguments.inspect:
        _inspect(imported)
        _tell(imported, Console())
        return 0
    _check_sizes(imported.model.config.input, arguments.canvas)
    _tell(imported, console)
    report = _build(imported, arguments, console)
    console.print(report.table())
    if report.accepted:
        console.print(f"{arguments.output} is ready.", markup=False)
        return 0
    console.print(f"build_engine: {report.fault} Nothing was written to {arguments.output}.", markup=False)
    return 3


def _given(arguments: argparse.Namespace) -> Given:
    from dataclasses import fields

    from export.weights import Given

    return Given(**{field.name: getattr(arguments, field.name) for field in fields(Given)})


def _check_sizes(rule: InputConfig, canvases: Sequence[tuple[int, int]] | None) -> None:
    if rule.min_size > rule.max_size:
        raise UsageError(f"The shortest edge, {rule.min_size}, is above the limit of the longest, {rule.max_size}.")
    for height, width in canvases or ():
        if height % rule.size_divisor or width % rule.size_divisor:
            raise UsageError(f"Canvas {height}x{width} is not a multiple of {rule.size_divisor} on both sides.")


def _tell(imported: Imported, console: Console) -> None:
    """What the weights do not hold, and where it was taken from."""
    from rich.table import Column, Table

    if imported.model.config.family == "native":
        return
    table = Table(*(Column(title, overflow="fold") for title in ("What the weights do not tell", "value", "from")))
    for setting in imported.settings:
        table.add_row(setting.name, str(setting.value), setting.origin)
    console.print(table)
    if imported.unused:
        console.print(f"Not used of the configuration: {', '.join(imported.unused)}.", markup=False)
    for remark in imported.remarks:
        console.print(remark, markup=False, highlight=False)


def _build(imported: Imported, arguments: argparse.Namespace, console: Console) -> Report:
    """Writes and verifies the bundle; it takes its place only if the report accepts it."""
    from pydantic import ValidationError

    from export.graph import bundle
    from export.graph.trace import trace
    from export.verify import verify

    model, output = imported.model, Path(arguments.output).absolute()
    try:
        with bundle.replacing(output) as draft:
            with console.status("Tracing the model (about a minute)"):
                files = [bundle.save_onnx(trace(model), draft)]
            card = bundle.make_card(
                model.config,
                name=output.name,
                model_version=arguments.model_version,
                weights=imported.path,
                files=files,
                canvases=arguments.canvas or "exact",
            )
            bundle.save_card(card, draft)
            report = verify(model, draft, arguments.verify, console)
            if not report.accepted:
                raise _RejectedError(report)
            bundle.save_card(bundle.with_verification(card, report.to_dict()), draft)
    except _RejectedError as rejected:
        return rejected.report
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{first['loc'][0]} {first.get('input')!r} cannot be used: {first['msg']}.") from error
    return report


class _RejectedError(Exception):
    """Leaves the block that would put the bundle in its place."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.fault)
        self.report = report


def _inspect(imported: Imported) -> None:
    from rich.console import Console
    from rich.table import Table

    config = imported.model.config
    backbone, heads = config.backbone, config.heads
    table = Table(title=str(imported.path), show_header=False, title_justify="left")
    containers = {"torch": "torch archive", "pickle": "pickle of arrays", "hdf5": "HDF5 (Keras)"}
    normed = "with BatchNorm" if config.fpn.norm else "with biases"
    rows = {
        "family": config.family,
        "file": f"{containers[imported.container]}, {imported.tensors} tensors",
        "backbone": f"ResNet-{backbone.depth}, stages of {backbone.stage_widths}, BatchNorm eps {backbone.bn_eps:g}",
        "pyramid": f"{config.fpn.channels} channels, {normed}",
        "anchors a location": f"{len(config.rpn.cells[0])}",
        "box head": f"{len(heads.box_conv_widths)} convolutions, {len(heads.box_fc_widths)} fully connected",
        "mask head": f"{len(heads.mask_conv_widths)} convolutions",
        "parameters": f"{sum(p.numel() for p in imported.model.parameters()):,}",
        "classes": f"{config.num_classes - 1}: {', '.join(config.classes[1:])}",
        "picture": f"shortest edge {config.input.min_size}, longest at most {config.input.max_size}",
        "detections": f"at most {config.detection.max_detections}, scores above {config.detection.score_threshold}",
        "masks": f"{config.mask_size} x {config.mask_size}, pasted as {config.mask_paste} does",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
