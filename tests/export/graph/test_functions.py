"""The operators' standard-op bodies on ONNX Runtime, against plain numpy implementations written for the test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_protos

Array = NDArray[Any]
Run = Callable[..., Array]


def one_node_model(
    name: str, inputs: dict[str, int], output: int = TensorProto.FLOAT, **attributes: object
) -> onnx.ModelProto:
    """A model of one custom node; `inputs` and `output` hold element types."""
    node = helper.make_node(name, list(inputs), ["out"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(k, t, None) for k, t in inputs.items()],
        [helper.make_tensor_value_info("out", output, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=function_protos(), ir_version=10)


def operator(name: str, inputs: dict[str, int], output: int, **attributes: object) -> Run:
    """A function that runs one custom node on ONNX Runtime."""
    model = one_node_model(name, inputs, output, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(*values: Array) -> Array:
        outputs: list[Array] = session.run(None, dict(zip(inputs, values, strict=True)))
        return outputs[0]

    return run


def operator_of_onnx(name: str, *values: Array) -> Array:
    """What ONNX Runtime's own operator gives."""
    names = [f"x{i}" for i in range(len(values))]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, values, strict=True)
    ]
    output = helper.make_tensor_value_info("out", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node(name, names, ["out"])], "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, dict(zip(names, values, strict=True)))[0]
    return found


def nms_operator(
    iou_threshold: float = 0.5, score_threshold: float = 0.1, max_output: int = 100, pre_nms_topk: int = 0
) -> Run:
    inputs = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "groups": TensorProto.INT64}
    limits = {
        "iou_threshold": iou_threshold,
        "score_threshold": score_threshold,
        "max_output": max_output,
        "pre_nms_topk": pre_nms_topk,
    }
    return operator("MaskRcnnNms", inputs, TensorProto.INT64, plugin_version="1", plugin_namespace="maskrcnn", **limits)


def iou(a: Array, b: Array) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return float(inside / union) if union > 0 else 0.0


def numpy_nms(
    boxes: Array, scores: Array, groups: Array, iou_t: float, score_t: float, limit: int, best: int = 0
) -> Array:
    rows = []
    for image in range(len(boxes)):
        kept: list[int] = []
        for i in np.argsort(-scores[image], kind="stable")[: best or None]:
            rivals = [j for j in kept if groups[image, j] == groups[image, i]]
            box = boxes[image].astype(np.float64)
            if scores[image, i] > np.float32(score_t) and all(iou(box[i], box[j]) <= iou_t for j in rivals):
                kept.append(int(i))
        rows += [(image, i) for i in kept[:limit]]
    return np.array(rows or [(0, -1)], np.int64)


def scattered_boxes(rng: np.random.Generator, *shape: int, side: float = 300) -> Array:
    corner = rng.uniform(0, side, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(5, side / 3, (*shape, 2))], -1).astype(np.float32)


@pytest.mark.parametrize("group_count", [1, 5, 81, 300])
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_nms_is_the_plain_greedy_algorithm(group_count: int, limit: int) -> None:
    rng = np.random.default_rng(group_count * 1000 + limit)
    boxes = scattered_boxes(rng, 3, 60)
    groups = rng.integers(0, group_count, (3, 60))
    scores = rng.permutation(180).reshape(3, 60).astype(np.float32) / 180
    expected = numpy_nms(boxes, scores, groups, 0.3, 0.1, limit)
    np.testing.assert_array_equal(nms_operator(0.3, 0.1, limit)(boxes, scores, groups), expected)


@pytest.mark.parametrize("best", [1, 20, 60, 1000])
@pytest.mark.parametrize("distinct", [7, 180], ids=["tied scores", "distinct scores"])
def test_only_the_best_scores_take_part(best: int, distinct: int) -> None:
    rng = np.random.default_rng(best)
    boxes, groups = scattered_boxes(rng, 3, 60), rng.integers(0, 5, (3, 60))
    scores = rng.permutation(180).reshape(3, 60).astype(np.float32) % distinct / distinct
    expected = numpy_nms(boxes, scores, groups, 0.3, 0.1, 25, best)
    np.testing.assert_array_equal(nms_operator(0.3, 0.1, 25, best)(boxes, scores, groups), expected)


