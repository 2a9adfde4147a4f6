"""Is the bundle the model? The same pictures through PyTorch and through the bundle, detection by detection.

Both answer through `server.pipeline`, so what is compared is what the server sends. Besides single pictures, batches of
a picture, its mirror image and an empty canvas go through the bundle, and each of the three must give PyTorch's answer
for it alone.

Two detections agree when class, box and score do (`Tolerance`). One without a partner is excused where a rounding error
alone decides: its score is at the graph's threshold or at the score of the last of a full list, or its overlap with
another detection of its class is at the NMS threshold. The bundle is accepted when at most one detection in 200
disagrees, and at most one mask pixel in 1000 among those that agree: a proposal that only just survives in one of the
two moves a detection by more than rounding.

Some models, untrained ones above all, magnify rounding until it shows. Where those limits are passed, PyTorch is
compared with itself, its weights nudged by a few roundings: the bundle may disagree with PyTorch twice as often as
PyTorch then does with itself, up to a quarter of the detections.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from export.model.mask_rcnn import MaskRCNN
from export.pictures import Example, read_examples
from export.torch_engine import TorchEngine
from server.contract.card import Output
from server.contract.wire import Detection, ImageResult, PredictOptions, RleMask
from server.pipeline import Pipeline
from server.preprocess import Canvas

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BATCHED = 4
"""Pictures that are also compared in batches."""

ENOUGH_PIXELS = 2_500_000
"""Canvas pixels through PyTorch after which no more generated pictures are compared, but two always are: a ResNet-50
takes some ten seconds a million on two cores."""

NUDGE = 2**-21
"""Relative change of the weights: a few times float32's rounding."""

NAMED = 5
"""Disagreements that a report tells one by one."""


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do; pixels are the picture's own."""

    box_px: float = 0.01
    score: float = 1e-4
    iou: float = 1e-3
    disagreeing: float = 1 / 200
    mask_pixels: float = 1 / 1000
    unsteady: float = 1 / 4
    """Of the detections, and of the mask pixels, however unsteady the model itself is."""


@dataclass
class Report:
    """What was compared and what came out."""

    tolerance: Tolerance = field(default_factory=Tolerance)
    pictures: int = 0
    batches: int = 0
    pictures_without_detections: int = 0
    detections: int = 0
    agreeing: int = 0
    excused: int = 0
    disagreeing: int = 0
    max_box_difference_px: float = 0.0
    max_score_difference: float = 0.0
    mask_pixels: int = 0
    mask_pixels_differing: int = 0
    unsteady_detections: float | None = None
    """Part of its detections that PyTorch itself changes when its weights are nudged; None: no need to ask."""
    unsteady_mask_pixels: float | None = None
    disagreements: list[str] = field(default_factory=list)

    @property
    def fault(self) -> str:
        """Why the bundle is refused, in one sentence; empty when it is not."""
        if self.disagreeing > self._limit(self.tolerance.disagreeing, self.unsteady_detections) * self.detections:
            return f"{self.disagreeing} of {self.detections} detections are not PyTorch's: {self.disagreements[0]}"
        pixels = self._limit(self.tolerance.mask_pixels, self.unsteady_mask_pixels) * self.mask_pixels
        if self.mask_pixels_differing > pixels:
            return f"{self.mask_pixels_differing} of {self.mask_pixels} mask pixels are not PyTorch's."
        return ""

    def _limit(self, steady: float, unsteady: float | None) -> float:
        return max(steady, min(2 * (unsteady or 0.0), self.tolerance.unsteady))

    @property
    def accepted(self) -> bool:
        return not self.fault

    def to_dict(self) -> dict[str, Any]:
        """For `model.json`."""
        return {"verdict": "accepted" if self.accepted else "refused", **dataclasses.asdict(self)}

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table("The bundle against PyTorch", "", title_justify="left")
        table.add_row("pictures, batches of three", f"{self.pictures}, {self.batches}")
        table.add_row("pictures without detections", f"{self.pictures_without_detections}")
        table.add_row("detections", f"{self.detections}")
        table.add_row("agree, excused, disagree", f"{self.agreeing}, {self.excused}, {self.disagreeing}")
        table.add_row("largest difference of a box", f"{self.max_box_difference_px:.2g} px")
        table.add_row("largest difference of a score", f"{self.max_score_difference:.2g}")
        table.add_row("mask pixels that differ", f"{self.mask_pixels_differing} of {self.mask_pixels}")
        if self.unsteady_detections is not None:
            table.add_row("detections that PyTorch itself changes", f"{self.unsteady_detections:.1%}, weights nudged")
        table.add_row("verdict", "accepted" if self.accepted else "refused")
        return table


