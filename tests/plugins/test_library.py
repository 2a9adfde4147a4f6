"""The built plugin library in NVIDIA's registry, ONNX parser and builder; none of this needs a GPU.

What only a GPU can show, an engine that is deserialised and run, is not here.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.plugins import rtx
from tests.plugins.rtx import Case, Outcome

CHANNELS, BOXES, KEPT = 16, 50, 8

NMS = {"iou_threshold": 0.5, "score_threshold": 0.05, "max_output": KEPT, "pre_nms_topk": 40}
ROI_ALIGN = {"output_size": 7, "sampling_ratio": 2, "aligned": 1, "crop_and_resize": 0, "level_rule": "floor"}
ON_THE_NODE = {"domain": "maskrcnn", "plugin_version": "1", "plugin_namespace": "maskrcnn"}

PROFILE = {
    "images": [[1, 3, 64, 64], [8, 3, 128, 96], [8, 3, 256, 256]],
    "boxes": [[1, BOXES, 4], [8, BOXES, 4], [8, BOXES, 4]],
    "scores": [[1, BOXES], [8, BOXES], [8, BOXES]],
    "groups": [[1, BOXES], [8, BOXES], [8, BOXES]],
}
"""Batch 1 to 8, canvases of several sizes."""

WITH_LIBRARY: dict[str, dict[str, Any]] = {
    "half": {"build": True},
    "float": {"build": True, "element": TensorProto.FLOAT},
    "two levels": {"levels": ["p2", "p3"]},
    "fixed batch": {"batch": 3},
    "no limit before NMS": {"without": "pre_nms_topk"},
    "one level in float": {"build": True, "levels": ["p2", "p3_float", "p4", "p5"]},
    **{f"without {name}": {"without": name} for name in [*NMS, *ROI_ALIGN] if name != "pre_nms_topk"},
    **{
        f"{name} {value}": {"change": {name: value}}
        for name, value in [
            ("max_output", 0),
            ("pre_nms_topk", -1),
            ("iou_threshold", 1.5),
            ("score_threshold", float("nan")),
            ("output_size", 0),
            ("sampling_ratio", -1),
            ("aligned", 2),
            ("level_rule", "ceil"),
        ]
    },
    "crop of one sample": {"change": {"crop_and_resize": 1, "output_size": 1}},
    "no levels": {"levels": []},
    "nine levels": {"levels": ["p2"] * 9},
    "scores of another length": {"scores": BOXES + 1},
}
"""Name of a graph, and how it differs from the plain one in half precision."""


def graph(
    *,
    element: int = TensorProto.FLOAT16,
    levels: list[str] | None = None,
    batch: int | str = "batch",
    scores: int = BOXES,
    without: str = "",
    change: dict[str, Any] | None = None,
    build: bool = False,
) -> onnx.ModelProto:
    """A stem, four levels, NMS of given boxes, and RoIAlign of those that were kept; a convolution on the result."""
    values = {name: value for name, value in (NMS | ROI_ALIGN | (change or {})).items() if name != without}
    nms = {name: values[name] for name in NMS if name in values}
    roi_align = {name: values[name] for name in ROI_ALIGN if name in values}
    names = ["p2", "p3", "p4", "p5"] if levels is None else levels
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=element),
        helper.make_node("Conv", ["pixels", "stem"], ["p2"], strides=[4, 4]),
        *(
            helper.make_node("MaxPool", [f"p{i}"], [f"p{i + 1}"], kernel_shape=[2, 2], strides=[2, 2])
            for i in (2, 3, 4)
        ),
        helper.make_node("Cast", ["p3"], ["p3_float"], to=TensorProto.FLOAT),
        helper.make_node("MaskRcnnNms", ["boxes", "scores", "groups"], ["kept"], name="nms", **nms, **ON_THE_NODE),
        helper.make_node("Max", ["kept", "zero"], ["rows"]),
        helper.make_node("GatherND", ["boxes", "rows"], ["rois"]),
        helper.make_node("Gather", ["kept", "zero"], ["image_index"], axis=1),
        helper.make_node(
            "PyramidRoiAlign", [*names, "rois", "image_index"], ["aligned"], name="align", **roi_align, **ON_THE_NODE
        ),
        helper.make_node("Conv", ["aligned", "head"], ["head_out"]),
        helper.make_node("Cast", ["head_out"], ["features"], to=TensorProto.FLOAT),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, "height", "width"]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, BOXES, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, scores]),
        helper.make_tensor_value_info("groups", TensorProto.INT64, [batch, BOXES]),
    ]
    outputs = [
        helper.make_tensor_value_info("kept", TensorProto.INT64, ["M", 2]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["M", CHANNELS, 7, 7]),
    ]
    constants = [_weight("stem", 3, element), _weight("head", CHANNELS, element)]
    constants.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("maskrcnn", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "small", inputs, outputs, constants), opset_imports=opsets, ir_version=10
    )


def _weight(name: str, channels: int, element: int) -> onnx.TensorProto:
    values = np.random.default_rng(0).standard_normal((CHANNELS, channels, 1, 1)) * 0.1
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(element)), name)


@pytest.fixture(scope="module")
def with_library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What the parser and the builder make of every graph of WITH_LIBRARY, in one process."""
    rtx.require_rtx()
    library = rtx.require_library()
    folder = tmp_path_factory.mktemp("graphs")
    cases = []
    for i, settings in enumerate(WITH_LIBRARY.values()):
        onnx.save(graph(**settings), folder / f"{i}.onnx")
        cases.append(Case(str(folder / f"{i}.onnx"), PROFILE if settings.get("build") else None))
    return dict(zip(WITH_LIBRARY, rtx.outcomes(cases, folder, library), strict=True))


