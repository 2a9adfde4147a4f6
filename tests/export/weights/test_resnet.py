from __future__ import annotations

from collections.abc import Callable

import pytest

from export.weights import UnsupportedWeightsError
from export.weights.resnet import read_resnet

Shape = tuple[int, ...]

WIDTHS = (64, 128, 256, 512)


def _convs(blocks: tuple[int, ...], *, bottleneck: bool, wide: int = 1, groups: int = 1) -> Callable[..., Shape | None]:
    """The shapes of a body's convolutions, by stage, block and number in the block."""

    def conv(stage: int, block: int, number: int) -> Shape | None:
        if block >= blocks[stage - 2] or number > (3 if bottleneck else 2):
            return None
        width = WIDTHS[stage - 2] * wide
        if not bottleneck:
            return (width, width, 3, 3)
        last = 4 * WIDTHS[stage - 2]
        return ((width, last, 1, 1), (width, width // groups, 3, 3), (last, width, 1, 1))[number - 1]

    return conv


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "depth"),
    [((2, 2, 2, 2), False, 18), ((3, 4, 6, 3), False, 34), ((3, 4, 6, 3), True, 50), ((3, 4, 23, 3), True, 101)],
)
def test_depth_and_widths(blocks: tuple[int, ...], bottleneck: bool, depth: int) -> None:
    assert read_resnet(_convs(blocks, bottleneck=bottleneck)) == (depth, WIDTHS)


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (_convs((3, 8, 36, 3), bottleneck=True), "3, 8, 36, 3 bottleneck blocks"),
        (_convs((2, 2, 2, 0), bottleneck=False), "2, 2, 2, 0 basic blocks"),
        (_convs((3, 4, 6, 3), bottleneck=True, wide=2, groups=32), "ResNeXt"),
        (_convs((3, 4, 6, 3), bottleneck=True, wide=2), "wide ResNet"),
        (_convs((0, 0, 0, 0), bottleneck=False), "not a ResNet"),
    ],
)
def test_other_bodies_are_named(conv: Callable[..., Shape | None], message: str) -> None:
    with pytest.raises(UnsupportedWeightsError, match=message):
        read_resnet(conv)
