"""The traced model on ONNX Runtime, against the PyTorch model that it was traced from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.graph.trace import tensorrt_obstacle
from export.model.config import ModelConfig, RpnConfig
from export.model.mask_rcnn import MaskRCNN

Array = NDArray[Any]


@pytest.fixture
def session(tiny_bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(tiny_bundle / "model.onnx", providers=["CPUExecutionProvider"])


def pictures(n: int, height: int, width: int, seed: int = 0) -> Array:
    """Rectangles on noise, [n, height, width, 3]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (n, height, width, 3), dtype=np.uint8)
    for image in images:
        for _ in range(6):
            y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
            image[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(0, 256, 3)
    return images


def full_windows(images: Array) -> Array:
    return np.array([[0, 0, images.shape[2], images.shape[1]]] * len(images), np.float32)


def run(session: onnxruntime.InferenceSession, images: Array, windows: Array) -> tuple[Array, Array]:
    detections, masks = session.run(["detections", "masks"], {"images": images, "windows": windows})
    return detections, masks


def run_torch(model: MaskRCNN, images: Array, windows: Array) -> tuple[Array, Array]:
    with torch.inference_mode():
        detections, masks = model(torch.from_numpy(images), torch.from_numpy(windows))
    return detections.numpy(), masks.numpy()


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 32, 32), (1, 96, 160), (3, 160, 96), (3, 64, 64), (1, 256, 320)],
)
def test_every_canvas_and_batch_gives_the_model_s_answer(
    session: onnxruntime.InferenceSession, tiny_model: MaskRCNN, batch: int, height: int, width: int
) -> None:
    images = pictures(batch, height, width)
    windows = full_windows(images) - np.array([0, 0, 5, 9], np.float32)
    detections, masks = run(session, images, windows)
    expected_detections, expected_masks = run_torch(tiny_model, images, windows)
    assert set(detections[:, 0]) == set(range(batch))
    np.testing.assert_allclose(detections, expected_detections, atol=1e-3)
    np.testing.assert_allclose(masks, expected_masks, atol=1e-4)


def test_a_batch_gives_each_picture_its_own_answer(session: onnxruntime.InferenceSession) -> None:
    images = pictures(3, 96, 128, seed=5)
    windows = full_windows(images)
    detections, masks = run(session, images, windows)
    for i in range(3):
        alone, alone_masks = run(session, images[i : i + 1], windows[i : i + 1])
        mine = detections[:, 0] == i
        np.testing.assert_allclose(detections[mine, 1:], alone[:, 1:], atol=1e-3)
        np.testing.assert_allclose(masks[mine], alone_masks, atol=1e-4)


def test_detections_are_grouped_by_image_and_fall_in_score(session: onnxruntime.InferenceSession) -> None:
    images = pictures(3, 96, 128)
    detections, _ = run(session, images, full_windows(images))
    order = np.lexsort((-detections[:, 5], detections[:, 0]))
    np.testing.assert_array_equal(order, np.arange(len(detections)))
    assert np.bincount(detections[:, 0].astype(int)).max() <= 20


def test_a_batch_without_any_detection_has_one_padding_row(
    session: onnxruntime.InferenceSession, tiny_model: MaskRCNN
) -> None:
    images = np.zeros((2, 64, 64, 3), np.uint8)
    nothing = np.zeros((2, 4), np.float32)
    detections, masks = run(session, images, nothing)
    assert masks.shape == (1, 28, 28)
    np.testing.assert_array_equal(detections, np.zeros((1, 7)))
    np.testing.assert_array_equal(run_torch(tiny_model, images, nothing)[0], detections)


def test_a_picture_without_detections_between_others_leaves_no_row(session: onnxruntime.InferenceSession) -> None:
    images = pictures(3, 64, 96)
    windows = full_windows(images)
    windows[1] = 0
    detections, _ = run(session, images, windows)
    assert set(detections[:, 0]) == {0, 2}


def test_pixels_outside_the_window_do_not_count(session: onnxruntime.InferenceSession) -> None:
    images = pictures(1, 96, 96)
    windows = np.array([[0, 0, 60, 50]], np.float32)
    clean = images.copy()
    clean[:, 50:], clean[:, :, 60:] = 0, 0
    np.testing.assert_array_equal(run(session, images, windows)[0], run(session, clean, windows)[0])


def test_nodes_carry_what_a_plugin_needs(traced: onnx.ModelProto) -> None:
    nodes = [node for node in traced.graph.node if node.domain == "maskrcnn"]
    assert [n.op_type for n in nodes] == ["MaskRcnnNms", "PyramidRoiAlign", "MaskRcnnNms", "PyramidRoiAlign"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    assert all(a.pop("plugin_version") == b"1" and a.pop("plugin_namespace") == b"maskrcnn" for a in attributes)
    proposal_nms, box_align, detection_nms, mask_align = attributes
    assert proposal_nms["iou_threshold"] == pytest.approx(0.7)
    assert proposal_nms["max_output"] == 40
    assert proposal_nms["pre_nms_topk"] == 0
    thresholds = {"iou_threshold": 0.5, "score_threshold": pytest.approx(0.05)}
    assert detection_nms == thresholds | {"max_output": 20, "pre_nms_topk": 0}
    settings = {"sampling_ratio": 2, "aligned": 0, "crop_and_resize": 0, "level_rule": b"floor"}
    assert box_align == settings | {"output_size": 7}
    assert mask_align == settings | {"output_size": 14}


def test_the_file_carries_a_function_for_each_custom_node(traced: onnx.ModelProto) -> None:
    onnx.checker.check_model(traced, full_check=True)
    assert {n.op_type for n in traced.graph.node if n.domain} <= {f.name for f in traced.functions}
    assert {o.domain: o.version for o in traced.opset_import} == {"": 20, "maskrcnn": 1}


def test_inputs_and_outputs_are_named_and_free_in_batch_canvas_and_rows(traced: onnx.ModelProto) -> None:
    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {v.name: shape(v) for v in traced.graph.input} == {
        "images": ["batch", "height", "width", 3],
        "windows": ["batch", 4],
    }
    assert {v.name: shape(v) for v in traced.graph.output} == {"detections": ["rows", 7], "masks": ["rows", 28, 28]}


def test_the_file_says_what_it_is_and_nothing_of_the_machine_that_made_it(traced: onnx.ModelProto) -> None:
    assert "circle, square" in traced.doc_string
    content = traced.SerializeToString()
    assert b".py" not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        pytest.param(RpnConfig(pre_nms_topk=3840), None, id="at TopK's limit"),
        pytest.param(RpnConfig(pre_nms_topk=3841), "3841 anchors of each level", id="above it"),
        pytest.param(RpnConfig(selection="joint", min_size=None, pre_nms_topk=6000), None, id="chosen by NMS"),
        pytest.param(RpnConfig(selection="joint", pre_nms_topk=6000), "6000 anchors of all levels", id="chosen before"),
    ],
)
def test_what_tensorrt_cannot_build_is_told_in_a_sentence(rule: RpnConfig, words: str | None) -> None:
    found = tensorrt_obstacle(ModelConfig(classes=("background", "thing"), rpn=rule))
    assert found is None if words is None else words in str(found)
