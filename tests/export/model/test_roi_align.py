"""RoIAlign against plain loops written from the definitions of the two operators."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export.model.roi_align import pyramid_roi_align, roi_levels

Array = npt.NDArray[np.float64]
CANVAS_HW = (128, 160)
STRIDES = (4, 8, 16, 32)


def _bilinear(feature: Array, y: float, x: float) -> Array:
    height, width = feature.shape[1:]
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
    below = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
    return np.asarray(above * (1 - dy) + below * dy)


def _roi_align(feature: Array, box: Array, stride: int, size: int, ratio: int, aligned: bool) -> Array:
    height, width = feature.shape[1:]
    x1, y1, x2, y2 = box / stride - (0.5 if aligned else 0)
    roi_w, roi_h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
    rows, columns = (ratio or math.ceil(roi_h / size)), (ratio or math.ceil(roi_w / size))
    out = np.zeros((feature.shape[0], size, size))
    for i, j, iy, ix in product(range(size), range(size), range(rows), range(columns)):
        y = y1 + (i + (iy + 0.5) / rows) * roi_h / size
        x = x1 + (j + (ix + 0.5) / columns) * roi_w / size
        if -1 <= y <= height and -1 <= x <= width:
            out[:, i, j] += _bilinear(feature, min(max(y, 0), height - 1), min(max(x, 0), width - 1))
    return out / max(rows * columns, 1)


def _crop_and_resize(feature: Array, corners: Array, size: int) -> Array:
    height, width = feature.shape[1:]
    x1, y1, x2, y2 = corners / (np.array([CANVAS_HW[1], CANVAS_HW[0]] * 2) - 1)
    out = np.zeros((feature.shape[0], size, size))
    for i, j in product(range(size), range(size)):
        y = y1 * (height - 1) + i * (y2 - y1) * (height - 1) / (size - 1)
        x = x1 * (width - 1) + j * (x2 - x1) * (width - 1) / (size - 1)
        if 0 <= y <= height - 1 and 0 <= x <= width - 1:
            out[:, i, j] = _bilinear(feature, y, x)
    return out


def _pyramid(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 3, CANVAS_HW[0] // s, CANVAS_HW[1] // s, generator=generator, dtype=torch.float64)
        for s in (*STRIDES, 64)
    ]


BOXES = [
    [10.3, 20.7, 40.1, 50.9],
    [3.0, 5.0, 4.0, 7.5],
    [0.0, 0.0, 130.0, 100.0],
    [20.0, 3.0, 150.0, 125.0],
    [155.0, 120.0, 160.0, 128.0],
    [50.0, 50.0, 50.0, 50.0],
    [0.0, 40.0, 160.0, 60.0],
]
IMAGES = [0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_agrees_with_the_plain_loop(aligned: bool, ratio: int, size: int) -> None:
    pyramid = _pyramid()
    boxes = torch.tensor([*BOXES, [-30.0, -9.0, 25.0, 12.0], [140.0, 100.0, 190.0, 170.0]], dtype=torch.float64)
    images = torch.tensor([*IMAGES, 0, 1])
    found = pyramid_roi_align(
        pyramid, boxes, images, output_size=size, sampling_ratio=ratio, aligned=aligned, crop_and_resize=False,
        level_rule="floor",
    )  # fmt: skip
    levels = [min(max(math.floor(4 + math.log2(math.sqrt((b[2] - b[0]) * (b[3] - b[1])) / 224 + 1e-9)), 2), 5) - 2
              for b in boxes.tolist()]  # fmt: skip
    assert set(levels) == {0, 1}
    for roi, box in enumerate(boxes.numpy()):
        feature = pyramid[levels[roi]][images[roi]].numpy()
        expected = _roi_align(feature, box, STRIDES[levels[roi]], size, ratio, aligned)
        np.testing.assert_allclose(found[roi].numpy(), expected, atol=1e-9)


def test_crop_and_resize_agrees_with_the_plain_loop() -> None:
    pyramid = _pyramid()
    boxes = torch.tensor([*BOXES, [-30.0, -9.0, 25.0, 12.0], [140.0, 100.0, 190.0, 170.0]], dtype=torch.float64)
    images = torch.tensor([*IMAGES, 0, 1])
    found = pyramid_roi_align(
        pyramid, boxes, images, output_size=5, sampling_ratio=2, aligned=False, crop_and_resize=True,
        level_rule="round",
    )  # fmt: skip
    levels = roi_levels(boxes, CANVAS_HW, "round", corner_coordinates=True)
    for roi, box in enumerate(boxes.numpy()):
        expected = _crop_and_resize(pyramid[levels[roi]][images[roi]].numpy(), box, 5)
        np.testing.assert_allclose(found[roi].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("side", "floor_level", "round_level"),
    [(0, 2, 2), (10, 2, 2), (79, 2, 2), (80, 2, 3), (111.9, 2, 3), (112, 3, 3), (158, 3, 3), (159, 3, 4), (223, 3, 4),
     (224, 4, 4), (316, 4, 4), (317, 4, 5), (447, 4, 5), (448, 5, 5), (1000, 5, 5)],
)  # fmt: skip
def test_level_rules(side: float, floor_level: int, round_level: int) -> None:
    box = torch.tensor([[7.0, 5.0, 7.0 + side, 5.0 + side]])
    assert roi_levels(box, (1024, 1024), "floor", corner_coordinates=False).item() + 2 == floor_level
    assert roi_levels(box, (1024, 1024), "round", corner_coordinates=False).item() + 2 == round_level


def test_level_of_corner_coordinates_is_matterports() -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(200, 4, generator=generator, dtype=torch.float64) * 127
    corners = torch.cat((corners.view(-1, 2, 2).amin(1), corners.view(-1, 2, 2).amax(1)), dim=1)
    height, width = 128, 160
    normalised = corners.numpy() / np.array([width - 1, height - 1] * 2)
    h, w = normalised[:, 3] - normalised[:, 1], normalised[:, 2] - normalised[:, 0]
    expected = np.clip(4 + np.round(np.log2(np.sqrt(h * w) / (224.0 / np.sqrt(height * width)))), 2, 5)
    found = roi_levels(corners, (height, width), "round", corner_coordinates=True)
    assert (found.numpy() + 2).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("ratio", "aligned", "crop"), [(2, False, False), (0, True, False), (1, False, True)], ids=["v1", "v2", "crop"]
)
def test_gradient_in_the_features(ratio: int, aligned: bool, crop: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 1, 32 // s, 32 // s, generator=generator, dtype=torch.float64) for s in STRIDES]
    boxes = torch.tensor([[1.0, 2, 9, 12], [0, 0, 32, 32], [-8, 3, 20, 30]], dtype=torch.float64)

    def pool(*features: torch.Tensor) -> torch.Tensor:
        return pyramid_roi_align(
            features, boxes, torch.tensor([1, 0, 1]), output_size=2, sampling_ratio=ratio, aligned=aligned,
            crop_and_resize=crop, level_rule="floor",
        )  # fmt: skip

    assert torch.autograd.gradcheck(pool, [level.requires_grad_() for level in levels])


def test_no_roi() -> None:
    found = pyramid_roi_align(
        _pyramid(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), output_size=7, sampling_ratio=2,
        aligned=False, crop_and_resize=False, level_rule="floor",
    )  # fmt: skip
    assert found.shape == (0, 3, 7, 7)


def test_the_traced_operators_are_well_formed() -> None:
    """Schema, shape function and implementation of both custom operators agree."""
    pyramid = [level.to(torch.float32) for level in _pyramid()[:4]]
    boxes, images = torch.tensor(BOXES), torch.tensor(IMAGES)
    torch.library.opcheck(
        torch.ops.maskrcnn.pyramid_roi_align, (*pyramid, boxes, images, 7, 2, False, False, "floor")
    )  # fmt: skip
    torch.library.opcheck(
        torch.ops.maskrcnn.nms,
        (boxes[None], torch.linspace(1, 0.1, 7)[None], torch.zeros(1, 7, dtype=torch.int64), 0.5, 0.2, 5),
    )


def test_a_crop_that_ends_at_the_border_loses_no_samples() -> None:
    """Its last samples lie on the map's last pixels, and rounding may put them a hair beyond."""
    pyramid = [torch.ones(1, 1, CANVAS_HW[0] // s, CANVAS_HW[1] // s) for s in STRIDES]
    starts = torch.linspace(1, 60, 200)
    corner = torch.tensor([CANVAS_HW[1] - 1.0, CANVAS_HW[0] - 1.0]).expand(200, 2)
    boxes = torch.cat((torch.stack((starts, starts), dim=1), corner), dim=1)
    pooled = pyramid_roi_align(
        pyramid,
        boxes,
        torch.zeros(200, dtype=torch.int64),
        output_size=7,
        sampling_ratio=1,
        aligned=False,
        crop_and_resize=True,
        level_rule="round",
    )
    assert (pooled - 1).abs().max() < 1e-6
