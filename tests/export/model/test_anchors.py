from __future__ import annotations

import dataclasses

import pytest
import torch

from export.model.anchors import Anchors
from export.model.config import ModelConfig, RpnConfig, anchor_cells


def test_cells_are_ordered_by_size_then_ratio() -> None:
    (level,) = anchor_cells(((16, 32),), (0.25, 4))
    assert level == ((-16, -4, 16, 4), (-4, -16, 4, 16), (-32, -8, 32, 8), (-8, -32, 8, 32))


def test_rounded_cells_are_rounded_half_to_even() -> None:
    assert anchor_cells(((5, 7, 32),), (1,), rounded=True) == (((-2, -2, 2, 2), (-4, -4, 4, 4), (-16, -16, 16, 16)),)


def test_cells_keep_their_fractions() -> None:
    wide, square, tall = anchor_cells(((32,),))[0]
    assert wide == pytest.approx((-22.627417, -11.3137085, 22.627417, 11.3137085))
    assert square == (-16, -16, 16, 16)
    assert tall == pytest.approx((-11.3137085, -22.627417, 11.3137085, 22.627417))


def _small_anchors(*, corner_coordinates: bool) -> tuple[torch.Tensor, torch.Tensor]:
    cells = (((-2.0, -1.0, 2.0, 1.0), (-1.0, -1.0, 1.0, 1.0)), ((-8.0, -8.0, 8.0, 8.0),))
    anchors = Anchors(RpnConfig(cells=cells, strides=(4, 8)), corner_coordinates=corner_coordinates)
    pyramid = [torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)]
    return anchors(pyramid), anchors.level_index(pyramid)


def test_order_is_level_row_column_cell() -> None:
    boxes, levels = _small_anchors(corner_coordinates=False)
    assert boxes[:4].tolist() == [[-2, -1, 2, 1], [-1, -1, 1, 1], [2, -1, 6, 1], [3, -1, 5, 1]]
    assert boxes[6].tolist() == [-2, 3, 2, 5]
    assert boxes[-2:].tolist() == [[-8, -8, 8, 8], [0, -8, 16, 8]]
    assert levels.tolist() == [0] * 12 + [1] * 2


def test_corner_coordinates_name_the_last_pixel() -> None:
    boxes, _ = _small_anchors(corner_coordinates=True)
    assert boxes[0].tolist() == [-2, -1, 1, 0]
    assert boxes[-1].tolist() == [0, -8, 15, 7]


@pytest.mark.parametrize(
    ("canvas_hw", "grid_hw", "step_yx"),
    [((96, 160), (2, 3), (48, 53)), ((32, 320), (1, 5), (32, 64)), ((64, 128), (1, 2), (64, 64))],
)
def test_strides_of_the_canvas(canvas_hw: tuple[int, int], grid_hw: tuple[int, int], step_yx: tuple[int, int]) -> None:
    """P6 has every other position of P5, rounded up; the canvas is shared out among them, rounded down."""
    sizes = [tuple(-(-side // stride) for side in canvas_hw) for stride in (4, 8, 16, 32, 64)]
    assert sizes[4] == grid_hw
    config = RpnConfig(cells=anchor_cells(((2,),) * 5, (1,)), strides="canvas")
    boxes = Anchors(config, corner_coordinates=False)([torch.zeros(1, 1, h, w) for h, w in sizes])
    starts = torch.tensor([h * w for h, w in sizes]).cumsum(0)
    centres = boxes[:, :2] + 1
    for level, stride in enumerate((4, 8, 16, 32)):
        first = int(starts[level]) - sizes[level][0] * sizes[level][1]
        assert centres[first].tolist() == [0, 0]
        assert centres[starts[level] - 1].tolist() == [canvas_hw[1] - stride, canvas_hw[0] - stride]
    assert centres[starts[3] :].tolist() == [
        [x * step_yx[1], y * step_yx[0]] for y in range(grid_hw[0]) for x in range(grid_hw[1])
    ]


def test_cells_are_not_part_of_the_weights() -> None:
    assert not Anchors(RpnConfig(), corner_coordinates=False).state_dict()


def test_config_survives_json_like_values() -> None:
    config = ModelConfig(classes=("background", "nucleus"), corner_coordinates=True)
    listed = {**config.to_dict(), "classes": list(config.classes)}
    assert ModelConfig.from_dict(listed) == config
    assert ModelConfig.from_dict(listed).rpn.cells == RpnConfig().cells


def test_config_refuses_unknown_settings() -> None:
    values = ModelConfig(classes=("background", "nucleus")).to_dict()
    values["rpn"] = {**values["rpn"], "channel": 1}
    with pytest.raises(TypeError, match="channel"):
        ModelConfig.from_dict(values)


def test_config_cannot_be_changed() -> None:
    config = ModelConfig(classes=("background", "nucleus"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.family = "matterport"  # type: ignore[misc]  # what the test is about
