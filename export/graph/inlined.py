"""The graph for runtimes that take neither our operators nor functions in a model file: OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper
from onnxscript import optimizer

SHARED_BYTES = 1024
"""Weights of so many bytes stay in the file of the graph that this one is made of."""


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the functions written out, and without the branches that this model never takes."""
    plain = inliner.inline_local_functions(proto)
    _fold_strings(plain.graph)
    with _quiet():
        plain = optimizer.optimize(plain)
    onnx.checker.check_model(plain)
    return plain


def share_weights(proto: onnx.ModelProto, source: Path) -> None:
    """Says of the large weights of `proto` where they are in `source`, an ONNX file, instead of holding them.

    `proto` must then be saved beside `source`. Raises `ValueError` for a weight that is not in it.
    """
    stored = source.read_bytes()
    for tensor in proto.graph.initializer:
        length = len(tensor.raw_data)
        if length < SHARED_BYTES:
            continue
        offset = stored.find(tensor.raw_data)
        if offset < 0:
            raise ValueError(f"{source} does not hold the weight {tensor.name}.")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": source.name, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))


def _fold_strings(graph: onnx.GraphProto) -> None:
    """A string attribute of a node that is compared becomes a constant: the optimizer and OpenVINO hold no strings."""
    texts: dict[str, bytes] = {}
    nodes = []
    for node in graph.node:
        text = _text(node, texts)
        if text is not None:
            texts[node.output[0]] = text
        elif node.op_type == "Equal" and node.input[0] in texts:
            equal = np.array(texts[node.input[0]] == texts[node.input[1]])
            nodes.append(helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(equal)))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _text(node: onnx.NodeProto, texts: dict[str, bytes]) -> bytes | None:
    """The string that a node puts out."""
    if node.op_type == "CastLike":
        return texts.get(node.input[0])
    if node.op_type != "Constant":
        return None
    (attribute,) = node.attribute
    if attribute.name == "value_string":
        return bytes(attribute.s)
    is_text = attribute.name == "value" and attribute.t.data_type == TensorProto.STRING
    return bytes(attribute.t.string_data[0]) if is_text else None


@contextmanager
def _quiet() -> Iterator[None]:
    """The optimizer logs every node that it leaves alone."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