@pytest.mark.parametrize("precision", ["half", "float"])
def test_parser_makes_plugin_layers_and_builder_an_engine(with_library: dict[str, Outcome], precision: str) -> None:
    outcome = with_library[precision]
    assert outcome.parsed
    assert outcome.plugins == ["nms", "align"]
    assert outcome.outputs == {"kept": [[-1, 2], "INT64"], "features": [[-1, CHANNELS, 7, 7], "FLOAT"]}
    assert outcome.engine is not None, outcome.log


def test_rows_are_images_times_max_output(with_library: dict[str, Outcome]) -> None:
    outcome = with_library["fixed batch"]
    assert outcome.outputs["kept"][0] == [3 * KEPT, 2]
    assert outcome.outputs["features"][0] == [3 * KEPT, CHANNELS, 7, 7]


@pytest.mark.parametrize("name", ["two levels", "no limit before NMS"])
def test_forms_that_parse_as_well(with_library: dict[str, Outcome], name: str) -> None:
    assert with_library[name].plugins == ["nms", "align"], with_library[name].log


def test_levels_of_two_types_are_refused(with_library: dict[str, Outcome]) -> None:
    outcome = with_library["one level in float"]
    assert outcome.parsed
    assert outcome.engine is None
    assert "format" in outcome.log


@pytest.mark.parametrize("name", [name for name in [*NMS, *ROI_ALIGN] if name != "pre_nms_topk"])
def test_a_missing_attribute_is_named_in_the_log(with_library: dict[str, Outcome], name: str) -> None:
    outcome = with_library[f"without {name}"]
    operator = "MaskRcnnNms" if name in NMS else "PyramidRoiAlign"
    assert not outcome.parsed
    assert f"{operator}: attribute {name} is missing: it must stand on the ONNX node" in outcome.log


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("max_output 0", "MaskRcnnNms: attribute max_output must be at least 1, not 0"),
        ("pre_nms_topk -1", "MaskRcnnNms: attribute pre_nms_topk must be at least 0, not -1"),
        ("iou_threshold 1.5", "MaskRcnnNms: attribute iou_threshold must be between 0 and 1, not 1.5"),
        ("score_threshold nan", "MaskRcnnNms: attribute score_threshold must be a number, not NaN"),
        ("output_size 0", "PyramidRoiAlign: attribute output_size must be at least 1, not 0"),
        ("crop of one sample", "PyramidRoiAlign: attribute output_size must be at least 2, not 1"),
        ("sampling_ratio -1", "PyramidRoiAlign: attribute sampling_ratio must be at least 0, not -1"),
        ("aligned 2", "PyramidRoiAlign: attribute aligned must be 0 or 1, not 2"),
        ("level_rule ceil", "PyramidRoiAlign: attribute level_rule must be floor or round, not ceil"),
        ("no levels", "PyramidRoiAlign: takes 1 to 8 levels, then boxes and image_index, not 2 inputs"),
        ("nine levels", "PyramidRoiAlign: takes 1 to 8 levels, then boxes and image_index, not 11 inputs"),
        ("scores of another length", "MaskRcnnNms: scores must be [N, A] as the boxes, not [?, 51]"),
    ],
)
def test_what_it_cannot_take_is_said_in_the_log(with_library: dict[str, Outcome], name: str, sentence: str) -> None:
    outcome = with_library[name]
    assert sentence in outcome.log
    assert outcome.engine is None


def test_without_the_library_the_parser_refuses(tmp_path: Path) -> None:
    rtx.require_rtx()
    onnx.save(graph(), tmp_path / "half.onnx")
    (outcome,) = rtx.outcomes([Case(str(tmp_path / "half.onnx"))], tmp_path, None)
    assert not outcome.parsed
    assert outcome.plugins == []
    assert "MaskRcnnNms" in outcome.log


def test_the_library_needs_nothing_of_tensorrt_to_be_linked() -> None:
    """Exported is what TensorRT and the loader look for, and nothing else; TensorRT comes from the process."""
    if shutil.which("nm") is None:
        pytest.skip("there is no nm (binutils)")
    table = subprocess.run(["nm", "-D", rtx.built_library()], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in table.splitlines()]
    exported = {name for kind, name in symbols if kind == "T"}
    wanted = {name for kind, name in symbols if kind == "U"}
    versions = {"maskline_plugins_operators_version", "maskline_plugins_tensorrt_version"}
    assert exported == {"getCreators", "setLoggerFinder"} | versions
    assert not [name for name in wanted if "nvinfer" in name or name.startswith(("cuda", "getPlugin", "getLogger"))]