def verify(model: MaskRCNN, bundle_dir: Path, source: Path | None, console: Console) -> Report:
    """Compares `model` and the bundle on the pictures of `source` (see `read_examples`), or on generated ones.

    Raises `PicturesError` where there are no usable pictures.
    """
    from rich.progress import track

    served = Pipeline.open(bundle_dir)
    reference = Pipeline(TorchEngine(model, served.card))
    report = Report()
    examples = _affordable(read_examples(source), served) if source is None else read_examples(source)
    answers = []
    for i, example in enumerate(track(examples, "Comparing with PyTorch", console=console, transient=True)):
        answers.append(_compare_alone(report, reference, served, example))
        if i < BATCHED and (source or i == 0 or _pixels(served, example) * 3 * BATCHED <= ENOUGH_PIXELS):
            _compare_in_batch(report, reference, served, example)
    if not report.accepted:
        _compare_with_itself(report, model, served, examples, answers)
    served.engine.close()
    return report


def _affordable(examples: list[Example], served: Pipeline) -> list[Example]:
    """The first of the generated pictures."""
    spent = np.cumsum([_pixels(served, example) for example in examples])
    return examples[: max(2, int((spent <= ENOUGH_PIXELS).sum()))]


def _pixels(served: Pipeline, example: Example) -> int:
    h, w = served.prepare(example.picture).image.shape[:2]
    return int(h * w)


def _compare_alone(report: Report, reference: Pipeline, served: Pipeline, example: Example) -> ImageResult:
    """Returns PyTorch's answer."""
    canvas = served.prepare(example.picture)
    report.pictures += 1
    expected = _answer(reference, [canvas])[0]
    compare(report, expected, _answer(served, [canvas])[0], example.name, served.card.output)
    return expected


def _compare_with_itself(
    report: Report, model: MaskRCNN, served: Pipeline, examples: list[Example], answers: list[ImageResult]
) -> None:
    """Adds to the report how much of PyTorch's `answers` changes when its weights are nudged."""
    nudged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in nudged.parameters():
            weight.mul_(1 + NUDGE * torch.randn(weight.shape, generator=generator))
    pipeline, own = Pipeline(TorchEngine(nudged, served.card)), Report()
    for example, expected in zip(examples, answers, strict=True):
        found = _answer(pipeline, [served.prepare(example.picture)])[0]
        compare(own, expected, found, example.name, served.card.output)
    report.unsteady_detections = own.disagreeing / max(own.detections, 1)
    report.unsteady_mask_pixels = own.mask_pixels_differing / max(own.mask_pixels, 1)


def _compare_in_batch(report: Report, reference: Pipeline, served: Pipeline, example: Example) -> None:
    canvas = served.prepare(example.picture)
    mirrored = served.prepare(np.ascontiguousarray(example.picture[:, ::-1]))
    blank = dataclasses.replace(canvas, image=np.zeros_like(canvas.image))
    found = _answer(served, [canvas, mirrored, blank], empty=2)
    expected = [*_answer(reference, [canvas]), *_answer(reference, [mirrored]), *_answer(reference, [blank], empty=0)]
    report.batches += 1
    for what, a, b in zip(("", " mirrored", " blank"), expected, found, strict=True):
        compare(report, a, b, f"{example.name}{what} in a batch", served.card.output)


def _answer(pipeline: Pipeline, canvases: list[Canvas], empty: int | None = None) -> list[ImageResult]:
    """All that the graph finds, down to its own limits. The canvas `empty` gets a window without a pixel."""
    options = PredictOptions(score_threshold=0.0, max_detections=pipeline.card.output.max_detections)
    shown = [dataclasses.replace(c, window_xyxy=(0, 0, 0, 0)) if i == empty else c for i, c in enumerate(canvases)]
    rows = pipeline.infer(shown)
    return [pipeline.finish(canvas, of_one, options) for canvas, of_one in zip(canvases, rows, strict=True)]


