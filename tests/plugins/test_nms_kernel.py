"""The suppression kernel, emulated, against ONNX Runtime's NonMaxSuppression and against arrays drawn by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.plugins import emulated

Rows = list[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """Boxes [N, A, 4], scores [N, A], groups [N, A], and the settings."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.int64]
    iou_threshold: float = 0.5
    score_threshold: float = 0.0
    max_output: int = 100
    pre_nms_topk: int = 0

    def rows(self, seed: int = 1) -> Rows:
        """What the kernel gives, after a look at the rows that are left over."""
        kept = emulated.nms(
            self.boxes,
            self.scores,
            self.groups,
            iou_threshold=self.iou_threshold,
            score_threshold=self.score_threshold,
            max_output=self.max_output,
            pre_nms_topk=self.pre_nms_topk,
            seed=seed,
        )
        by_image = kept.reshape(len(self.scores), self.max_output, 2)
        for image, rows in enumerate(by_image):
            assert (rows[:, 0] == image).all()
            used = rows[:, 1] >= 0
            assert (rows[~used, 1] == -1).all()
            assert not used[np.count_nonzero(used) :].any()  # none after the first that is left over
        return [(int(image), int(index)) for image, index in kept if index >= 0]


def one_image(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], groups: Sequence[int], **settings: Any
) -> Case:
    return Case(
        np.array(boxes, np.float32).reshape(1, -1, 4),
        np.array(scores, np.float32).reshape(1, -1),
        np.array(groups, np.int64).reshape(1, -1),
        **settings,
    )