def test_the_limit_is_topk_before_onnx_runtimes_own_operator() -> None:
    rng = np.random.default_rng(7)
    boxes, scores = scattered_boxes(rng, 1, 300), rng.random((1, 300), np.float32)
    order = torch.topk(torch.from_numpy(scores[0]), 120).indices.numpy()
    plain = operator_of_onnx(
        "NonMaxSuppression",
        boxes[:, order],
        scores[:, None, order],
        np.array([50]),
        np.float32([0.4]),
        np.float32([0.2]),
    )
    kept = nms_operator(0.4, 0.2, 50, 120)(boxes, scores, np.zeros((1, 300), np.int64))
    assert kept[:, 1].tolist() == order[plain[:, 2]].tolist()


def test_equal_scores_go_by_the_lower_index() -> None:
    boxes = np.array([[[0, 0, 10, 10], [50, 0, 60, 10], [1, 0, 11, 10], [100, 0, 110, 10]]], np.float32)
    scores = np.full((1, 4), 0.5, np.float32)
    kept = nms_operator()(boxes, scores, np.zeros((1, 4), np.int64))
    assert kept.tolist() == [[0, 0], [0, 1], [0, 3]]


def test_groups_do_not_suppress_each_other_however_large_their_ids() -> None:
    boxes = np.tile(np.array([[[3, 4, 1300.25, 900.5]]], np.float32), (1, 6, 1))
    scores = np.linspace(0.9, 0.4, 6, dtype=np.float32)[None]
    groups = np.array([[0, 16, 1, 999, 17, 999]], np.int64)
    assert nms_operator()(boxes, scores, groups)[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_small_boxes_of_a_far_group_keep_their_overlap() -> None:
    # Their IoU is 0.49813: an offset that left coordinates a step of 0.01 px could not tell it from 0.4975.
    boxes = np.array([[[1300, 800, 1312, 808], [1304.02, 800, 1316.02, 808], [0, 0, 1333, 1333]]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7]], np.float32)
    groups = np.array([[95, 95, 0]], np.int64)
    assert nms_operator(0.5)(boxes, scores, groups)[:, 1].tolist() == [0, 1, 2]
    assert nms_operator(0.4975)(boxes, scores, groups)[:, 1].tolist() == [0, 2]


def test_an_iou_at_the_threshold_does_not_suppress() -> None:
    boxes = np.array([[[0, 0, 8, 8], [0, 0, 8, 4]]], np.float32)
    scores = np.array([[0.9, 0.8]], np.float32)
    kept = nms_operator(0.5)(boxes, scores, np.zeros((1, 2), np.int64))
    assert kept.tolist() == [[0, 0], [0, 1]]


def test_a_score_at_the_threshold_is_no_candidate() -> None:
    scores = np.array([[0.25, 0.250001]], np.float32)
    boxes = np.array([[[0, 0, 8, 8], [20, 0, 28, 8]]], np.float32)
    assert nms_operator(score_threshold=0.25)(boxes, scores, np.zeros((1, 2), np.int64)).tolist() == [[0, 1]]


def test_an_empty_image_leaves_no_row_and_an_empty_batch_leaves_one() -> None:
    boxes = scattered_boxes(np.random.default_rng(1), 3, 4)
    groups = np.zeros((3, 4), np.int64)
    scores = np.zeros((3, 4), np.float32)
    assert nms_operator()(boxes, scores, groups).tolist() == [[0, -1]]
    scores[2, 1] = 0.5
    assert nms_operator()(boxes, scores, groups).tolist() == [[2, 1]]


