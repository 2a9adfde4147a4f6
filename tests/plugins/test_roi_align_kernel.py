"""The RoIAlign kernel on a CPU against ONNX Runtime's operators, TensorFlow's rule, and arrays worked out by hand.

Shapes: N images, C channels, R RoIs, P output side.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_protos
from tests.plugins.emulated import pyramid_roi_align

Array = NDArray[Any]
Random = np.random.Generator

LIMITS = {"floor": np.array([12544, 50176, 200704, 802816]), "round": np.array([6272, 25088, 100352, 401408])}
"""Areas, in pixels of the canvas, at which RoIs go on to the next level: sides of 112 and 79.2, doubled each time."""


def pyramid_of(rng: Random, canvas_hw: tuple[int, int], channels: int, levels: int = 4, images: int = 2) -> list[Array]:
    sides = [(canvas_hw[0] // stride, canvas_hw[1] // stride) for stride in (4, 8, 16, 32, 64)[:levels]]
    return [rng.uniform(-1, 1, (images, channels, *side)).astype(np.float32) for side in sides]


def boxes_of(rng: Random, canvas_hw: tuple[int, int]) -> Array:
    """Boxes [24, 4], four of a kind: inside, across the border, outside, tiny, elongated, of a level's exact area."""
    side = np.array([canvas_hw[1], canvas_hw[0]], np.float64)
    begin = rng.uniform(0, 0.8, (24, 2)) * side
    size = rng.uniform(0.02, 0.98, (24, 2)) * (side - begin)
    begin[4:8], size[4:8] = rng.uniform(-1, 0.9, (4, 2)) * side, rng.uniform(0.5, 4, (4, 2)) * side
    begin[8:12] = side * rng.choice([-3, 1.1], (4, 2))
    size[12:16] = rng.choice([0, 0.01, 0.7, 4.5], (4, 2))
    size[16:20] = size[16:20] * rng.permuted([[0.02, 4.0]] * 4, axis=1)
    begin[20:], size[20:] = rng.integers(0, 40, (4, 2)), 112 * 2.0 ** rng.integers(-1, 4, (4, 1))
    size[22:] *= [0.5, 1]
    return np.concatenate((begin, begin + size), axis=1).astype(np.float32)


def levels_of(boxes: Array, rule: str, levels: int, area_scale: float = 1.0) -> Array:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * np.float32(area_scale)
    return np.asarray(np.searchsorted(LIMITS[rule][: levels - 1], area, side="right"))


@cache
def standard_roi_align(mode: str, output_size: int, sampling_ratio: int) -> onnxruntime.InferenceSession:
    size: dict[str, Any] = {"output_height": output_size, "output_width": output_size, "sampling_ratio": sampling_ratio}
    node = helper.make_node("RoiAlign", ["x", "rois", "images"], ["y"], coordinate_transformation_mode=mode, **size)
    types = {"x": TensorProto.FLOAT, "rois": TensorProto.FLOAT, "images": TensorProto.INT64}
    return session_of(node, types)


def session_of(node: Any, types: Mapping[str, int], functions: Any = ()) -> onnxruntime.InferenceSession:
    inputs = [helper.make_tensor_value_info(name, type_, None) for name, type_ in types.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def exported_roi_align(**settings: Any) -> onnxruntime.InferenceSession:
    types = dict.fromkeys(["p2", "p3", "p4", "p5", "boxes"], TensorProto.FLOAT) | {"images": TensorProto.INT64}
    attributes = settings | {name: int(settings[name]) for name in ("aligned", "crop_and_resize")}
    node = helper.make_node("PyramidRoiAlign", list(types), ["y"], domain=DOMAIN, **attributes)
    return session_of(node, types, function_protos())


def onnx_runtime_align(pyramid: list[Array], boxes: Array, images: Array, settings: dict[str, Any]) -> Array:
    """Every RoI on its level by ONNX Runtime's RoiAlign; boxes are brought to it by an exact power of two."""
    mode = "half_pixel" if settings["aligned"] else "output_half_pixel"
    session = standard_roi_align(mode, settings["output_size"], settings["sampling_ratio"])
    levels = levels_of(boxes, settings["level_rule"], len(pyramid))
    out = np.zeros((len(boxes), pyramid[0].shape[1], *[settings["output_size"]] * 2), np.float32)
    for level, features in enumerate(pyramid):
        chosen = levels == level
        rois = boxes[chosen] / np.float32(4 * 2**level)
        out[chosen] = session.run(None, {"x": features, "rois": rois, "images": images[chosen]})[0]
    return out


@pytest.mark.parametrize("case", range(200))
def test_roi_align_is_onnx_runtimes(case: int) -> None:
    rng = np.random.default_rng(case)
    channels = int(rng.choice([1, 3, 8, 20, 64]))
    settings: dict[str, Any] = {
        "output_size": int(rng.choice([1, 2, 7] if channels == 64 else [1, 2, 7, 14])),
        "sampling_ratio": case % 4,
        "aligned": bool(rng.integers(2)),
        "level_rule": str(rng.choice(["floor", "round"])),
    }
    height, width = (int(side) * 64 for side in rng.integers(1, 5, 2))
    pyramid = pyramid_of(rng, (height, width), channels, levels=int(rng.integers(1, 6)))
    boxes, images = boxes_of(rng, (height, width)), rng.integers(0, 2, 24)
    expected = onnx_runtime_align(pyramid, boxes, images, settings)
    found = pyramid_roi_align(pyramid, boxes, images, **settings, seed=case)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    halves = [level.astype(np.float16) for level in pyramid]
    expected = onnx_runtime_align([level.astype(np.float32) for level in halves], boxes, images, settings)
    found = pyramid_roi_align(halves, boxes, images, **settings, seed=case)
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float16), rtol=0, atol=2e-3)


