"""A model in a few nodes with the graph's interface: one detection a picture, which fills its window.

Its score is the canvas's mean / 255, its class 1, its mask 0.9 everywhere.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MASK_SIZE = 28


def tiny_onnx() -> bytes:
    def constant(name: str, value: object, dtype: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype), name)

    nodes = [
        helper.make_node("Shape", ["images"], ["count"], start=0, end=1),
        helper.make_node("Squeeze", ["count"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["range"]),
        helper.make_node("Cast", ["range"], ["index"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["index", "axis_1"], ["index_column"]),
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes_hwc"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["score"]),
        helper.make_node("Unsqueeze", ["score", "axis_1"], ["score_column"]),
        helper.make_node("Sub", ["score_column", "score_column"], ["nothing"]),
        helper.make_node("Add", ["nothing", "class"], ["class_column"]),
        helper.make_node("Concat", ["index_column", "windows", "score_column", "class_column"], ["detections"], axis=1),
        helper.make_node("Concat", ["count", "sides"], ["mask_shape"], axis=0),
        helper.make_node("Expand", ["mask_value", "mask_shape"], ["masks"]),
    ]
    constants = [
        constant("zero", 0, np.int64),
        constant("one", 1, np.int64),
        constant("axis_1", [1], np.int64),
        constant("axes_hwc", [1, 2, 3], np.int64),
        constant("white", 255, np.float32),
        constant("class", 1, np.float32),
        constant("sides", [MASK_SIZE, MASK_SIZE], np.int64),
        constant("mask_value", [[[0.9]]], np.float32),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3]),
            helper.make_tensor_value_info("windows", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["M", 7]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, ["M", MASK_SIZE, MASK_SIZE]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
