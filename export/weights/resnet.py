"""Which ResNet a file holds, from the shapes of its convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from export.model.config import BackboneDepth
from export.weights.errors import UnsupportedWeightsError

Shape = tuple[int, ...]

_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
}
"""By blocks a stage, and whether they are bottlenecks."""


class ResNetShape(NamedTuple):
    depth: BackboneDepth
    stage_widths: tuple[int, int, int, int]
    """Of the 3x3 convolutions."""


def read_resnet(conv: Callable[[int, int, int], Shape | None]) -> ResNetShape:
    """The ResNet whose convolutions have these shapes.

    `conv` gives the shape [out, in, h, w] of a convolution by its stage (2 to 5), block (from 0) and number in the
    block (from 1), None where there is none. Raises `UnsupportedWeightsError` for other bodies.
    """
    blocks = tuple(_blocks(conv, stage) for stage in range(2, 6))
    bottleneck = conv(2, 0, 3) is not None
    depth = _DEPTHS.get((blocks, bottleneck))
    if not any(blocks):
        raise UnsupportedWeightsError("The body is not a ResNet; ResNet-18, 34, 50 and 101 can be rebuilt here.")
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UnsupportedWeightsError(
            f"The body has {', '.join(map(str, blocks))} {kind} blocks in its four stages; "
            "ResNet-18, 34, 50 and 101 can be rebuilt here."
        )
    widths = tuple(cast(Shape, conv(stage, 0, 1))[0] for stage in range(2, 6))
    middle, last = conv(2, 0, 2), conv(2, 0, 3)
    if middle is not None and middle[1] != widths[0]:
        raise UnsupportedWeightsError("The body has grouped convolutions (ResNeXt), which cannot be rebuilt here.")
    if last is not None and last[0] != 4 * widths[0]:
        raise UnsupportedWeightsError("The body is a wide ResNet, which cannot be rebuilt here.")
    return ResNetShape(cast(BackboneDepth, depth), cast(tuple[int, int, int, int], widths))


def _blocks(conv: Callable[[int, int, int], Shape | None], stage: int) -> int:
    count = 0
    while conv(stage, count, 1) is not None:
        count += 1
    return count