def test_a_box_whose_corners_are_swapped_is_sampled_backwards() -> None:
    rng = np.random.default_rng(0)
    pyramid, images = pyramid_of(rng, (128, 192), 3), np.array([0, 1])
    boxes = np.array([[90, 80, 20, 30], [150, 10, 40, 60]], np.float32)
    settings: dict[str, Any] = {"output_size": 3, "sampling_ratio": 3, "aligned": True, "level_rule": "floor"}
    found = pyramid_roi_align(pyramid, boxes, images, **settings)
    np.testing.assert_allclose(found, onnx_runtime_align(pyramid, boxes, images, settings), rtol=0, atol=1e-5)


def tensorflow_crop(feature: Array, fractions: Array, size: int) -> Array:
    """TensorFlow's crop_and_resize of [C, H, W] to [C, P, P], in float64; x1, y1, x2, y2 in parts of (side - 1).

    A sample outside the map is zero, with the margin of `export.model.roi_align.CROP_MARGIN`.
    """
    axes, inside = [], []
    for begin, end, side in zip(fractions[:2], fractions[2:], feature.shape[:0:-1], strict=True):
        at = np.linspace(begin, end, size) * (side - 1)
        inside.append((at >= -1e-3) & (at <= side - 1 + 1e-3))
        axes.append(np.clip(at, 0, side - 1))
    (x, y), (x0, y0), (x1, y1) = axes, np.floor(axes).astype(int), np.ceil(axes).astype(int)
    top = feature[:, y0][:, :, x0] * (1 - x + x0) + feature[:, y0][:, :, x1] * (x - x0)
    bottom = feature[:, y1][:, :, x0] * (1 - x + x0) + feature[:, y1][:, :, x1] * (x - x0)
    down = (y - y0)[:, None]
    return np.asarray((top * (1 - down) + bottom * down) * inside[1][:, None] * inside[0])


