"""The graph with its functions written out, against the one that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.graph.inlined import inlined, share_weights
from tests.export.graph.test_trace import full_windows, pictures, run


def test_only_standard_nodes_without_functions_or_branches(traced: onnx.ModelProto) -> None:
    plain = inlined(traced)
    assert not plain.functions
    assert {opset.domain for opset in plain.opset_import} == {""}
    assert not {node.op_type for node in plain.graph.node} & {"If", "MaskRcnnNms", "PyramidRoiAlign"}
    assert not any(attribute.name == "value_string" for node in plain.graph.node for attribute in node.attribute)


@pytest.mark.parametrize("rule", ["floor", "round"])
def test_it_gives_the_same_answers(traced: onnx.ModelProto, rule: str) -> None:
    """`rule` decides a branch that hangs on a string."""
    for node in traced.graph.node:
        for attribute in node.attribute:
            if attribute.name == "level_rule":
                attribute.s = rule.encode()
    images = pictures(3, 96, 160)
    windows = full_windows(images) - np.array([0, 0, 5, 9], np.float32)
    found, expected = (
        run(onnxruntime.InferenceSession(proto.SerializeToString()), images, windows)
        for proto in (inlined(traced), traced)
    )
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)


def test_its_weights_may_stay_in_the_first_file(tiny_bundle: Path, traced: onnx.ModelProto, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes((tiny_bundle / "model.onnx").read_bytes())
    plain = inlined(traced)
    whole = plain.ByteSize()
    share_weights(plain, source)
    onnx.save(plain, tmp_path / "model.openvino.onnx")
    assert plain.ByteSize() < whole / 1.5
    images = pictures(1, 96, 160)
    session = onnxruntime.InferenceSession(tmp_path / "model.openvino.onnx")
    found = run(session, images, full_windows(images))
    expected = run(onnxruntime.InferenceSession(source), images, full_windows(images))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)


def test_a_file_without_the_weights_is_refused(traced: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"something else")
    with pytest.raises(ValueError, match="does not hold the weight"):
        share_weights(inlined(traced), tmp_path / "other.onnx")