def compare(report: Report, expected: ImageResult, found: ImageResult, name: str, limits: Output) -> None:
    """Adds the picture `name` to the report: PyTorch's answer, the bundle's, and the limits of its graph."""
    pairs, missing, surplus = _pairs(expected.detections, found.detections, report.tolerance)
    report.detections += len(expected.detections)
    report.pictures_without_detections += not (expected.detections or found.detections)
    report.agreeing += len(pairs)
    for a, b in pairs:
        # Answers are rounded to 4 and 6 decimals: more digits of a difference would be noise.
        report.max_box_difference_px = max(report.max_box_difference_px, round(_box_difference(a, b), 4))
        report.max_score_difference = max(report.max_score_difference, round(abs(a.score - b.score), 6))
        report.mask_pixels += a.area
        report.mask_pixels_differing += _mask_difference(a, b)
    for side, alone, verb in ((expected, missing, "is missing"), (found, surplus, "is surplus")):
        for detection in alone:
            if _is_tie(detection, side.detections, limits, report.tolerance):
                report.excused += 1
                continue
            report.disagreeing += 1
            if len(report.disagreements) < NAMED:
                box = ", ".join(f"{v:.2f}" for v in detection.box)
                what = f"{detection.class_name} with score {detection.score:.4f} at ({box})"
                report.disagreements.append(f"in {name}, {what} {verb}.")


def _pairs(
    expected: list[Detection], found: list[Detection], tolerance: Tolerance
) -> tuple[list[tuple[Detection, Detection]], list[Detection], list[Detection]]:
    """Detections that agree, then those of each list that are left over."""
    pairs, missing, free = [], [], list(found)
    for detection in expected:
        near = [other for other in free if _agree(detection, other, tolerance)]
        if not near:
            missing.append(detection)
            continue
        nearest = min(near, key=lambda other: _box_difference(detection, other))
        free.remove(nearest)
        pairs.append((detection, nearest))
    return pairs, missing, free


def _agree(a: Detection, b: Detection, tolerance: Tolerance) -> bool:
    return (
        a.class_id == b.class_id
        and abs(a.score - b.score) <= tolerance.score
        and _box_difference(a, b) <= tolerance.box_px
    )


def _box_difference(a: Detection, b: Detection) -> float:
    return max(abs(p - q) for p, q in zip(a.box, b.box, strict=True))


def _mask_difference(a: Detection, b: Detection) -> int:
    """Pixels that are in one mask only."""
    first, second = (_rle(d) for d in (a, b))
    union, both = coco_mask.area(coco_mask.merge([first, second])), coco_mask.merge([first, second], intersect=True)
    return int(union) - int(coco_mask.area(both))


def _rle(detection: Detection) -> dict[str, Any]:
    mask = detection.mask
    if not isinstance(mask, RleMask):
        raise AssertionError("Masks are asked for as compressed RLE. This is a bug.")
    return {"size": list(mask.size), "counts": mask.counts.encode()}


def _is_tie(detection: Detection, side: list[Detection], limits: Output, tolerance: Tolerance) -> bool:
    """Whether only rounding keeps a detection in or out; `side` is the list that it is in."""
    if detection.score - limits.score_threshold <= tolerance.score:
        return True
    if len(side) == limits.max_detections and detection.score - side[-1].score <= tolerance.score:
        return True
    rivals = [d for d in side if d is not detection and d.class_id == detection.class_id]
    return any(abs(iou - limits.nms_iou_threshold) <= tolerance.iou for iou in _ious(detection, rivals))


def _ious(detection: Detection, others: list[Detection]) -> Iterator[float]:
    x1, y1, x2, y2 = detection.box
    for other in others:
        u1, v1, u2, v2 = other.box
        inside = max(min(x2, u2) - max(x1, u1), 0.0) * max(min(y2, v2) - max(y1, v1), 0.0)
        union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inside
        yield inside / union if union else 0.0
