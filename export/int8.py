"""A model in int8: ranges from pictures, how much each part of it costs, and which parts stay in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph.int8 import PARTS, PERCENTILE, Feed, calibrated, quantised
from export.pictures import Example, PicturesError, read_examples
from server.contract.card import Input
from server.preprocess import prepare

if TYPE_CHECKING:
    from onnxruntime.quantization.calibrate import TensorsData
    from rich.console import Console
    from rich.table import Table

FEWEST = 4
"""Fewer say too little of the ranges."""

ASKED = 4
"""Pictures on which the parts are compared."""

MOST_PRECISE = 3
"""Parts that may stay in float32: with more of them, int8 is hardly worth its name."""

Rows = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Detections [M, 7] and masks [M, S, S]."""


@dataclass
class Int8:
    """A graph, the ranges of its tensors, and how much the answers move when a part of it is in int8."""

    proto: onnx.ModelProto
    ranges: TensorsData
    pictures: int
    sensitivity: dict[str, float]
    """0: the same answers; 1: nothing is found again. In the order of `PARTS`."""
    precise: list[str] = field(default_factory=list)
    """Parts that stay in float32."""

    def graph(self) -> onnx.ModelProto:
        return quantised(self.proto, self.ranges, [part for part in PARTS if part not in self.precise])

    def spare_one_more(self) -> bool:
        """Keeps the part in float32 that moves the answers most of those in int8; False: enough of them are."""
        if len(self.precise) == MOST_PRECISE:
            return False
        quantised = [part for part in self.sensitivity if part not in self.precise]
        self.precise.append(max(quantised, key=self.sensitivity.__getitem__))
        return True

    def to_dict(self) -> dict[str, Any]:
        """For `model.json`."""
        return {
            "calibration_pictures": self.pictures,
            "calibration": f"percentile {PERCENTILE:g}",
            "sensitivity": {part: round(moved, 4) for part, moved in self.sensitivity.items()},
            "precise": [*self.precise, "predictors"],
        }

    def table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table("In int8", "answers move by", "kept in", title_justify="left")
        for part, moved in self.sensitivity.items():
            table.add_row(part, f"{moved:.2%}", "fp32" if part in self.precise else "int8")
        table.add_row("predictors", "", "fp32")
        return table


def calibration_examples(folder: Path) -> list[Example]:
    """Pictures that set the ranges (`read_examples`). Raises `PicturesError` where there are too few usable ones."""
    examples = read_examples(folder)
    if len(examples) < FEWEST:
        raise PicturesError(f"int8 takes its ranges from at least {FEWEST} pictures; {folder} has {len(examples)}.")
    return examples


def to_int8(proto: onnx.ModelProto, examples: Sequence[Example], rule: Input, console: Console) -> Int8:
    """Calibrates a graph without functions on pictures, and measures its parts."""
    from rich.progress import track

    counted = track(examples, "Calibrating", console=console, transient=True)
    ranges = calibrated(proto, (_feed(example, rule) for example in counted))
    asked = [_feed(example, rule) for example in examples[:: len(examples) // ASKED][:ASKED]]
    expected = _answers(proto, asked)
    moved = {}
    for part in track(list(PARTS), "Measuring the parts in int8", console=console, transient=True):
        moved[part] = _moved(expected, _answers(quantised(proto, ranges, [part]), asked))
    return Int8(proto, ranges, len(examples), moved)


def _feed(example: Example, rule: Input) -> Feed:
    canvas = prepare(example.picture, rule)
    return {"images": canvas.image[None], "windows": np.array([canvas.window_xyxy], np.float32)}


def _answers(proto: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Rows]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [tuple(session.run(["detections", "masks"], dict(feed))) for feed in feeds]


def _moved(expected: Sequence[Rows], found: Sequence[Rows]) -> float:
    """How much of the answers is not found again, 0 to 1, each detection counted by its score."""
    pairs = [_kept(*answers) for answers in zip(expected, found, strict=True)]
    weight = sum(score.sum() for _, score in pairs)
    return float(1 - sum((kept * score).sum() for kept, score in pairs) / weight) if weight else 0.0


def _kept(expected: Rows, found: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much of each expected detection is found again, 0 to 1, and its score.

    Of the detection of its class that overlaps it most: the IoU of the boxes, times that of the masks (of
    probabilities: sum of the lesser over sum of the larger), times what the score keeps.
    """
    (rows, masks), (others, other_masks) = expected, found
    overlap = _ious(rows[:, 1:5], others[:, 1:5]) * (rows[:, None, 6] == others[None, :, 6])
    best = overlap.argmax(axis=1)
    lesser = np.minimum(masks, other_masks[best]).sum(axis=(1, 2), dtype=np.float64)
    larger = np.maximum(masks, other_masks[best]).sum(axis=(1, 2), dtype=np.float64)
    of_mask = np.divide(lesser, larger, out=np.zeros_like(lesser), where=larger > 0)
    of_score = 1 - np.abs(rows[:, 5] - others[best, 5])
    return overlap.max(axis=1) * of_mask * of_score, rows[:, 5].astype(np.float64)


def _ious(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """[A, B] of boxes [A, 4] and [B, 4]."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inside = sides.clip(min=0).prod(axis=2, dtype=np.float64)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1, dtype=np.float64) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - inside
    ious: NDArray[np.float64] = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return ious
