"""OpenVINO's own programs for the shapes that come often."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from server.engines import create_engine, openvino_
from server.engines.base import Detections
from server.engines.openvino_ import MOST_SHAPES, OFTEN, OpenVinoEngine
from server.repository import load_bundle
from tests.server.running import noise, write_bundle
from tests.server.tiny_onnx import tiny_onnx

pytest.importorskip("openvino")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "tiny", tiny_onnx())
    card = load_bundle(folder).card
    files = [card.files[0].model_copy(update={"engine": "openvino"})]
    (folder / "model.json").write_text(card.model_copy(update={"files": files}).model_dump_json())
    return folder


@pytest.fixture(autouse=True)
def always_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make the network a slow one."""
    monkeypatch.setattr(openvino_, "FAST_S", 60.0)


def engine_of(folder: Path, *, own_shapes: bool = True) -> OpenVinoEngine:
    engine = create_engine("openvino", load_bundle(folder), threads=1, own_shapes=own_shapes)
    assert isinstance(engine, OpenVinoEngine)
    return engine


def run(engine: OpenVinoEngine, count: int, width: int = 64, times: int = 1) -> Detections:
    images = np.stack([noise(i, (32, width)) // (i + 1) for i in range(count)])
    windows = np.array([[0, 0, width - i, 32] for i in range(count)], np.float32)
    for _ in range(times):
        found = engine.infer(images, windows)
    return found


async def compiled(engine: OpenVinoEngine, count: int) -> None:
    until = time.monotonic() + 60
    while len(engine.own_shapes) < count and time.monotonic() < until:
        await asyncio.sleep(0.01)


async def test_a_shape_that_comes_often_gets_its_own_program_with_the_same_answers(folder: Path) -> None:
    engine = engine_of(folder)
    before = run(engine, 3, times=OFTEN)
    run(engine, 2, times=OFTEN - 1)
    await compiled(engine, 1)
    assert engine.own_shapes == [(3, 32, 64, 3)]
    for found, other in ((run(engine, 3), before), (run(engine, 2), run(engine_of(folder, own_shapes=False), 2))):
        np.testing.assert_allclose(found.detections, other.detections, rtol=1e-5)
        np.testing.assert_allclose(found.masks, other.masks, rtol=1e-5)
    engine.close()


async def test_there_are_not_more_than_memory_is_meant_for(folder: Path) -> None:
    engine = engine_of(folder)
    for k in range(MOST_SHAPES + 1):
        run(engine, 1, 32 * (k + 1), times=OFTEN)
    await compiled(engine, MOST_SHAPES)
    assert sorted(engine.own_shapes) == [(1, 32, 32 * (k + 1), 3) for k in range(MOST_SHAPES)]
    engine.close()


async def test_a_slow_network_gets_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_, "FAST_S", 0.0)
    engine = engine_of(folder)
    run(engine, 1, times=2 * OFTEN)
    engine.close()
    assert engine.own_shapes == []


async def test_without_its_file_it_goes_on_as_before(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(folder)
    (file,) = load_bundle(folder).card.files
    (folder / file.path).unlink()
    run(engine, 1, times=OFTEN)
    until = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert "goes on without a program of its own for (1, 32, 64, 3)" in caplog.text
    assert len(run(engine, 1).detections) == 1
    engine.close()