@cache
def _onnx_nms() -> onnxruntime.InferenceSession:
    kinds = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "most": TensorProto.INT64}
    kinds |= {"iou": TensorProto.FLOAT, "score": TensorProto.FLOAT}
    shapes: dict[str, list[str | int | None]] = {"boxes": ["N", "A", 4], "scores": ["N", "G", "A"]}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", list(kinds), ["kept"])],
        "nms",
        [helper.make_tensor_value_info(name, kind, shapes.get(name, [1])) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, ["M", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def expected(case: Case) -> Rows:
    """ONNX Runtime's answer, with a class of scores for each group."""
    return [(image, index) for image in range(len(case.scores)) for index in _expected_of(case, image)]


def _expected_of(case: Case, image: int) -> list[int]:
    scores = case.scores[image]
    order = np.lexsort((np.arange(scores.size), -scores))
    chosen = np.sort(order[: case.pre_nms_topk or None])
    chosen = chosen[scores[chosen] > case.score_threshold]
    if chosen.size == 0:
        return []
    groups = np.unique(case.groups[image, chosen], return_inverse=True)[1]
    by_group = np.full((groups.max() + 1, chosen.size), -np.inf, np.float32)
    by_group[groups, np.arange(chosen.size)] = scores[chosen]
    feeds = {
        "boxes": case.boxes[image, chosen][None],
        "scores": by_group[None],
        "most": np.array([case.max_output]),
        "iou": np.array([case.iou_threshold], np.float32),
        "score": np.array([case.score_threshold], np.float32),
    }
    kept = chosen[_onnx_nms().run(None, feeds)[0][:, 2]]
    kept = kept[np.lexsort((kept, -scores[kept]))]
    return [int(index) for index in kept[: case.max_output]]


def random_case(seed: int) -> Case:
    """Up to 3 images of up to 700 boxes: scores with many ties; every other case has whole coordinates, so that
    overlaps tie with the threshold and boxes have no area."""
    random = np.random.default_rng(seed)
    images, count = int(random.integers(1, 4)), int(random.choice([0, 1, 5, 63, 64, 65, 200, 700]))
    corners = random.uniform(0, 100, (images, count, 2))
    sizes = random.uniform(-2, 40, (images, count, 2))
    if seed % 2:
        corners, sizes = np.floor(corners / 4), np.floor(sizes / 4)
    group_count = random.choice([1, 5, 90])
    return Case(
        np.concatenate((corners, corners + sizes), axis=2).astype(np.float32),
        random.random((images, count)).round(random.integers(1, 4)).astype(np.float32),
        random.integers(0, group_count, (images, count)),
        iou_threshold=float(random.choice([0.0, 0.25, 0.3, 0.5, 0.7, 1.0])),
        score_threshold=float(random.choice([-1.0, 0.05, 0.5, 0.9])),
        max_output=int(random.choice([1, 7, 100, 800])),
        pre_nms_topk=int(random.choice([0, 0, 1, 50, 64, 300, 1000])),
    )


@pytest.mark.parametrize("block", range(10))
def test_random_cases_are_those_of_onnx_runtime(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        case = random_case(seed)
        assert case.rows(seed) == expected(case), f"case {seed}"


def many_boxes(count: int, side: float, decimals: int, **settings: Any) -> Case:
    random = np.random.default_rng(count)
    corners = random.uniform(0, side, (1, count, 2))
    boxes = np.concatenate((corners, corners + random.uniform(4, 60, (1, count, 2))), axis=2).astype(np.float32)
    scores = random.normal(size=(1, count)).round(decimals).astype(np.float32)
    return Case(boxes, scores, np.zeros((1, count), np.int64), **settings)


def test_the_anchors_of_a_large_picture() -> None:
    case = many_boxes(261_888, 1024, 2, iou_threshold=0.7, score_threshold=-100.0, max_output=1000, pre_nms_topk=6000)
    assert np.unique(case.scores).size < 1000
    assert len(found := case.rows()) == 1000
    assert found == expected(case)


@pytest.mark.parametrize("max_output", [2500, 9000])
def test_more_candidates_than_several_rounds_take(max_output: int) -> None:
    case = many_boxes(9000, 2000, 3, iou_threshold=0.3, score_threshold=-100.0, max_output=max_output)
    found = case.rows()
    assert len(found) == max_output or max_output == 9000
    assert len(found) > 2048
    assert found == expected(case)


def test_a_limit_that_cuts_through_equal_scores() -> None:
    apart = [[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(5000)]
    case = one_image(apart, [0.5] * 5000, [0] * 5000, max_output=4000, pre_nms_topk=3000)
    assert case.rows() == [(0, i) for i in range(3000)]


def test_equal_scores_go_by_the_lower_index() -> None:
    box = [0, 0, 10, 10]
    case = one_image([box, box, [20, 0, 30, 10], box], [0.5, 0.5, 0.9, 0.5], [0, 0, 0, 0])
    assert case.rows() == [(0, 2), (0, 0)]


def test_only_boxes_of_one_group_suppress_each_other() -> None:
    box = [0, 0, 10, 10]
    huge, least = 2**62, -(2**63)
    case = one_image([box] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [huge, least, huge + 1, -1, huge, -1])
    assert case.rows() == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [[4.0 * i, 0, 4.0 * i + 10, 10] for i in range(130)]  # neighbours overlap by 6 of 14, others by 2 of 18
    case = one_image(chain, np.linspace(1, 0.5, 130).tolist(), [0] * 130, iou_threshold=0.4)
    assert case.rows() == [(0, i) for i in range(0, 130, 2)]


def test_an_overlap_at_the_threshold_is_allowed() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6]]
    assert one_image(boxes, [0.9, 0.8, 0.7], [0, 0, 0], iou_threshold=0.5).rows() == [(0, 0), (0, 1)]


def test_boxes_without_area_and_with_swapped_corners() -> None:
    flat, swapped = [5, 5, 5, 9], [10, 10, 0, 0]
    case = one_image([flat, flat, swapped, [0, 0, 10, 10]], [0.9, 0.8, 0.7, 0.6], [0] * 4, iou_threshold=0.0)
    assert case.rows() == [(0, 0), (0, 1), (0, 2)]


def test_scores_that_do_not_take_part() -> None:
    apart = [[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(6)]
    case = one_image(apart, [np.nan, 0.05, np.inf, -np.inf, 0.06, -np.nan], [0] * 6, score_threshold=0.05)
    assert case.rows() == [(0, 2), (0, 4)]


def test_zero_and_negative_zero_are_one_score() -> None:
    apart = [[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(5)]
    case = one_image(apart, [-0.0, 0.0, -0.0, -1.0, 1e-40], [0] * 5, score_threshold=-2.0)
    assert case.rows() == [(0, 4), (0, 0), (0, 1), (0, 2), (0, 3)]


def test_nothing_above_the_threshold() -> None:
    assert one_image([[0, 0, 5, 5]] * 3, [0.1, 0.2, 0.3], [0] * 3, score_threshold=0.3).rows() == []


def test_no_boxes_and_no_images() -> None:
    assert one_image([], [], []).rows() == []
    none = Case(np.zeros((0, 7, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros((0, 7), np.int64))
    assert none.rows() == []


def test_images_do_not_touch_each_other() -> None:
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (3, 2, 1))
    scores = np.array([[0.1, 0.2], [0.0, 0.0], [0.9, 0.8]], np.float32)
    case = Case(boxes, scores, np.zeros((3, 2), np.int64), max_output=5)
    assert case.rows() == [(0, 1), (2, 0)]


@pytest.mark.parametrize("limit", [0, 2500])
def test_the_order_of_threads_changes_nothing(limit: int) -> None:
    case = many_boxes(3000, 300, 1, iou_threshold=0.5, score_threshold=-1.0, max_output=500, pre_nms_topk=limit)
    assert case.rows(seed=1) == case.rows(seed=2) == case.rows(seed=3) == expected(case)
