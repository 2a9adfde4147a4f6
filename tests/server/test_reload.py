"""Bundles that are loaded, unloaded, replaced and broken while requests run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

from server.app import create_app
from server.contract.card import ModelCard
from server.contract.errors import EngineFailed
from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FakeEngine
from server.scheduling.supervision import RestartPolicy
from tests.server.running import PNG_HEADERS, png, running, settings, write_bundle
from tests.server.tiny_onnx import tiny_onnx

PICTURE = png()
ADMIN = {"Authorization": "Bearer secret"}


class Engine(FakeEngine):
    """Fails every run while `broken` is set, and takes 50 ms for a batch."""

    broken = ""
    opened = 0

    def __init__(self, card: ModelCard, **_: object) -> None:
        super().__init__(card, seconds_per_batch=0.05)
        type(self).opened += 1

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if self.broken:
            raise EngineFailed(self.broken)
        return super().infer(images, windows)

    def close(self) -> None:
        type(self).opened -= 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """The class of this test's engines."""
    engine = type("Engine", (Engine,), {})
    monkeypatch.setattr("server.model.FakeEngine", engine)
    monkeypatch.setattr("server.model.RestartPolicy", partial(RestartPolicy, longest_pause_s=0.01))
    return engine


@contextlib.asynccontextmanager
async def serving(folder: Path, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with running(create_app(settings(models=(str(folder),), admin_key="secret", **values))) as client:
        yield client


async def predict(client: httpx2.AsyncClient, query: str = "") -> httpx2.Response:
    return await client.post(f"/predict{query}", content=PICTURE, headers=PNG_HEADERS)


async def admin(client: httpx2.AsyncClient, action: str) -> httpx2.Response:
    return await client.post(f"/models/a/{action}", headers=ADMIN)


async def test_unloading_answers_what_was_accepted(tmp_path: Path, engine: type[Engine]) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    write_bundle(tmp_path / "b", b"2", name="b")
    async with serving(tmp_path, max_batch_size=1) as client:
        tasks = [asyncio.create_task(predict(client, "?model=a")) for _ in range(10)]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.005)
        assert (await admin(client, "unload")).status_code == 200
        assert (await predict(client, "?model=a")).status_code == 404
        assert {reply.status_code for reply in await asyncio.gather(*tasks)} == {200}
        async with asyncio.timeout(10):
            while engine.opened > 1:
                await asyncio.sleep(0.005)


async def test_no_request_is_lost_while_a_model_is_loaded_again_and_again(tmp_path: Path, engine: type[Engine]) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with serving(tmp_path) as client:

        async def send_for_a_while() -> set[int]:
            return {(await predict(client)).status_code for _ in range(15)}

        senders = [asyncio.create_task(send_for_a_while()) for _ in range(10)]
        while not all(sender.done() for sender in senders):
            both = await asyncio.gather(admin(client, "load"), admin(client, "load"))
            assert [reply.status_code for reply in both] == [200, 200]
        assert [await sender for sender in senders] == [{200}] * 10
    assert engine.opened == 0


async def test_a_bundle_that_fails_its_first_run_leaves_the_loaded_one(tmp_path: Path, engine: type[Engine]) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with serving(tmp_path) as client:
        engine.broken = "No memory for it."
        reply = await admin(client, "load")
        assert reply.status_code == 503
        assert reply.json()["detail"].endswith("cannot be served. The engine failed its first run: No memory for it.")
        engine.broken = ""
        assert (await predict(client)).status_code == 200
        assert engine.opened == 1


async def test_two_bundles_of_one_version_leave_the_loaded_one(tmp_path: Path, engine: type[Engine]) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with serving(tmp_path) as client:
        write_bundle(tmp_path / "b", b"2", name="a")
        reply = await admin(client, "load")
        assert reply.status_code == 503
        assert "both version 1 of the model 'a'" in reply.json()["detail"]
        assert (await predict(client)).status_code == 200
        assert engine.opened == 1


async def test_an_engine_is_not_made_anew_from_another_bundle(tmp_path: Path, engine: type[Engine]) -> None:
    bundle = write_bundle(tmp_path / "a", b"1", name="a")
    async with serving(tmp_path) as client:
        write_bundle(tmp_path / "new", b"2", name="a", version="2")
        for file in (tmp_path / "new").iterdir():
            file.replace(bundle / file.name)
        engine.broken = "Broken."
        for _ in range(3):
            assert (await predict(client)).status_code == 500
        engine.broken = ""
        async with asyncio.timeout(10):
            while (await client.get("/health/live")).status_code == 200:
                await asyncio.sleep(0.01)
        assert "has been replaced since it was loaded" in (await client.get("/health/live")).json()["detail"]
        (tmp_path / "new").rmdir()
        assert (await admin(client, "load")).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
        assert (await predict(client)).json()["model"]["version"] == "2"


async def test_a_real_engine_is_made_anew_from_its_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny", tiny_onnx(), name="a")
    app = create_app(settings(engine="onnxruntime", models=(str(bundle),), threads=1))
    async with running(app) as client:
        before = (await predict(client)).json()["images"]
        (model,) = app.state.models
        broken = model.engine
        broken.close()
        for _ in range(3):
            assert (await predict(client)).json()["detail"] == "The engine is closed."
        reply = await predict(client)
        assert (reply.status_code, reply.json()["images"]) == (200, before)
        assert model.engine is not broken


async def test_a_model_that_is_unloaded_while_it_restarts(tmp_path: Path, engine: type[Engine]) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with serving(tmp_path) as client:
        engine.broken = "Broken."
        for _ in range(3):
            assert (await predict(client)).status_code == 500
        waiting = asyncio.create_task(predict(client, "?timeout_ms=500"))
        await asyncio.sleep(0)
        assert (await admin(client, "unload")).status_code == 200
        assert (await waiting).status_code >= 400
        assert (await client.get("/health/ready")).status_code == 200
    assert engine.opened == 0
