from __future__ import annotations

from typing import Any

import pytest
import torch

from export.model.config import DetectionConfig, HeadConfig, ModelConfig
from export.model.detections import detect
from export.model.rpn import Proposals

PROPOSALS = torch.tensor([[[10.0, 10, 30, 30], [11, 10, 31, 30], [60, 60, 90, 90]]])
WINDOW = torch.tensor([[0.0, 0, 80, 80]])
# Background, and classes 1 and 2, of the three proposals.
PROBABILITIES = [[0.1, 0.6, 0.3], [0.22, 0.5, 0.28], [0.6, 0.0, 0.4]]


def _detect(
    probabilities: list[list[float]] = PROBABILITIES,
    deltas: torch.Tensor | None = None,
    valid: tuple[bool, ...] = (True, True, True),
    **rule: Any,
) -> list[list[float]]:
    config = ModelConfig(
        classes=("background", "round", "square"),
        heads=HeadConfig(box_std=(0.1, 0.1, 0.2, 0.2)),
        detection=DetectionConfig(**{"score_threshold": 0.35, **rule}),
    )
    proposals = Proposals(PROPOSALS, torch.ones(1, 3), torch.tensor([valid]))
    deltas = torch.zeros(3, 3, 4) if deltas is None else deltas
    rows = detect(torch.tensor(probabilities).log(), deltas, proposals, WINDOW, config)
    return [[round(value, 4) for value in row] for row in rows.tolist()]


def test_every_class_is_a_candidate() -> None:
    rows = _detect(score_threshold=0.25)
    assert rows == [
        [0, 10, 10, 30, 30, 0.6, 1],
        [0, 60, 60, 80, 80, 0.4, 2],
        [0, 10, 10, 30, 30, 0.3, 2],
    ]


def test_only_the_best_class_is_a_candidate() -> None:
    assert _detect(candidates="best_class", score_threshold=0.25) == [[0, 10, 10, 30, 30, 0.6, 1]]


def test_suppression_is_by_class() -> None:
    other = [[0.1, 0.6, 0.3], [0.1, 0.4, 0.5], [1.0, 0.0, 0.0]]
    assert [(row[1], row[6]) for row in _detect(other)] == [(10, 1), (11, 2)]
    assert len(_detect(nms_iou_threshold=0.95)) == 3


def test_each_class_has_its_own_deltas() -> None:
    deltas = torch.zeros(3, 3, 4)
    deltas[2, 2] = torch.tensor([-10.0, 0, 0, 0])  # one width to the left
    deltas[2, 1] = torch.tensor([10.0, 0, 0, 0])
    assert _detect(deltas=deltas)[1] == [0, 30, 60, 60, 80, 0.4, 2]
    assert _detect(deltas=deltas, candidates="best_class", nms_iou_threshold=0.95)[0] == [0, 10, 10, 30, 30, 0.6, 1]


@pytest.mark.parametrize(("inclusive", "count"), [(False, 0), (True, 1)])
def test_a_score_at_the_threshold(inclusive: bool, count: int) -> None:
    # log and softmax give 0.5 exactly.
    rows = _detect([[0.5, 0.5, 0.0], [1, 0, 0], [1, 0, 0]], score_threshold=0.5, score_threshold_inclusive=inclusive)
    assert sum(row[5] > 0 for row in rows) == count


def test_padded_proposals_give_nothing() -> None:
    assert [row[6] for row in _detect(valid=(True, True, False))] == [1]


def test_boxes_below_the_smallest_size_are_dropped() -> None:
    assert len(_detect(min_size=20.0)) == 2
    assert len(_detect(min_size=20.001)) == 1


def test_the_best_are_kept_beyond_the_limit() -> None:
    assert _detect(score_threshold=0.0, max_detections=2) == _detect(score_threshold=0.35)


def test_nothing_found_is_one_row_of_score_zero() -> None:
    assert _detect(score_threshold=0.9) == [[0, 0, 0, 0, 0, 0, 0]]
