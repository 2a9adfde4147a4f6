"""Builds a bundle for the server from weights.

    python export/build_engine.py --weights runs/nuclei/best.pt --output models/nuclei
    python export/build_engine.py --weights model_final.pkl --config config.yaml --output models/mine
    python export/build_engine.py --weights torchvision:maskrcnn_resnet50_fpn --output models/coco
    python export/build_engine.py --weights best.pt --output models/mine --precision int8 --calibration pictures/
    python export/build_engine.py --weights best.pt --output models/mine --engine tensorrt --precision fp16
    python export/build_engine.py --inspect FILE

The bundle is a folder with model.onnx and model.json, and with model.plan for TensorRT, which is built on the GPU that
will run it. It is compared with PyTorch, picture by picture, before it takes its place; a bundle that was there stays
until then. Exit status: 0 done, 2 wrong usage or weights, 3 the bundle does not give PyTorch's answers, or loses too
much average precision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.build_options import PLAN_OPTIONS, parser

if TYPE_CHECKING:
    from rich.console import Console

    from export.agreement import Report
    from export.int8 import Int8
    from export.model.config import InputConfig
    from export.model.mask_rcnn import MaskRCNN
    from export.tensorrt_plan import PlanRequest
    from export.weights import Given, Imported
    from server.contract.card import BundleFile, Canvas


INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class UsageError(Exception):
    """The command cannot do what it was asked for; the message is for the person who asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser(__doc__).parse_args(argv)
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
    except KeyboardInterrupt:
        console.print("build_engine: stopped; nothing was written.", markup=False)
        return INTERRUPTED


def _refuse_unavailable(arguments: argparse.Namespace) -> None:
    """Raises `UsageError` for options that do not go together."""
    int8 = arguments.precision == "int8"
    if int8 and arguments.engine == "tensorrt":
        raise UsageError("--precision int8 is for --engine onnx; for TensorRT, build with --precision fp16.")
    if int8 and arguments.calibration is None and not arguments.inspect:
        raise UsageError("--precision int8 needs --calibration DIR: pictures of the kind that it will be asked about.")
    if arguments.calibration is not None and not int8:
        raise UsageError("--calibration is for --precision int8.")
    idle = [name for name in PLAN_OPTIONS if getattr(arguments, name) is not None]
    if idle and arguments.engine != "tensorrt":
        raise UsageError(f"--{idle[0].replace('_', '-')} is for --engine tensorrt.")


def _expected_errors() -> tuple[type[Exception], ...]:
    from export.graph.bundle import OutputError
    from export.graph.precision import PrecisionError
    from export.pictures import PicturesError
    from export.tensorrt_machine import PlanError
    from export.weights import WeightsError

    return (UsageError, WeightsError, OutputError, PicturesError, PlanError, PrecisionError)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from rich.console import Console

    from export.findings import print_settings, print_weights
    from export.weights import load, resolve

    weights = arguments.weights or (arguments.inspect if isinstance(arguments.inspect, str) else None)
    if weights is None:
        raise UsageError("--weights is missing: name the file.")
    if arguments.output is None and not arguments.inspect:
        raise UsageError("--output is missing: name the folder for the bundle, or give --inspect.")
    if arguments.engine == "tensorrt" and not arguments.inspect:
        from export.tensorrt_plan import check_machine

        check_machine(arguments.timing_cache, arguments.hardware_compatible)
    path = resolve(weights)  # before the status, which would overwrite a download's bar
    with console.status("Reading the weights"):
        imported = load(path, _given(arguments))
    if arguments.inspect:
        print_weights(imported, Console())
        print_settings(imported, Console())
        return 0
    _check_sizes(imported.model.config.input, arguments.canvas)
    if arguments.engine == "tensorrt":
        _check_limits(imported.model)
    print_settings(imported, console)
    return _verdict(_build(imported, arguments, console), arguments.output, console)


def _given(arguments: argparse.Namespace) -> Given:
    from dataclasses import fields

    from export.weights import Given

    return Given(**{field.name: getattr(arguments, field.name) for field in fields(Given)})


def _check_sizes(rule: InputConfig, canvases: Sequence[Canvas] | None) -> None:
    from export.serving import missing_canvas

    if rule.min_size > rule.max_size:
        raise UsageError(f"The shortest edge, {rule.min_size}, is above the limit of the longest, {rule.max_size}.")
    for height, width in canvases or ():
        if height % rule.size_divisor or width % rule.size_divisor:
            raise UsageError(f"Canvas {height}x{width} is not a multiple of {rule.size_divisor} on both sides.")
    missing = missing_canvas(rule, canvases) if canvases else None
    if missing:
        raise UsageError("No --canvas holds the largest pictures of the resize rule: add {}x{}.".format(*missing))


def _check_limits(model: MaskRCNN) -> None:
    from export.graph.trace import tensorrt_obstacle

    obstacle = tensorrt_obstacle(model.config)
    if obstacle:
        raise UsageError(obstacle)


