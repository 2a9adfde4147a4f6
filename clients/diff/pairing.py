"""Which objects of two answers for one picture are the same.

Shapes: n objects in A, m in B. Frame: the picture as a person sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clients.errors import InvalidAnswerError
from clients.masks import to_counts
from clients.prediction import Detection, Prediction
from server.contract import rle

IOU_THRESHOLD = 0.5

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One object in both answers; `iou` is that of its masks."""

    a: Detection
    b: Detection
    iou: float

    @property
    def score_change(self) -> float:
        return self.b.score - self.a.score


@dataclass(frozen=True)
class Single:
    """An object in one answer only. `unsure`: the score of the same one in the other, where it is below the threshold;
    None: it is not there."""

    found: Detection
    unsure: float | None


@dataclass(frozen=True)
class Comparison:
    """`kept`: of the same class in both. `changed`: at the same place, of another class. `lost`: in A only, `gained`:
    in B only."""

    kept: tuple[Pair, ...]
    changed: tuple[Pair, ...]
    lost: tuple[Single, ...]
    gained: tuple[Single, ...]

    @property
    def change(self) -> float:
        """How much is different, in objects: those not kept, and of the kept ones what their masks do not share."""
        return len(self.lost) + len(self.gained) + len(self.changed) + sum(1 - pair.iou for pair in self.kept)


def compare(a: Prediction, b: Prediction, score_threshold: float) -> Comparison:
    """Pairs objects of one class whose masks have an IoU of 0.5 or more as COCO's evaluation does, with A as the
    annotations: objects of B by falling score, each with what is left of A that it overlaps best. What is left over is
    paired in the same way without regard to class. Objects below the threshold count only as the reason why one of the
    other answer has no partner.

    Raises:
        MaskFormatError: an answer holds no masks.
        InvalidAnswerError: the answers are for pictures of different sizes.
    """
    if (a.width, a.height) != (b.width, b.height):
        raise InvalidAnswerError(f"A answered for {a.width} x {a.height} pixels, B for {b.width} x {b.height}.")
    in_a, unsure_a = _split(a, score_threshold)
    in_b, unsure_b = _split(b, score_threshold)
    ious = iou_matrix(in_a, in_b)
    kept = _pairs(ious * _same_class(in_a, in_b))
    left = ious.copy()
    left[[i for i, _ in kept]] = left[:, [j for _, j in kept]] = 0.0
    changed = _pairs(left)
    paired_a, paired_b = ({pair[side] for pair in (*kept, *changed)} for side in (0, 1))
    return Comparison(
        kept=tuple(Pair(in_a[i], in_b[j], float(ious[i, j])) for i, j in kept),
        changed=tuple(Pair(in_a[i], in_b[j], float(ious[i, j])) for i, j in changed),
        lost=_singles([one for i, one in enumerate(in_a) if i not in paired_a], unsure_b),
        gained=_singles([one for j, one in enumerate(in_b) if j not in paired_b], unsure_a),
    )


def _split(answer: Prediction, score_threshold: float) -> tuple[list[Detection], list[Detection]]:
    """What is sure enough and what is not, by falling score."""
    found = sorted(answer, key=lambda one: -one.score)
    sure = sum(one.score >= score_threshold for one in found)
    return found[:sure], found[sure:]


def _same_class(in_a: Sequence[Detection], in_b: Sequence[Detection]) -> npt.NDArray[np.bool_]:
    return np.array([[one.label == other.label for other in in_b] for one in in_a], bool).reshape(len(in_a), len(in_b))


def _singles(alone: Sequence[Detection], unsure: Sequence[Detection]) -> tuple[Single, ...]:
    pairs = _pairs(iou_matrix(alone, unsure) * _same_class(alone, unsure))
    scores = {i: unsure[j].score for i, j in pairs}
    return tuple(Single(one, scores.get(i)) for i, one in enumerate(alone))


def _pairs(ious: Matrix) -> list[tuple[int, int]]:
    """(row, column) by column; of equal ones the later row, as pycocotools has it."""
    left = ious.copy()
    pairs = []
    for j in range(left.shape[1]):
        best = left[:, j].max(initial=0.0)
        if best >= IOU_THRESHOLD:
            i = int(np.flatnonzero(left[:, j] == best)[-1])
            pairs.append((i, j))
            left[i] = 0.0
    return pairs


def iou_matrix(in_a: Sequence[Detection], in_b: Sequence[Detection]) -> Matrix:
    """[n, m] IoU of masks of one picture; 0 where both are empty. Raises `MaskFormatError`, `InvalidAnswerError`."""
    rows, columns = [_Pixels(one) for one in in_a], [_Pixels(one) for one in in_b]
    ious = np.zeros((len(rows), len(columns)))
    for i, j in _touching(_boxes(rows), _boxes(columns)):
        shared = rows[i].shared_with(columns[j])
        ious[i, j] = shared / (rows[i].area + columns[j].area - shared)
    return ious


class _Pixels:
    """The set pixels of a mask, as runs of column-major positions."""

    def __init__(self, detection: Detection) -> None:
        counts, size_hw = to_counts(detection.encoded_mask)
        edges = np.cumsum(counts)
        self.area = rle.area(counts)
        x, y, w, h = rle.bbox(counts, size_hw)
        self.box_xyxy = (x, y, x + w, y + h)
        self._starts, self._stops = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
        self._set_before = _reader(counts, edges)

    def shared_with(self, other: _Pixels) -> int:
        """Of each run, what the other mask has up to its end but not up to its start."""
        return int((other._set_before(self._stops) - other._set_before(self._starts)).sum())


def _reader(counts: rle.Counts, edges: rle.Counts) -> Callable[[rle.Counts], Matrix]:
    """How many pixels are set before a position: straight lines between the edges of runs, exact in float64."""
    is_set = np.arange(len(counts)) % 2
    places = np.concatenate(([0], edges))
    totals = np.concatenate(([0], np.cumsum(counts * is_set)))
    return lambda positions: np.interp(positions, places, totals)


def _boxes(masks: Sequence[_Pixels]) -> npt.NDArray[np.int64]:
    return np.array([one.box_xyxy for one in masks], np.int64).reshape(-1, 4)


def _touching(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(row, column) of boxes that overlap."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return [(int(i), int(j)) for i, j in np.argwhere((low < high).all(axis=2))]
