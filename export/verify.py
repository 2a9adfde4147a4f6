"""Is the bundle the model? The same pictures through PyTorch and through each file of the bundle, compared.

All answer through `server.pipeline`, so what is compared is what the server sends. Besides single pictures, batches of
a picture, its mirror image and an empty canvas go through the bundle, and each of the three must give PyTorch's answer
for it alone. What agrees, and what is accepted, is in `export.agreement`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.agreement import MOST_LOST, Judged, Report, compare
from export.annotated import Annotations, annotations_of
from export.model.mask_rcnn import MaskRCNN
from export.pictures import Example, read_examples
from export.serving import serving_input
from export.torch_engine import TorchEngine
from server.contract.card import BundleFile, Input, ModelCard
from server.contract.errors import MasklineError
from server.contract.wire import ImageResult, PredictOptions
from server.pipeline import Pipeline
from server.preprocess import Canvas, prepare
from server.repository import load_bundle

if TYPE_CHECKING:
    from rich.console import Console

BATCHED = 4
"""Pictures that are also compared in batches."""

ENOUGH_PIXELS = 2_500_000
"""Canvas pixels through PyTorch after which no more generated pictures are compared, but two always are: a ResNet-50
takes some ten seconds a million on two cores."""

NUDGE = 2**-21
"""Relative change of the weights: a few times float32's rounding."""


@dataclass(frozen=True)
class View:
    """A canvas with a picture on it; `empty`: the graph gets a window without a pixel."""

    name: str
    canvas: Canvas
    empty: bool = False


@dataclass(frozen=True)
class Trial:
    """A picture and PyTorch's answer; what makes a batch with it, and PyTorch's answer for each of that alone."""

    example: Example
    view: View
    expected: ImageResult
    batch: list[tuple[View, ImageResult]]


def verify(
    model: MaskRCNN,
    bundle_dir: Path,
    source: Path | None,
    console: Console,
    *,
    max_loss: float = MOST_LOST,
    trials: list[Trial] | None = None,
) -> list[Report]:
    """A report on each file of the bundle, in the card's order.

    Compares it with `model` on the pictures of `source` (see `read_examples`), or on generated ones; in other
    precisions too, `model` is the one in float32. `max_loss` is in points of average precision. `trials` are what
    `ask_pytorch` gave for an earlier bundle of this model. Raises `PicturesError` where there are no usable pictures.
    """
    card = load_bundle(bundle_dir).card
    trials = trials or ask_pytorch(model, card, source, console)
    annotations = annotations_of(source, list(_by_id(trials)), card.classes)
    own_canvases = serving_input(model.config.input)
    exact = _answers_on(own_canvases, model, card, trials) if annotations and card.input != own_canvases else {}
    reports = []
    for file in card.files:
        report = Report.of(_called(file, card.files), file.precision, max_loss)
        with console.status(f"Comparing {report.file} with PyTorch"):
            answers = _compare_file(report, bundle_dir, file, trials)
        if annotations and not report.failures:
            report.average_precision = _judged(annotations, trials, answers, exact, card.output.max_detections)
        if report.precision == "fp32" and report.rounding_fault:
            _compare_with_itself(report, model, card, trials)
        reports.append(report)
    return reports


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """For `model.json`: the figures of the ONNX file, and beside them the reports on other files by their paths."""
    first, *others = reports
    return {**first.to_dict(), **{report.file: report.to_dict() for report in others}}


def _called(file: BundleFile, files: Sequence[BundleFile]) -> str:
    """Its path; with the engine where an earlier entry has the same."""
    first = next(other for other in files if other.path == file.path)
    return file.path if first == file else f"{file.path} in {file.engine}"


def ask_pytorch(model: MaskRCNN, card: ModelCard, source: Path | None, console: Console) -> list[Trial]:
    """What is compared, with PyTorch's answers: these take most of the time."""
    from rich.progress import track

    reference = Pipeline(TorchEngine(model, card))
    examples = read_examples(source) if source else _affordable(read_examples(None), card)
    trials = []
    for i, example in enumerate(track(examples, "Answers of PyTorch", console=console, transient=True)):
        batched = i < BATCHED and (source or i == 0 or _pixels(example, card) * 3 * BATCHED <= ENOUGH_PIXELS)
        trials.append(_trial(reference, example, bool(batched)))
    return trials