def _build(imported: Imported, arguments: argparse.Namespace, console: Console) -> list[Report]:
    """Writes and verifies the bundle; it takes its place only if the reports accept it."""
    from pydantic import ValidationError

    from export.graph import bundle

    output = Path(arguments.output).absolute()
    canvases = _canvases(imported.model.config.input, arguments)
    try:
        with bundle.replacing(output) as draft:
            return _build_in(draft, output.name, canvases, imported, arguments, console)
    except _RejectedError as rejected:
        return rejected.reports
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{first['loc'][0]} {first.get('input')!r} cannot be used: {first['msg']}.") from error


def _build_in(
    draft: Path,
    name: str,
    canvases: list[Canvas] | None,
    imported: Imported,
    arguments: argparse.Namespace,
    console: Console,
) -> list[Report]:
    """Raises `_RejectedError` with reports that do not accept what was built."""
    from export.graph import bundle
    from export.verify import ask_pytorch, summary, verify

    model, trials = imported.model, None
    int8 = _int8(model, canvases, arguments, console) if arguments.precision == "int8" else None
    while True:
        files = list(_compiled(int8 or model, draft, canvases, arguments, console))
        card = bundle.make_card(
            model.config,
            name=name,
            model_version=arguments.model_version,
            weights=imported.path,
            files=files,
            canvases=canvases or "exact",
        )
        bundle.save_card(card, draft)
        trials = trials or ask_pytorch(model, card, arguments.verify, console)
        reports = verify(model, draft, arguments.verify, console, max_loss=arguments.max_loss, trials=trials)
        if all(report.accepted for report in reports):
            break
        if int8 is None or not any(report.loss for report in reports) or not int8.spare_one_more():
            raise _RejectedError(reports)
        console.print(f"Too much average precision is lost: {int8.precise[-1]} stays in fp32.", markup=False)
    found = summary(reports)
    if int8 is not None:
        console.print(int8.table())
        found["int8"] = int8.to_dict()
    bundle.save_card(bundle.with_verification(card, found), draft)
    return reports


def _int8(model: MaskRCNN, canvases: list[Canvas] | None, arguments: argparse.Namespace, console: Console) -> Int8:
    from export.graph.inlined import inlined
    from export.graph.precision import fold_norms
    from export.graph.trace import trace
    from export.int8 import calibration_examples, to_int8
    from export.serving import serving_input

    examples = calibration_examples(arguments.calibration)
    with console.status("Tracing the model (about a minute)"):
        proto = inlined(trace(fold_norms(model)))
    return to_int8(proto, examples, serving_input(model.config.input, canvases or "exact"), console)


def _canvases(rule: InputConfig, arguments: argparse.Namespace) -> list[Canvas] | None:
    """The bundle's list; None: every picture has a canvas of its own size."""
    from export.serving import listed_canvases

    return arguments.canvas or (listed_canvases(rule) if arguments.engine == "tensorrt" else None)


def _compiled(
    model: MaskRCNN | Int8, draft: Path, canvases: list[Canvas] | None, arguments: argparse.Namespace, console: Console
) -> Iterator[BundleFile]:
    """The files of the bundle, written into `draft`."""
    from export.graph import bundle
    from export.graph.precision import half_precision
    from export.graph.trace import trace
    from export.int8 import Int8
    from server.engines import openvino_

    if isinstance(model, Int8):
        file = bundle.save_onnx(model.graph(), draft, "int8")
        yield file
        if openvino_.is_installed():  # the same graph has no functions, and both find their patterns in it
            yield file.model_copy(update={"engine": "openvino"})
        return
    with console.status("Tracing the model (about a minute)"):
        proto = trace(half_precision(model) if arguments.precision == "fp16" else model)
        yield bundle.save_onnx(proto, draft, arguments.precision)
        if arguments.precision == "fp32" and openvino_.is_installed():
            yield bundle.save_inlined(proto, draft, arguments.precision)
    if arguments.engine == "tensorrt" and canvases:
        from export.tensorrt_plan import build_plan

        plan = build_plan(draft / bundle.ONNX_FILE, _plan_request(canvases, arguments), console)
        for warning in plan.warnings:
            console.print(f"TensorRT: {warning}", markup=False, highlight=False)
        yield bundle.save_plan(plan, draft, arguments.precision)


def _plan_request(canvases: list[Canvas], arguments: argparse.Namespace) -> PlanRequest:
    from export.tensorrt_plan import DEFAULT_MAX_BATCH, PlanRequest, profiles_of

    return PlanRequest(
        profiles=profiles_of(canvases, arguments.max_batch or DEFAULT_MAX_BATCH),
        workspace_gib=arguments.workspace_gib,
        timing_cache=arguments.timing_cache,
        version_compatible=bool(arguments.version_compatible),
        hardware_compatible=arguments.hardware_compatible,
    )


class _RejectedError(Exception):
    """Leaves the block that would put the bundle in its place."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__()
        self.reports = reports


def _verdict(reports: list[Report], output: Path, console: Console) -> int:
    """Says what came out; the exit status."""
    for report in reports:
        console.print(report.table())
    faults = [report.fault for report in reports if not report.accepted]
    if faults:
        console.print(f"build_engine: {faults[0]} Nothing was written to {output}.", markup=False)
        return 3
    for report in reports:
        if report.warning:
            console.print(report.warning, markup=False, highlight=False)
    console.print(f"{output} is ready.", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
