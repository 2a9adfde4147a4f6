"""The five losses against numbers worked out by hand and a plain numpy reading of their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from export.training.losses import (
    LossTerm,
    box_class_loss,
    box_delta_loss,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
)


def mean(term: LossTerm) -> float:
    return float(term.total.detach()) / max(float(term.count), 1.0)


def smooth_l1(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size * size if size < 1 else size - 0.5


def test_rpn_class_loss_of_sigmoid_logits_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0), 100.0])
    term = rpn_class_loss(logits, torch.tensor([1, -1, 0]))
    # probabilities 1/2 and 3/4; the neutral anchor does not count, however wrong it is
    assert mean(term) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_rpn_class_loss_of_two_logits_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [9.0, -9.0]])
    term = rpn_class_loss(logits, torch.tensor([1, -1, 0]))
    assert mean(term) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_rpn_box_loss_counts_all_four_deltas_of_positive_anchors() -> None:
    deltas = torch.tensor([[0.5, 0.0, 0.0, 3.0], [7.0, 7.0, 7.0, 7.0], [7.0, 7.0, 7.0, 7.0]])
    term = rpn_box_loss(deltas, torch.tensor([1, -1, 0]), torch.zeros(3, 4))
    assert mean(term) == pytest.approx((0.125 + 2.5) / 4)


def test_box_class_loss_leaves_out_rois_predicted_as_a_class_their_data_set_lacks() -> None:
    logits = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    class_ids = torch.tensor([1, 0, 0])
    active = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    term = box_class_loss(logits, class_ids, active)
    log_sum = math.log(2 + math.exp(2))
    assert int(term.count) == 2
    assert mean(term) == pytest.approx(((log_sum - 2) + log_sum) / 2)


def test_box_delta_loss_looks_at_the_target_class_only() -> None:
    deltas = torch.full((2, 3, 4), 50.0)
    deltas[1, 2] = torch.tensor([1.0, 0.0, -0.5, 0.0])
    term = box_delta_loss(deltas, torch.tensor([0, 2]), torch.zeros(2, 4))
    assert mean(term) == pytest.approx((0.5 + 0.125) / 4)


def test_mask_loss_equals_cross_entropy_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 3, 5, 5))
    class_ids = np.array([1, 0, 2, 1])
    target = rng.integers(0, 2, (4, 5, 5))
    expected = []
    for row in (0, 2, 3):
        p = 1 / (1 + np.exp(-logits[row, class_ids[row]]))
        expected.append(-(target[row] * np.log(p) + (1 - target[row]) * np.log(1 - p)))
    term = mask_loss(torch.from_numpy(logits), torch.from_numpy(class_ids), torch.from_numpy(target))
    assert mean(term) == pytest.approx(float(np.mean(expected)), rel=1e-6)


def test_all_losses_agree_with_loops_over_single_entries() -> None:
    rng = np.random.default_rng(1)
    labels, deltas, wanted = rng.integers(-1, 2, 40), rng.normal(0, 1, (40, 4)), rng.normal(0, 1, (40, 4))
    expected = np.mean([smooth_l1(deltas[i, j] - wanted[i, j]) for i in range(40) for j in range(4) if labels[i] == 1])
    found = rpn_box_loss(torch.from_numpy(deltas), torch.from_numpy(labels), torch.from_numpy(wanted))
    assert mean(found) == pytest.approx(float(expected), rel=1e-6)

    per_class, class_ids = rng.normal(0, 1, (40, 5, 4)), rng.integers(0, 5, 40)
    expected = np.mean(
        [smooth_l1(per_class[i, class_ids[i], j] - wanted[i, j]) for i in range(40) for j in range(4) if class_ids[i]]
    )
    found = box_delta_loss(torch.from_numpy(per_class), torch.from_numpy(class_ids), torch.from_numpy(wanted))
    assert mean(found) == pytest.approx(float(expected), rel=1e-6)


def test_nothing_to_learn_gives_zero_with_a_gradient() -> None:
    deltas = torch.ones(3, 4, requires_grad=True)
    logits = torch.ones(2, 3, 4, 4, requires_grad=True)
    background = torch.zeros(2, dtype=torch.long)
    terms = [
        rpn_class_loss(torch.ones(3, requires_grad=True), torch.zeros(3)),
        rpn_box_loss(deltas, torch.tensor([-1, 0, -1]), torch.zeros(3, 4)),
        box_delta_loss(torch.ones(2, 3, 4, requires_grad=True), background, torch.zeros(2, 4)),
        mask_loss(logits, background, torch.zeros(2, 4, 4)),
    ]
    for term in terms:
        assert mean(term) == 0.0
        assert int(term.count) == 0
        term.total.backward()
