from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export.model.nms import nms

Array = npt.NDArray[np.float32]


def _iou(a: Array, b: Array) -> np.float32:
    w = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    h = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    union = area_a + area_b - w * h
    return np.float32(w * h / union) if union > 0 else np.float32(0)


def _greedy(
    boxes: Array, scores: Array, groups: npt.NDArray[np.int64], iou: float, score: float, limit: int, best: int = 0
) -> list[int]:
    """The textbook loop for one image."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: best or None]:
        clear = all(groups[i] != groups[j] or _iou(boxes[i], boxes[j]) <= np.float32(iou) for j in kept)
        if scores[i] > np.float32(score) and clear and len(kept) < limit:
            kept.append(i)
    return kept


def _random_case(seed: int, count: int, groups: int, *, ties: bool) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 60, (2, count, 2)), rng.uniform(5, 30, (2, count, 2))
    boxes = np.concatenate((corner, corner + side), axis=-1).astype(np.float32)
    scores = rng.uniform(0, 1, (2, count)).astype(np.float32)
    return boxes, np.round(scores, 1) if ties else scores, rng.integers(0, groups, (2, count))


@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "tied scores"])
@pytest.mark.parametrize(
    ("count", "groups", "limit"),
    [
        pytest.param(60, 1, 100, id="one group"),
        pytest.param(90, 4, 100, id="four groups"),
        pytest.param(90, 2, 7, id="limited"),
        pytest.param(1200, 40, 300, id="more than one chunk"),
    ],
)
def test_agrees_with_the_plain_loop(count: int, groups: int, limit: int, ties: bool) -> None:
    boxes, scores, group = _random_case(count + groups, count, groups, ties=ties)
    found = nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(group), 0.4, 0.15, limit)
    assert found.dtype == torch.int64
    expected = [(n, i) for n in (0, 1) for i in _greedy(boxes[n], scores[n], group[n], 0.4, 0.15, limit)]
    assert [tuple(row) for row in found.tolist()] == expected


@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "tied scores"])
@pytest.mark.parametrize("best", [1, 30, 90, 500])
def test_only_the_best_scores_take_part(best: int, ties: bool) -> None:
    boxes, scores, group = _random_case(best, 90, 3, ties=ties)
    found = nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(group), 0.4, 0.15, 20, pre_nms_topk=best)
    expected = [(n, i) for n in (0, 1) for i in _greedy(boxes[n], scores[n], group[n], 0.4, 0.15, 20, best)]
    assert [tuple(row) for row in found.tolist()] == expected


def _run(boxes: list[list[float]], scores: list[float], iou: float = 0.5, score: float = 0.0) -> list[list[int]]:
    groups = torch.zeros(1, len(boxes), dtype=torch.int64)
    return nms(torch.tensor([boxes]), torch.tensor([scores]), groups, iou, score, 100).tolist()


def test_overlap_equal_to_the_threshold_is_kept() -> None:
    pair = [[0.0, 0, 10, 10], [0.0, 0, 10, 5]]
    assert _run(pair, [0.9, 0.8], iou=0.5) == [[0, 0], [0, 1]]
    assert _run(pair, [0.9, 0.8], iou=0.499) == [[0, 0]]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]
    assert _run(chain, [0.9, 0.8, 0.7], iou=0.4) == [[0, 0], [0, 2]]


def test_score_equal_to_the_threshold_is_dropped() -> None:
    assert _run([[0.0, 0, 1, 1], [5, 5, 6, 6]], [0.5, 0.25], score=0.25) == [[0, 0]]


def test_boxes_without_area_neither_suppress_nor_fall() -> None:
    assert _run([[3.0, 3, 3, 3], [3, 3, 3, 3]], [0.4, 0.5]) == [[0, 1], [0, 0]]


def test_nothing_left_gives_one_empty_row() -> None:
    assert _run([[0.0, 0, 1, 1]], [0.1], score=0.2) == [[0, -1]]
    empty = nms(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64), 0.5, 0.0, 10)
    assert empty.tolist() == [[0, -1]]


def test_an_image_without_candidates_has_no_row() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1]]]).expand(3, 1, 4)
    found = nms(boxes, torch.tensor([[0.9], [0.0], [0.8]]), torch.zeros(3, 1, dtype=torch.int64), 0.5, 0.5, 10)
    assert found.tolist() == [[0, 0], [2, 0]]