@pytest.mark.parametrize("size", [2, 7, 14])
@pytest.mark.parametrize("rule", ["floor", "round"])
def test_crop_and_resize_is_tensorflows(rule: str, size: int) -> None:
    rng = np.random.default_rng(size)
    height, width = 256, 320
    pyramid = pyramid_of(rng, (height, width), channels=3, levels=5)
    boxes, images = boxes_of(rng, (height, width)), rng.integers(0, 2, 24)
    levels = levels_of(boxes, rule, 5, area_scale=height * width / ((height - 1) * (width - 1)))
    assert len(set(levels)) > 2
    fractions = boxes.astype(np.float64) / (np.array([width, height] * 2) - 1)
    rows = zip(fractions, levels, images, strict=True)
    expected = [tensorflow_crop(pyramid[level][image].astype(np.float64), box, size) for box, level, image in rows]
    settings: dict[str, Any] = {"output_size": size, "crop_and_resize": True, "level_rule": rule}
    found = pyramid_roi_align(pyramid, boxes, images, **settings, sampling_ratio=1, aligned=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    halves = [level.astype(np.float16) for level in pyramid]
    found = pyramid_roi_align(halves, boxes, images, **settings, sampling_ratio=0)
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("rule", ["floor", "round"])
@pytest.mark.parametrize(
    ("aligned", "sampling_ratio", "crop_and_resize"),
    [(False, 2, False), (True, 2, False), (True, 0, False), (False, 0, False), (False, 1, True)],
    ids=["torchvision", "aligned", "detectron2", "adaptive", "Matterport"],
)
def test_the_kernel_does_what_the_exported_function_does(
    rule: str, aligned: bool, sampling_ratio: int, crop_and_resize: bool
) -> None:
    rng = np.random.default_rng(5)
    pyramid = pyramid_of(rng, (256, 320), channels=3)
    boxes, images = boxes_of(rng, (256, 320)), rng.integers(0, 2, 24)
    settings: dict[str, Any] = {
        "output_size": 7,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "crop_and_resize": crop_and_resize,
        "level_rule": rule,
    }
    inputs = dict(zip(["p2", "p3", "p4", "p5", "boxes", "images"], [*pyramid, boxes, images], strict=True))
    expected = exported_roi_align(**settings).run(None, inputs)[0]
    np.testing.assert_allclose(pyramid_roi_align(pyramid, boxes, images, **settings), expected, rtol=0, atol=1e-4)


RAMP = np.array([[[[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]]]], np.float32)
"""[1, 1, 4, 4]: of a canvas of 16 x 16 pixels."""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("box", "settings", "expected"),
    [
        ([0, 0, 16, 16], {"aligned": True}, [[5.5, 7.5], [25.5, 27.5]]),
        ([0, 0, 16, 16], {"aligned": True, "sampling_ratio": 0}, [[5.5, 7.5], [25.5, 27.5]]),
        ([0, 0, 8, 8], {"sampling_ratio": 1}, [[5.5, 6.5], [15.5, 16.5]]),
        # Without an area: a pixel of the map, a point of it, nothing.
        ([4, 4, 4, 4], {"output_size": 1}, [[16.5]]),
        ([4, 4, 4, 4], {"output_size": 1, "aligned": True}, [[5.5]]),
        ([4, 4, 4, 4], {"output_size": 1, "aligned": True, "sampling_ratio": 0}, [[0]]),
        # Samples at -1.25 and -0.75 of each axis: the first is outside by more than a pixel.
        ([-4, -4, 0, 0], {"aligned": True, "sampling_ratio": 1}, [[0, 0], [0, 0]]),
        ([-4, 2, 0, 18], {"aligned": True, "sampling_ratio": 1}, [[0, 10], [0, 30]]),
        ([400, 400, 420, 430], {"sampling_ratio": 0}, [[0, 0], [0, 0]]),
        # 1000 samples side by side, a pixel apart, of which those at 0, 1, 2, 3 and 4 count: 0, 1, 2, 3, 3.
        ([0, 0, 4000, 4], {"output_size": 1, "aligned": True, "sampling_ratio": 0}, [[0.009]]),
        # Corner coordinates: the picture's last pixel is at 15.
        ([0, 0, 15, 15], {"crop_and_resize": True}, [[0, 3], [30, 33]]),
        ([0, 0, 15, 15], {"crop_and_resize": True, "output_size": 4}, RAMP[0, 0].tolist()),
        ([0, 5, 30, 10], {"crop_and_resize": True}, [[10, 0], [20, 0]]),
        ([-0.001, 0, 15.001, 15], {"crop_and_resize": True}, [[0, 3], [30, 33]]),
    ],
)
def test_a_ramp(dtype: Any, box: list[float], settings: dict[str, Any], expected: list[list[float]]) -> None:
    """By hand; the ramp is linear, so that a bin is its value at the middle of the bin's samples."""
    settings = {"output_size": 2, "sampling_ratio": 2, "aligned": False} | settings
    boxes = np.array([box], np.float32)
    found = pyramid_roi_align([RAMP.astype(dtype)], boxes, np.array([0]), **settings)
    np.testing.assert_allclose(found[0, 0].astype(np.float32), expected, rtol=2e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 5])