def test_boxes_without_area_and_left_of_the_origin() -> None:
    boxes = np.array([[[-20, -5, -10, 5], [0, 0, 0, 0], [0, 0, 0, 0], [-19, -5, -10, 5]]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    groups = np.array([[3, 3, 3, 3]], np.int64)
    assert nms_operator()(boxes, scores, groups)[:, 1].tolist() == [0, 1, 2]


ALIGN_INPUTS = dict.fromkeys(["p2", "p3", "p4", "p5", "boxes"], TensorProto.FLOAT) | {"image_index": TensorProto.INT64}
ALIGN_SETTINGS: dict[str, Any] = {
    "output_size": 3,
    "sampling_ratio": 2,
    "aligned": 0,
    "crop_and_resize": 0,
    "level_rule": "floor",
}


def align_operator(feature_type: int = TensorProto.FLOAT, **attributes: object) -> Run:
    inputs = ALIGN_INPUTS | dict.fromkeys(["p2", "p3", "p4", "p5"], feature_type)
    return operator("PyramidRoiAlign", inputs, feature_type, **(ALIGN_SETTINGS | attributes))


def level_of(box: Array, rule: str, canvas_hw: tuple[int, int], corner: bool) -> int:
    """Level 2..5, by the formulas of the papers' code."""
    w, h = (float(v) for v in box[2:] - box[:2])
    if corner:
        w, h = w / (canvas_hw[1] - 1) * canvas_hw[1], h / (canvas_hw[0] - 1) * canvas_hw[0]
    if w * h <= 0:
        return 2
    exact = 4 + math.log2(math.sqrt(w * h) / 224)
    return min(max(math.floor(exact) if rule == "floor" else round(exact), 2), 5)


def bilinear(feature: Array, y: float, x: float, margin: float) -> Array:
    """Feature [C, H, W] at a point: zero beyond `margin` pixels outside (RoIAlign: 1), clamped within."""
    h, w = feature.shape[1:]
    if not (-margin <= y <= h - 1 + margin and -margin <= x <= w - 1 + margin):
        return np.zeros(feature.shape[0])
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    fy, fx = y - y0, x - x0
    top = feature[:, y0, x0] * (1 - fx) + feature[:, y0, x1] * fx
    bottom = feature[:, y1, x0] * (1 - fx) + feature[:, y1, x1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


def sample_positions(begin: float, end: float, size: int, ratio: int) -> list[list[float]]:
    """For each bin, the positions of its samples along one axis."""
    bin_size = (end - begin) / size
    count = ratio if ratio > 0 else math.ceil(bin_size)
    return [[begin + (i + (s + 0.5) / count) * bin_size for s in range(count)] for i in range(size)]


def numpy_align(pyramid: list[Array], boxes: Array, images: Array, settings: dict[str, Any]) -> Array:
    size, corner = settings["output_size"], bool(settings["crop_and_resize"])
    canvas_hw = (pyramid[0].shape[2] * 4, pyramid[0].shape[3] * 4)
    out = np.zeros((len(boxes), pyramid[0].shape[1], size, size))
    for r, box in enumerate(boxes.astype(np.float64)):
        level = level_of(boxes[r], settings["level_rule"], canvas_hw, corner)
        feature = pyramid[level - 2][images[r]].astype(np.float64)
        axes = []
        for axis in (1, 0):
            begin, end = box[axis], box[axis + 2]
            if corner:  # TensorFlow's crop_and_resize: begin, ..., end, both included
                scale = (feature.shape[2 - axis] - 1) / (canvas_hw[1 - axis] - 1)
                axes.append([[float(p)] for p in np.linspace(begin * scale, end * scale, size)])
                continue
            begin, end = begin / 2**level, end / 2**level
            begin, end = (begin - 0.5, end - 0.5) if settings["aligned"] else (begin, max(end, begin + 1))
            axes.append(sample_positions(begin, end, size, settings["sampling_ratio"]))
        margin = 0 if corner else 1
        for i, ys in enumerate(axes[0]):
            for j, xs in enumerate(axes[1]):
                values = [bilinear(feature, y, x, margin) for y in ys for x in xs]
                out[r, :, i, j] = np.mean(values, axis=0) if values else 0.0
    return out


def random_pyramid(rng: np.random.Generator, n: int = 2, h: int = 640, w: int = 768) -> list[Array]:
    return [rng.standard_normal((n, 2, h // s, w // s)).astype(np.float32) for s in (4, 8, 16, 32)]


BOXES = np.array(
    [
        [10.3, 20.7, 31.9, 44.2],  # level 2
        [0, 0, 767, 639],  # level 5: the whole canvas
        [100.5, 80.25, 300.75, 290.5],  # level 3
        [200, 100, 460, 380],  # level 4
        [5, 5, 5.5, 5.5],  # below a pixel of the feature map
        [0, 0, 0, 0],  # a padding row
        [700, 600, 767, 639],  # touches the far corner
        [300, 10, 390, 100],  # 90 px: level 2 by floor, 3 by round
    ],
    np.float32,
)
OUTSIDE = np.array([[-30, -40, 60, 70], [740, 620, 900, 700], [-500, -500, -400, -400]], np.float32)
IMAGES = np.array([0, 1, 1, 0, 1, 0, 1, 0], np.int64)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"aligned": 0, "sampling_ratio": 2}, id="torchvision"),
        pytest.param({"aligned": 1, "sampling_ratio": 0}, id="detectron2"),
        pytest.param({"aligned": 1, "sampling_ratio": 2}, id="aligned, two samples"),
        pytest.param({"aligned": 0, "sampling_ratio": 0}, id="unaligned, adaptive"),
        pytest.param({"crop_and_resize": 1, "sampling_ratio": 1, "level_rule": "round"}, id="Matterport"),
        pytest.param({"aligned": 1, "level_rule": "round", "output_size": 7}, id="round"),
    ],
)
def test_roi_align_is_the_plain_algorithm(settings: dict[str, Any]) -> None:
    full = ALIGN_SETTINGS | settings
    pyramid = random_pyramid(np.random.default_rng(0))
    boxes, images = np.concatenate([BOXES, OUTSIDE]), np.concatenate([IMAGES, np.array([0, 1, 1])])
    found = align_operator(**full)(*pyramid, boxes, images)
    np.testing.assert_allclose(found, numpy_align(pyramid, boxes, images, full), atol=2e-4)


@pytest.mark.parametrize(
    ("rule", "sides", "levels"),
    [
        pytest.param("floor", [111.99, 112, 223.99, 224, 447.99, 448, 600], [2, 3, 3, 4, 4, 5, 5], id="floor"),
        pytest.param("round", [79.1, 79.3, 158.3, 158.5, 316.7, 316.9], [2, 3, 3, 4, 4, 5], id="round"),
    ],
)
def test_level_by_the_side_of_a_square(rule: str, sides: list[float], levels: list[int]) -> None:
    pyramid = [np.full((1, 1, 640 // s, 640 // s), level, np.float32) for level, s in enumerate((4, 8, 16, 32), 2)]
    boxes = np.array([[0, 0, s, s] for s in sides], np.float32)
    found = align_operator(level_rule=rule)(*pyramid, boxes, np.zeros(len(sides), np.int64))
    assert found[:, 0, 0, 0].tolist() == levels


def test_no_roi_gives_no_row() -> None:
    found = align_operator()(*random_pyramid(np.random.default_rng(0)), BOXES[:0], IMAGES[:0])
    assert found.shape == (0, 2, 3, 3)


def test_half_precision_features_keep_single_precision_boxes() -> None:
    pyramid = random_pyramid(np.random.default_rng(0))
    found = align_operator(TensorProto.FLOAT16)(*[p.astype(np.float16) for p in pyramid], BOXES, IMAGES)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, align_operator()(*pyramid, BOXES, IMAGES), atol=5e-3)


def test_functions_name_every_attribute_of_their_operator() -> None:
    functions = {function.name: function for function in function_protos()}
    nms, align = functions["MaskRcnnNms"], functions["PyramidRoiAlign"]
    assert set(nms.attribute) == {"iou_threshold", "score_threshold", "max_output", "pre_nms_topk"}
    assert set(align.attribute) == {"output_size", "sampling_ratio", "aligned", "crop_and_resize", "level_rule"}
    assert {o.version for f in functions.values() for o in f.opset_import if not o.domain} == {OPSET}


def test_a_runtime_without_functions_can_have_them_inlined() -> None:
    inlined = onnx.inliner.inline_local_functions(one_node_model("PyramidRoiAlign", ALIGN_INPUTS, **ALIGN_SETTINGS))
    assert len(inlined.functions) == 0
    assert {n.domain for n in inlined.graph.node} == {""}