def _trial(reference: Pipeline, example: Example, batched: bool) -> Trial:
    view = View(example.name, reference.prepare(example.picture))
    expected = _answer(reference, [view])[0]
    if not batched:
        return Trial(example, view, expected, [])
    mirrored = reference.prepare(np.ascontiguousarray(example.picture[:, ::-1]))
    blank = dataclasses.replace(view.canvas, image=np.zeros_like(view.canvas.image))
    others = [View(f"{example.name} mirrored", mirrored), View(f"{example.name} blank", blank, empty=True)]
    return Trial(example, view, expected, [(view, expected), *((v, _answer(reference, [v])[0]) for v in others)])


def _affordable(examples: list[Example], card: ModelCard) -> list[Example]:
    """The first of the generated pictures."""
    spent = np.cumsum([_pixels(example, card) for example in examples])
    return examples[: max(2, int((spent <= ENOUGH_PIXELS).sum()))]


def _pixels(example: Example, card: ModelCard) -> int:
    h, w = prepare(example.picture, card.input).image.shape[:2]
    return int(h * w)


def _compare_file(report: Report, bundle_dir: Path, file: BundleFile, trials: list[Trial]) -> list[ImageResult]:
    """Fills the report and returns the file's answers to the trials; one that it cannot give ends the comparison."""
    try:
        served = Pipeline.open(bundle_dir, file.engine)
        try:
            return [_compare_trial(report, served, trial) for trial in trials]
        finally:
            served.engine.close()
    except MasklineError as error:
        report.failures.append(f"{file.path} cannot answer: {error}")
        return []


def _compare_trial(report: Report, served: Pipeline, trial: Trial) -> ImageResult:
    found = _answer(served, [trial.view])[0]
    report.pictures += 1
    compare(report, trial.expected, found, trial.view.name, served.card.output)
    batch = trial.batch[: served.engine.max_batch]
    if len(batch) > 1:
        report.batches += 1
        answers = _answer(served, [view for view, _ in batch])
        for (view, expected), answer in zip(batch, answers, strict=True):
            compare(report, expected, answer, f"{view.name} in a batch", served.card.output)
    return found


def _answer(pipeline: Pipeline, views: list[View]) -> list[ImageResult]:
    """All that the graph finds, down to its own limits."""
    options = PredictOptions(score_threshold=0.0, max_detections=pipeline.card.output.max_detections)
    shown = [dataclasses.replace(v.canvas, window_xyxy=(0, 0, 0, 0)) if v.empty else v.canvas for v in views]
    rows = pipeline.infer(shown)
    return [pipeline.finish(view.canvas, of_one, options) for view, of_one in zip(views, rows, strict=True)]


def _compare_with_itself(report: Report, model: MaskRCNN, card: ModelCard, trials: list[Trial]) -> None:
    """Adds to the report how much of PyTorch's answers changes when its weights are nudged."""
    nudged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in nudged.parameters():
            weight.mul_(1 + NUDGE * torch.randn(weight.shape, generator=generator))
    pipeline, own = Pipeline(TorchEngine(nudged, card)), Report()
    for trial in trials:
        compare(own, trial.expected, _answer(pipeline, [trial.view])[0], trial.view.name, card.output)
    report.unsteady_detections = own.disagreeing / max(own.detections, 1)
    report.unsteady_mask_pixels = own.mask_pixels_differing / max(own.mask_pixels, 1)


def _judged(
    annotations: Annotations,
    trials: list[Trial],
    answers: list[ImageResult],
    exact: dict[int, ImageResult],
    max_detections: int,
) -> dict[str, Judged]:
    found = {image_id: answer for (image_id, _), answer in zip(_by_id(trials).items(), answers, strict=True)}
    pytorch, bundle, without_list = (
        annotations.average_precision(of.items(), max_detections) if of else {} for of in (_by_id(trials), found, exact)
    )
    return {kind: Judged(pytorch[kind], bundle[kind], without_list.get(kind)) for kind in pytorch}


def _by_id(trials: list[Trial]) -> dict[int, ImageResult]:
    """PyTorch's answers to pictures of COCO data, which all have an id if one has."""
    return {trial.example.image_id: trial.expected for trial in trials if trial.example.image_id is not None}


def _answers_on(canvases: Input, model: MaskRCNN, card: ModelCard, trials: list[Trial]) -> dict[int, ImageResult]:
    """PyTorch's answers by another rule of canvases than the bundle's: the difference is what the bundle's costs."""
    pipeline = Pipeline(TorchEngine(model, card.model_copy(update={"input": canvases})))
    views = [(t.example.image_id, View(t.view.name, pipeline.prepare(t.example.picture))) for t in trials]
    return {image_id: _answer(pipeline, [view])[0] for image_id, view in views if image_id is not None}
