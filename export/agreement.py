"""When two answers are the same: PyTorch's and a bundle's, detection by detection, and what comes of it.

Two detections agree when class, box and score do (`Tolerance`). One without a partner is excused where a rounding error
alone decides: its score is at the graph's threshold or at the score of the last of a full list, or its overlap with
another detection of its class is at the NMS threshold.

In float32 a bundle is accepted when at most one detection in 200 disagrees, and at most one mask pixel in 1000 among
those that agree: a proposal that only just survives in one of the two moves a detection by more than rounding. Some
models, untrained ones above all, magnify rounding until it shows. Where those limits are passed, PyTorch is compared
with itself, its weights nudged by a few roundings: the bundle may disagree with PyTorch twice as often as PyTorch then
does with itself, up to a quarter of the detections.

In half precision and in int8 a bundle is another approximation of the model: the report records how much agrees and
warns, and only answers that make no sense are refused. Where there are annotations, the average precision decides, in
any precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pycocotools import mask as coco_mask

from server.contract.card import Output, Precision
from server.contract.wire import Detection, ImageResult, RleMask

if TYPE_CHECKING:
    from rich.table import Table

NAMED = 5
"""Disagreements that a report tells one by one."""

MANY = 10
"""Detections of PyTorch in a picture of which an approximation finds at least one."""

WORTH_A_WARNING = 0.95
"""Part of PyTorch's detections below which the agreement of an approximation is warned of."""

MOST_LOST = 1.0
"""Points of average precision, where 100 is perfect, that a bundle may lose."""


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


HALF = Tolerance(box_px=1.0, score=0.02, iou=0.02)
"""What float16 does to a model that does not magnify rounding; see docs/weights.md."""


INT8 = Tolerance(box_px=4.0, score=0.1, iou=0.1)
"""What int8 does to a trained model; see docs/int8.md."""

TOLERANCES: dict[Precision, Tolerance] = {"fp32": Tolerance(), "fp16": HALF, "int8": INT8}


@dataclass(frozen=True)
class Judged:
    """Average precision, 0 to 1, on the pictures compared."""

    pytorch: float
    bundle: float
    pytorch_exact_canvases: float | None = None
    """With each picture on a canvas of its own size, where the bundle has a list; None: it has none."""

    @property
    def lost(self) -> float:
        return self.pytorch - self.bundle

    def __str__(self) -> str:
        said = f"{100 * self.bundle:.1f}, PyTorch's {100 * self.pytorch:.1f}"
        exact = self.pytorch_exact_canvases
        return said if exact is None else f"{said}, without the list of canvases {100 * exact:.1f}"


@dataclass
class Report:
    """What was compared of one file of a bundle and what came out."""

    file: str = "model.onnx"
    precision: Precision = "fp32"
    tolerance: Tolerance = field(default_factory=Tolerance)
    max_loss: float = MOST_LOST
    """Points of average precision, for each of boxes and masks."""
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
    average_precision: dict[str, Judged] = field(default_factory=dict)
    """Of "box" and "mask", where the pictures are annotated."""
    disagreements: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Pictures that the bundle could not answer, or in which it finds nothing where PyTorch finds many."""

    @classmethod
    def of(cls, file: str, precision: Precision, max_loss: float = MOST_LOST) -> Report:
        return cls(file, precision, TOLERANCES[precision], max_loss)

    @property
    def fault(self) -> str:
        """Why the bundle is refused, in one sentence; empty when it is not."""
        if self.failures:
            return self.failures[0]
        return (self.rounding_fault if self.precision == "fp32" else self._nonsense) or self.loss

    @property
    def rounding_fault(self) -> str:
        """What is more than rounding may do."""
        if self.disagreeing > self._limit(self.tolerance.disagreeing, self.unsteady_detections) * self.detections:
            return f"{self.disagreeing} of {self.detections} detections are not PyTorch's: {self.disagreements[0]}"
        pixels = self._limit(self.tolerance.mask_pixels, self.unsteady_mask_pixels) * self.mask_pixels
        if self.mask_pixels_differing > pixels:
            return f"{self.mask_pixels_differing} of {self.mask_pixels} mask pixels are not PyTorch's."
        return ""

    @property
    def _nonsense(self) -> str:
        if self.detections >= MANY and not self.agreeing:
            return f"None of {self.detections} detections is PyTorch's: {self.disagreements[0]}"
        return ""

    @property
    def loss(self) -> str:
        """That too much average precision is lost."""
        for kind, judged in self.average_precision.items():
            if 100 * judged.lost > self.max_loss:
                return f"Its {kind} AP is {judged}: more than {self.max_loss:.1f} is lost."
        return ""

    def _limit(self, steady: float, unsteady: float | None) -> float:
        return max(steady, min(2 * (unsteady or 0.0), self.tolerance.unsteady))

    @property
    def accepted(self) -> bool:
        return not self.fault

    @property
    def agreement(self) -> float:
        """Part of PyTorch's detections that the bundle finds again."""
        return self.agreeing / self.detections if self.detections else 1.0

    @property
    def warning(self) -> str:
        """What a person should know of an accepted bundle; empty when there is nothing."""
        if self.precision == "fp32" or self.agreement >= WORTH_A_WARNING:
            return ""
        judge = "" if self.average_precision else " An annotated --verify DIR tells what that costs in AP."
        return (
            f"Warning: {self.file} in {self.precision} finds only {self.agreement:.1%} of PyTorch's detections again, "
            f"{self._within}.{judge}"
        )

    @property
    def _within(self) -> str:
        return f"within {self.tolerance.box_px:g} px and {self.tolerance.score:g} of score"

    def to_dict(self) -> dict[str, Any]:
        """For `model.json`."""
        verdict = "accepted" if self.accepted else "refused"
        return {"verdict": verdict, "agreement": round(self.agreement, 4), **dataclasses.asdict(self)}

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(f"{self.file} against PyTorch", "", title_justify="left")
        for row in self._rows():
            table.add_row(*row)
        return table

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "pictures, batches", f"{self.pictures}, {self.batches}"
        yield "pictures without detections", f"{self.pictures_without_detections}"
        yield "detections", f"{self.detections}"
        yield "agree, excused, disagree", f"{self.agreeing}, {self.excused}, {self.disagreeing}"
        if self.precision != "fp32":
            yield "found again", f"{self.agreement:.1%}, {self._within}"
        yield "largest difference of a box", f"{self.max_box_difference_px:.2g} px"
        yield "largest difference of a score", f"{self.max_score_difference:.2g}"
        yield "mask pixels that differ", f"{self.mask_pixels_differing} of {self.mask_pixels}"
        if self.unsteady_detections is not None:
            yield "detections that PyTorch itself changes", f"{self.unsteady_detections:.1%}, weights nudged"
        for kind, judged in self.average_precision.items():
            yield f"{kind} AP", str(judged)
        yield "verdict", "accepted" if self.accepted else "refused"


def compare(report: Report, expected: ImageResult, found: ImageResult, name: str, limits: Output) -> None:
    """Adds the picture `name` to the report: PyTorch's answer, the bundle's, and the limits of its graph."""
    pairs, missing, surplus = _pairs(expected.detections, found.detections, report.tolerance)
    report.detections += len(expected.detections)
    report.pictures_without_detections += not (expected.detections or found.detections)
    report.agreeing += len(pairs)
    if not found.detections and len(expected.detections) >= MANY:
        report.failures.append(f"In {name}, PyTorch finds {len(expected.detections)} objects and the bundle none.")
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