def test_linear_features_are_reproduced_on_every_level(sampling_ratio: int) -> None:
    """Features 3 x - 2 y + 1 in canvas pixels: a bin is the value at its centre, whatever the level and the samples."""
    rows, columns = ([(np.arange(512 // s) + 0.5) * s for s in (4, 8, 16, 32)] for _ in range(2))
    grids = [3 * x - 2 * y[:, None] + 1 for x, y in zip(columns, rows, strict=True)]
    boxes = np.array([[40, 50, 90, 70], [100, 60, 240, 260], [50, 100, 400, 300], [20, 24, 490, 484]], np.float32)
    pyramid = [grid[None, None].astype(np.float32) for grid in grids]
    found = pyramid_roi_align(pyramid, boxes, np.zeros(4, np.int64), output_size=7, sampling_ratio=sampling_ratio)
    assert levels_of(boxes, "floor", 4).tolist() == [0, 1, 2, 3]
    steps = (np.arange(7) + 0.5) / 7
    x, y = (boxes[:, i, None] + (boxes[:, i + 2] - boxes[:, i])[:, None] * steps for i in (0, 1))
    np.testing.assert_allclose(found[:, 0], 3 * x[:, None, :] - 2 * y[:, :, None] + 1, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "sides", "levels"),
    [
        ("floor", [1, 111.99, 112, 223.99, 224, 447.99, 448, 895.9, 896], [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        ("round", [1, 79.1, 79.3, 158.3, 158.5, 316.7, 316.9, 633.5, 633.7], [0, 0, 1, 1, 2, 2, 3, 3, 4]),
    ],
)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_level_goes_by_the_side_of_a_square(count: int, rule: str, sides: list[float], levels: list[int]) -> None:
    pyramid = [np.full((1, 1, 64 >> level, 64 >> level), level, np.float32) for level in range(count)]
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32)
    found = pyramid_roi_align(
        pyramid, boxes, np.zeros(len(sides), np.int64), output_size=7, sampling_ratio=1, aligned=True, level_rule=rule
    )
    np.testing.assert_allclose(found[:, 0, 0, 0], np.minimum(levels, count - 1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("crop_and_resize", [False, True])
def test_boxes_that_are_no_boxes_give_zeros(dtype: Any, sampling_ratio: int, crop_and_resize: bool) -> None:
    none, far = np.nan, np.inf
    boxes = np.array(
        [[none] * 4, [0, 0, none, 9], [-far, -far, far, far], [far, 0, 9, 9], [0, 0, 1e30, 1e30], [-1e30, 0, 9, 1e30],
         [3e38, 3e38, -3e38, -3e38], [0, 0, 1e20, 0]],
        np.float32,
    )  # fmt: skip
    pyramid = [np.ones((2, 3, 32 >> level, 32 >> level), dtype) for level in range(4)]
    found = pyramid_roi_align(
        pyramid, boxes, np.arange(8) % 2, output_size=2, sampling_ratio=sampling_ratio, crop_and_resize=crop_and_resize
    )
    assert not found.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("crop_and_resize", [False, True])
def test_infinite_pixels_reach_only_the_samples_beside_them(
    dtype: Any, sampling_ratio: int, crop_and_resize: bool
) -> None:
    pyramid = [np.ones((1, 3, 8, 8), dtype)]
    pyramid[0][..., 0, 0] = np.inf
    boxes = np.array([[-200, -200, -190, -190], [np.nan] * 4, [-200, 12, -190, 20], [12, 12, 24, 24]], np.float32)
    settings: dict[str, Any] = {"output_size": 2, "sampling_ratio": sampling_ratio, "crop_and_resize": crop_and_resize}
    found = pyramid_roi_align(pyramid, boxes, np.zeros(4, np.int64), **settings, aligned=True)
    assert not found[:3].any()
    np.testing.assert_array_equal(found[3], 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_image_that_is_not_there_gives_zeros(dtype: Any) -> None:
    """TensorRT may run a plugin on made-up inputs while it builds."""
    pyramid = [np.ones((2, 3, 8, 8), dtype)]
    boxes, images = np.array([[4, 4, 20, 20]] * 5, np.float32), np.array([0, 1, 2, -1, 2**40])
    found = pyramid_roi_align(pyramid, boxes, images, output_size=2)
    assert found[:2].all()
    assert not found[2:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_roi_gives_no_row(dtype: Any) -> None:
    boxes, images = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    assert pyramid_roi_align([RAMP.astype(dtype)], boxes, images, output_size=7).shape == (0, 1, 7, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_many_channels_are_shared_by_several_blocks(dtype: Any) -> None:
    """14 x 14 bins of 90 channels are more than a block makes; every RoI reads its own image."""
    values = np.arange(3 * 90).reshape(3, 90, 1, 1) / 256
    pyramid = [np.broadcast_to(values, (3, 90, 8, 8)).astype(dtype)]
    boxes, images = np.array([[2, 3, 20, 30]] * 4, np.float32), np.array([2, 0, 1, 2])
    found = pyramid_roi_align(pyramid, boxes, images, output_size=14)
    expected = np.broadcast_to(values.astype(dtype)[images], found.shape)
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=1e-6)
