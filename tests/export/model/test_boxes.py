from __future__ import annotations

import math

import pytest
import torch

from export.model import boxes

UNIT_STD = (1.0, 1.0, 1.0, 1.0)
HEAD_STD = (0.1, 0.1, 0.2, 0.2)
CLAMP = math.log(1000 / 16)


@pytest.mark.parametrize(
    ("deltas", "std", "expected"),
    [
        pytest.param([0, 0, 0, 0], UNIT_STD, [10, 20, 30, 60], id="no change"),
        pytest.param([0.5, -0.25, 0, 0], UNIT_STD, [20, 10, 40, 50], id="moved by parts of the anchor's sides"),
        pytest.param([0, 0, math.log(2), math.log(0.5)], UNIT_STD, [0, 30, 40, 50], id="twice as wide, half as high"),
        pytest.param([5, -2.5, 5 * math.log(2), 0], HEAD_STD, [10, 10, 50, 50], id="in units of the std"),
    ],
)
def test_decode(deltas: list[float], std: boxes.BoxStd, expected: list[float]) -> None:
    anchor = torch.tensor([[10.0, 20, 30, 60]])
    decoded = boxes.decode(torch.tensor([deltas]), anchor, std, CLAMP)
    torch.testing.assert_close(decoded, torch.tensor([expected]), check_dtype=False)


def test_decode_clamps_only_growth() -> None:
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    wild = torch.tensor([[0.0, 0, 50, -50]])
    clamped = boxes.decode(wild, anchor, UNIT_STD, CLAMP)
    torch.testing.assert_close(clamped, torch.tensor([[-492.0, 8, 508, 8]]), atol=1e-3, rtol=0)
    assert boxes.decode(wild, anchor, UNIT_STD, None)[0, 2] > 1e20


def test_encode_is_the_inverse_of_decode() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.rand(50, 4, generator=generator) * 40
    anchors[:, 2:] += anchors[:, :2] + 1
    deltas = torch.randn(50, 4, generator=generator)
    decoded = boxes.decode(deltas, anchors, HEAD_STD, None)
    torch.testing.assert_close(boxes.encode(decoded, anchors, HEAD_STD), deltas, atol=1e-3, rtol=0)


def test_encode_by_hand() -> None:
    found = boxes.encode(torch.tensor([[20.0, 10, 60, 50]]), torch.tensor([[10.0, 20, 30, 60]]), HEAD_STD)
    torch.testing.assert_close(found, torch.tensor([[10.0, -2.5, 5 * math.log(2), 0]]))


def test_clip_uses_each_images_window() -> None:
    given = torch.tensor([[[-5.0, -5, 200, 40], [150, 20, 160, 30]]]).expand(2, -1, -1)
    windows = torch.tensor([[0.0, 0, 100, 50], [10, 20, 155, 25]])
    expected = [[[0.0, 0, 100, 40], [100, 20, 100, 30]], [[10, 20, 155, 25], [150, 20, 155, 25]]]
    assert boxes.clip(given, windows).tolist() == expected


@pytest.mark.parametrize(
    ("a", "b", "iou", "ioa"),
    [
        pytest.param([0, 0, 10, 10], [0, 0, 10, 10], 1.0, 1.0, id="equal"),
        pytest.param([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3, 0.5, id="half"),
        pytest.param([2, 2, 4, 4], [0, 0, 10, 10], 0.04, 1.0, id="inside"),
        pytest.param([0, 0, 10, 10], [10, 0, 20, 10], 0.0, 0.0, id="touching"),
        pytest.param([0, 0, 10, 10], [30, 30, 40, 40], 0.0, 0.0, id="apart in both axes"),
        pytest.param([5, 5, 5, 5], [5, 5, 5, 5], 0.0, 0.0, id="no area at all"),
    ],
)
def test_overlaps(a: list[float], b: list[float], iou: float, ioa: float) -> None:
    first, second = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    torch.testing.assert_close(boxes.pairwise_iou(first, second), torch.tensor([[iou]]))
    torch.testing.assert_close(boxes.pairwise_ioa(first, second), torch.tensor([[ioa]]))


def test_overlaps_are_every_box_with_every_box() -> None:
    assert boxes.pairwise_iou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)
    assert boxes.pairwise_ioa(torch.zeros(0, 4), torch.zeros(2, 4)).shape == (0, 2)
