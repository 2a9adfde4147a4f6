"""Whole models in NVIDIA's ONNX parser and builder: their custom nodes become plugins, and there is an engine."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest

from tests.export.graph.small import FAMILIES, traced, traced_half
from tests.plugins import rtx
from tests.plugins.rtx import Case, Outcome

DEMO = Path(__file__).parents[2] / "models" / "demo" / "model.onnx"
"""A native model in float32, made before `pre_nms_topk` was an attribute of NMS."""

PROFILE = {
    "images": [[1, 64, 64, 3], [4, 128, 192, 3], [8, 320, 320, 3]],
    "windows": [[1, 4], [4, 4], [8, 4]],
}
"""Batch 1 to 8 and any canvas, in one profile."""

TRACERS = {"float32": traced, "half precision": traced_half}

NAMES = ("native in float32", *(f"{family} in {precision}" for family in FAMILIES for precision in TRACERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rtx.require_rtx()
    return tmp_path_factory.mktemp("rtx")


@pytest.fixture(scope="module")
def built(folder: Path) -> dict[str, Outcome]:
    """What came of each model, all in one process."""
    library = rtx.require_library()
    cases = [Case(str(DEMO), PROFILE)]
    for family, (precision, tracer) in itertools.product(FAMILIES, TRACERS.items()):
        path = folder / f"{family} {precision}.onnx"
        onnx.save(tracer(family), path)
        cases.append(Case(str(path), PROFILE))
    return dict(zip(NAMES, rtx.outcomes(cases, folder, library), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_becomes_an_engine_with_four_plugins(built: dict[str, Outcome], name: str) -> None:
    found = built[name]
    assert found.parsed, found.log
    assert len(found.plugins) == 4
    assert found.outputs == {"detections": [[-1, 7], "FLOAT"], "masks": [[-1, 28, 28], "FLOAT"]}
    assert found.engine, found.log


def test_without_the_library_no_node_is_a_plugin(folder: Path) -> None:
    (found,) = rtx.outcomes([Case(str(DEMO))], folder, None)
    assert found.plugins == []
