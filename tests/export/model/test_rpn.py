from __future__ import annotations

import math

import pytest
import torch

from export.model.config import RpnConfig
from export.model.rpn import Proposals, RpnHead, RpnOutput, dense, propose

# Level 0: two boxes on top of each other and one apart; level 1: the first box again.
ANCHORS = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [60, 60, 80, 80], [0, 0, 20, 20]])
LOGITS = [1.0, 2.0, -1.0, 3.0]
WINDOW = torch.tensor([[0.0, 0, 100, 100]])


def _propose(
    config: RpnConfig, logits: list[float] = LOGITS, deltas: torch.Tensor | None = None, **limits: int
) -> Proposals:
    output = RpnOutput(torch.tensor([logits]), torch.zeros(1, 4, 4) if deltas is None else deltas, [3, 1])
    return propose(output, ANCHORS, WINDOW, config, **limits)


def _config(**values: object) -> RpnConfig:
    limits = {"pre_nms_topk": 3, "post_nms_topk": 5, "cells": (((0.0, 0.0, 1.0, 1.0),),) * 2}
    return RpnConfig(**{**limits, **values})  # type: ignore[arg-type]


def test_per_level_selection_suppresses_within_a_level() -> None:
    found = _propose(_config())
    assert found.boxes[0].tolist() == [*ANCHORS[[3, 1, 2]].tolist(), [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.valid[0].tolist() == [True] * 3 + [False] * 2
    expected = [1 / (1 + math.exp(-x)) for x in (3, 2, -1)]
    torch.testing.assert_close(found.scores[0], torch.tensor([*expected, 0, 0]))


def test_joint_selection_suppresses_over_levels() -> None:
    found = _propose(_config(selection="joint", pre_nms_topk=4))
    assert found.boxes[0, :2].tolist() == ANCHORS[[3, 2]].tolist()
    assert found.valid[0].tolist() == [True] * 2 + [False] * 3


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
def test_nms_with_the_limit_gives_what_topk_before_it_gives(limit: int) -> None:
    inside, dropping = (_config(selection="joint", pre_nms_topk=limit, min_size=size) for size in (None, 0.0))
    for logits in (LOGITS, [1.0, 1.0, 1.0, 1.0]):
        for found, expected in zip(_propose(inside, logits), _propose(dropping, logits), strict=True):
            assert torch.equal(found, expected)


def test_limits_before_nms_are_of_a_level_or_of_all() -> None:
    assert _propose(_config(pre_nms_topk=1)).boxes[0, :3].tolist() == [*ANCHORS[[3, 1]].tolist(), [0, 0, 0, 0]]
    assert _propose(_config(pre_nms_topk=1, selection="joint")).valid.sum() == 1
    assert _propose(_config(), pre_nms_topk=1).valid.sum() == 2


def test_limit_after_nms_takes_the_best_of_all_levels() -> None:
    found = _propose(_config(), post_nms_topk=2)
    assert found.boxes[0].tolist() == ANCHORS[[3, 1]].tolist()


def test_equal_scores_go_to_the_lower_anchor() -> None:
    assert _propose(_config(), logits=[0.0] * 4).boxes[0, :3].tolist() == ANCHORS[[0, 2, 3]].tolist()


def test_softmax_scores_are_the_foreground_probability() -> None:
    logits = torch.tensor([[[0.0, 0], [2, 0], [0, math.log(3)], [0, -60]]])
    found = propose(RpnOutput(logits, torch.zeros(1, 4, 4), [3, 1]), ANCHORS, WINDOW, _config(objectness="softmax"))
    torch.testing.assert_close(found.scores[0, :3], torch.tensor([0.75, 0.5, 0.0]))
    assert found.boxes[0, :3].tolist() == ANCHORS[[2, 0, 3]].tolist()


def test_boxes_are_clipped_to_the_window() -> None:
    output = RpnOutput(torch.tensor([LOGITS]), torch.zeros(1, 4, 4), [3, 1])
    found = propose(output, ANCHORS, torch.tensor([[5.0, 5, 70, 15]]), _config())
    assert found.boxes[0, 0].tolist() == [5, 5, 20, 15]


@pytest.mark.parametrize(
    ("min_size", "inclusive", "kept"),
    [(None, False, 3), (0.0, False, 2), (0.0, True, 3), (20.0, True, 2), (20.0, False, 0)],
)
def test_small_boxes_are_dropped(min_size: float | None, inclusive: bool, kept: int) -> None:
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 2, :2] = 10.0  # moved out of the window: without an area once clipped
    found = _propose(_config(min_size=min_size, min_size_inclusive=inclusive), deltas=deltas)
    assert found.valid.sum() == kept
    assert found.boxes[~found.valid].eq(0).all()


@pytest.mark.parametrize(
    ("rows", "index", "valid"),
    [
        pytest.param([[0, 7], [0, 3], [2, 5]], [[7, 3], [0, 0], [5, 0]], [[1, 1], [0, 0], [1, 0]], id="true rows"),
        pytest.param(
            [[0, 7], [0, -1], [1, -1], [1, -1], [2, 5], [2, 4]],
            [[7, 0], [0, 0], [5, 4]],
            [[1, 0], [0, 0], [1, 1]],
            id="padded rows",
        ),
        pytest.param([[0, -1]], [[0, 0]] * 3, [[0, 0]] * 3, id="nothing"),
        pytest.param([[2, 0]], [[0, 0]] * 3, [[0, 0], [0, 0], [1, 0]], id="only the last image"),
    ],
)
def test_rows_become_a_table(rows: list[list[int]], index: list[list[int]], valid: list[list[int]]) -> None:
    found_index, found_valid = dense(torch.tensor(rows), 3, 2)
    assert found_index.tolist() == index
    assert found_valid.int().tolist() == valid


@pytest.mark.parametrize(("objectness", "shape"), [("sigmoid", (2, 30)), ("softmax", (2, 30, 2))])
def test_head_orders_by_level_row_column_cell(objectness: str, shape: tuple[int, ...]) -> None:
    config = RpnConfig(channels=5, conv_depth=2, objectness=objectness)  # type: ignore[arg-type]
    head = RpnHead(4, config)
    pyramid = [torch.randn(2, 4, 2, 4), torch.randn(2, 4, 1, 2)]
    output = head(pyramid)
    assert (output.logits.shape, output.deltas.shape, output.level_counts) == (shape, (2, 30, 4), [24, 6])
    x = pyramid[0]
    for conv in head.convs:
        x = conv(x).relu()
    # Row 1, column 2, cell 1 of the first level: channels 4..7 are its deltas.
    expected = head.deltas(x)[:, 4:8, 1, 2]
    torch.testing.assert_close(output.deltas[:, (1 * 4 + 2) * 3 + 1], expected)
