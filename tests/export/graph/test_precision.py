"""Half precision: what is folded, what is float16 in the graph, and how near its answers are to float32's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from export.graph.precision import PrecisionError, fold_norms, half_precision
from export.model.config import ModelConfig
from tests.export.graph.small import FAMILIES, small_model, traced_half
from tests.export.model.families import DETECTRON2, MATTERPORT, NATIVE, TORCHVISION_V2, draw

Array = NDArray[Any]

WINDOWS = np.array([[0, 0, 128, 96], [0, 0, 100, 70]], np.float32)


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize("config", [pytest.param(c, id=c.family) for c in (NATIVE, TORCHVISION_V2, MATTERPORT)])
@torch.no_grad()
def test_folding_batch_norm_changes_no_answer(config: ModelConfig) -> None:
    model = draw(config).double()
    folded = fold_norms(model)
    assert norms(folded) == 0 < norms(model)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator, dtype=torch.float64)
    rois = [torch.randn(3, 8, size, size, generator=generator, dtype=torch.float64) for size in (7, 14)]

    def answers(m: Any) -> list[Tensor]:
        return [*m.fpn(m.backbone(images)), *m.box_head(rois[0]), m.mask_head(rois[1])]

    torch.testing.assert_close(answers(folded), answers(model), rtol=1e-9, atol=1e-9)


def test_the_model_itself_stays_as_it_is() -> None:
    model = draw(TORCHVISION_V2)
    before = copy.deepcopy(model.state_dict())
    half = half_precision(model)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@torch.no_grad()
def test_a_variance_beyond_half_precision_is_folded_away() -> None:
    model = draw(DETECTRON2)
    stem = model.backbone.stem
    stem.conv.weight.mul_(1000)
    stem.norm.running_var.fill_(1e7)  # type: ignore[union-attr]  # None only where not tracked
    half = half_precision(model)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255 - 128
    found, expected = half.backbone.stem(images.half()), stem(images)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("value", [7e4, -1e30, float("inf"), float("nan")])
def test_a_weight_beyond_half_precision_is_named(value: float) -> None:
    model = draw(NATIVE)
    with torch.no_grad():
        model.fpn.get_parameter("lateral.1.0.weight")[0, 0] = value
    with pytest.raises(PrecisionError, match=r"^fpn\.lateral\.1\.0\.weight .*--precision fp32"):
        half_precision(model)


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor in a graph."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {t.name: t.data_type for t in graph.initializer}
    return types | {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_are_half_and_boxes_and_scores_are_single(family: str) -> None:
    proto = traced_half(family)
    types = element_types(proto)
    half, single, index = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
    expected = {
        "Conv": {half},
        "ConvTranspose": {half},
        "Gemm": {half},
        "PyramidRoiAlign": {(half, half, half, half, single, index)},
        "MaskRcnnNms": {(single, single, index)},
        "Softmax": {single},
        "Exp": {single},
        "Sigmoid": {single},
    }
    found: dict[str, set[Any]] = {name: set() for name in expected}
    for node in proto.graph.node:
        inputs = tuple(types[name] for name in node.input if name)
        if node.domain:
            found[node.op_type].add(inputs)
        elif node.op_type in expected:
            found[node.op_type].update(inputs)
    assert found == expected
    assert [types[v.name] for v in proto.graph.output] == [single, single]
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)


def agreeing(found: Array, expected: Array) -> int:
    """Rows of `expected` with one in `found` of the same image and class, within 1 px and 0.02 of score."""
    same = (found[None, :, [0, 6]] == expected[:, None, [0, 6]]).all(-1)
    near = np.abs(found[None, :, 1:5] - expected[:, None, 1:5]).max(-1) <= 1
    close = np.abs(found[None, :, 5] - expected[:, None, 5]) <= 0.02
    return int((same & near & close).any(1).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cpu_gives_nearly_the_answers_of_single_precision(family: str) -> None:
    model = small_model(family)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3)).astype(model.config.input.dtype)
    session = onnxruntime.InferenceSession(traced_half(family).SerializeToString(), providers=["CPUExecutionProvider"])
    detections, masks = session.run(None, {"images": pixels, "windows": WINDOWS})
    with torch.inference_mode():
        expected, expected_masks = model(torch.from_numpy(pixels), torch.from_numpy(WINDOWS))
    assert len(expected) > 10
    assert masks.shape[1:] == expected_masks.shape[1:]
    assert agreeing(detections, expected.numpy()) >= 0.9 * len(expected)
