"""Several engines of one model, of which some are slow, broken or lost, seen through HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

from server.app import create_app
from server.contract.errors import BundleError, EngineFailed, EngineLost
from server.engines import cuda_
from server.engines.base import Canvases, Detections
from server.engines.fake import FakeEngine
from server.engines.onnxruntime_ import usable_cpus
from server.model import side_by_side
from server.models import Models
from server.scheduling.supervision import RestartPolicy
from tests.server.faulty_engine import Faults, FaultyEngine, raising
from tests.server.running import PNG_HEADERS, fake_server, png, running, server_with, settings, write_bundle
from tests.server.tiny_onnx import tiny_onnx

PICTURE = png()
ADMIN = {"Authorization": "Bearer secret"}


class Pair:
    """The faults of two engines; a new one takes the place of the one that was closed."""

    def __init__(self) -> None:
        self.both = (Faults(), Faults())
        self._lock = threading.Lock()

    def make(self) -> FaultyEngine:
        with self._lock:
            return next(faults for faults in self.both if faults.made == faults.closed).make()

    @contextlib.asynccontextmanager
    async def serving(self, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
        values |= {"engines": 2}
        async with server_with(Models.of(settings(**values), [self.make]), **values) as client:
            yield client


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr("server.model.RestartPolicy", partial(RestartPolicy, close_timeout_s=0.2))
    pair = Pair()
    yield pair
    for faults in pair.both:
        faults.release.set()


async def predict(client: httpx2.AsyncClient, query: str = "") -> httpx2.Response:
    return await client.post(f"/predict{query}", content=PICTURE, headers=PNG_HEADERS)


async def statuses(client: httpx2.AsyncClient, count: int) -> set[int]:
    return {reply.status_code for reply in await asyncio.gather(*(predict(client) for _ in range(count)))}


async def states(client: httpx2.AsyncClient) -> list[str]:
    """Of the engines, the model's own last."""
    (model,) = (await client.get("/models")).json()["models"]
    return [*(engine["state"] for engine in model["engines"]), model["state"]]


async def health(client: httpx2.AsyncClient) -> tuple[int, int]:
    return (await client.get("/health/live")).status_code, (await client.get("/health/ready")).status_code


# Start


async def test_engines_are_made_and_warmed_side_by_side() -> None:
    made, warm = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)

    class Waiting(FakeEngine):
        runs = 0

        def __init__(self) -> None:
            super().__init__()
            made.wait()

        def infer(self, images, windows):  # type: ignore[no-untyped-def]
            if not self.runs:
                warm.wait()
            self.runs += 1
            return super().infer(images, windows)

    async with server_with(Models.of(settings(engines=2), [Waiting])) as client:
        assert await states(client) == ["ready", "ready", "ready"]
        assert (await predict(client)).status_code == 200


def test_when_one_cannot_be_made_the_others_are_closed() -> None:
    faults = Faults()

    def make(index: int) -> FaultyEngine:
        if index == 2:
            raise BundleError("No memory.")
        return faults.make()

    with pytest.raises(BundleError, match="No memory"):
        side_by_side(make, 4)
    assert faults.made == faults.closed == 3


async def test_one_that_fails_its_first_run_is_left_out(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.both[1].fault = raising(EngineFailed("No room on the device."))
    async with pair.serving() as client:
        assert sorted(await states(client)) == ["failed", "ready", "ready"]
        assert await health(client) == (200, 200)
        assert await statuses(client, 5) == {200}
        (model,) = (await client.get("/models")).json()["models"]
        reasons = [engine["reason"] for engine in model["engines"]]
        assert sorted(reasons) == ["", "The engine failed its first run: No room on the device."]
    assert [record.levelno for record in caplog.records if "without an engine" in record.message] == [logging.ERROR]
    assert [faults.closed for faults in pair.both] == [1, 1]


async def test_a_model_that_is_loaded_again_needs_all_of_its_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, fails = 0, False

    class Counted(FakeEngine):
        def __init__(self, *args: object, **values: object) -> None:
            super().__init__(*args, **values)  # type: ignore[arg-type]
            nonlocal opened
            opened += 1
            self.fails = fails and opened % 2 == 0

        def infer(self, images, windows):  # type: ignore[no-untyped-def]
            if self.fails:
                raise EngineFailed("No room for both.")
            return super().infer(images, windows)

    monkeypatch.setattr("server.model.FakeEngine", Counted)
    write_bundle(tmp_path / "a", b"1", name="a")
    async with running(create_app(settings(models=(str(tmp_path),), admin_key="secret", engines=2))) as client:
        fails = True
        reply = await client.post("/models/a/load", headers=ADMIN)
        assert reply.status_code == 503
        assert "No room for both." in reply.json()["detail"]
        assert await states(client) == ["ready", "ready", "ready"]
        fails = False
        assert (await client.post("/models/a/load", headers=ADMIN)).status_code == 200


# Faults


async def test_a_broken_engine_costs_no_answer_and_is_replaced(pair: Pair) -> None:
    async with pair.serving(max_batch_size=2) as client:
        broken = pair.both[0]
        broken.fault = raising(EngineFailed("Out of memory."))
        while "restarting" not in await states(client):
            assert await statuses(client, 6) == {200}
        assert await states(client) == ["restarting", "ready", "ready"]
        assert await health(client) == (200, 200)
        assert await statuses(client, 6) == {200}
        broken.fault = None
        async with asyncio.timeout(10):
            while await states(client) != ["ready", "ready", "ready"]:
                await asyncio.sleep(0.01)
        before = broken.pictures
        while broken.pictures == before:
            assert await statuses(client, 6) == {200}
    assert [faults.closed for faults in pair.both] == [faults.made for faults in pair.both]


async def test_readiness_fails_when_no_engine_serves_and_liveness_when_all_are_lost(pair: Pair) -> None:
    pair.both[0].seconds_per_batch = pair.both[1].seconds_per_batch = 0.02
    async with pair.serving(max_batch_size=1) as client:
        pair.both[0].fault = raising(EngineLost("GPU 0 has fallen off the bus."))
        assert await statuses(client, 6) == {200}
        assert await states(client) == ["failed", "ready", "ready"]
        assert await health(client) == (200, 200)
        pair.both[1].fault = raising(EngineFailed("Out of memory."))
        for _ in range(3):
            assert (await predict(client)).status_code == 500
        assert await states(client) == ["failed", "restarting", "restarting"]
        assert await health(client) == (200, 503)
        pair.both[1].fault = raising(EngineLost("GPU 1 has fallen off the bus."))
        async with asyncio.timeout(10):
            while await health(client) != (503, 503):
                await asyncio.sleep(0.01)
        assert (await predict(client)).status_code == 503
    assert [faults.closed for faults in pair.both] == [faults.made for faults in pair.both]


async def test_while_one_engine_hangs_the_other_answers(pair: Pair) -> None:
    async with pair.serving(engine_timeout_s=0.5, max_batch_size=1) as client:
        hanging = pair.both[0]

        def hang(images: Canvases, found: Detections) -> Detections:
            hanging.hang()
            return found

        assert await statuses(client, 2) == {200}
        hanging.fault = hang
        replies = await asyncio.gather(*(predict(client) for _ in range(8)))
        hanging.fault = None
        refused = [reply for reply in replies if reply.status_code != 200]
        assert [reply.status_code for reply in refused] == [503]
        assert "did not answer a batch within 0.5 s" in refused[0].json()["detail"]
        assert await statuses(client, 4) == {200}


async def test_a_drain_answers_what_all_engines_have_accepted(pair: Pair) -> None:
    for faults in pair.both:
        faults.seconds_per_batch = 0.05
    async with pair.serving(max_batch_size=1) as client:
        tasks = [asyncio.create_task(predict(client)) for _ in range(8)]
        while not all(faults.pictures for faults in pair.both):
            await asyncio.sleep(0)
    assert {(await task).status_code for task in tasks} == {200}
    assert [(faults.made, faults.closed) for faults in pair.both] == [(1, 1), (1, 1)]


# What it tells


async def test_metrics_and_statistics_of_each_engine(pair: Pair) -> None:
    pair.both[1].fault = raising(EngineFailed("No room."))
    async with pair.serving() as client:
        for _ in range(3):
            assert (await predict(client)).status_code == 200
        text = (await client.get("/metrics")).text
        for index, up, pictures in (("0", 1.0, 3.0), ("1", 0.0, 0.0)):
            of = f'{{index="{index}",model="fake",version="1"}}'
            assert f"maskline_engine_up{of} {up}" in text
            assert f"maskline_engine_pictures_total{of} {pictures}" in text
        assert 'maskline_engine_faults_total{fault="failed",index="0",model="fake",version="1"} 0.0' in text
        assert 'maskline_engine_state{model="fake",state="ready",version="1"} 1.0' in text
        assert 'maskline_model_info{engine="2 x fake engine, no model",model="fake",version="1"} 1.0' in text
        (model,) = (await client.get("/v2/models/fake/stats")).json()["model_stats"]
        told = [(engine["state"], engine["inference_count"]) for engine in model["engine_stats"]]
        assert told == [("ready", 3), ("failed", 0)]
        assert model["execution_count"] == model["engine_stats"][0]["compute_infer"]["count"]


# Settings


async def test_tiles_of_one_picture_run_in_both_engines(pair: Pair) -> None:
    both = threading.Barrier(2, timeout=30)

    def wait(images: Canvases, found: Detections) -> Detections:
        if images.any():
            both.wait()  # until the other engine runs tiles too
        return found

    for faults in pair.both:
        faults.fault = wait
    async with pair.serving(max_batch_size=1) as client:
        large = png((200, 30, 10), (500, 250))
        reply = await client.post("/predict?tile=128&overlap=3", content=large, headers=PNG_HEADERS)
        assert reply.status_code == 200, reply.text
        assert sum(faults.pictures for faults in pair.both) % 2 == 0


async def test_no_number_is_an_engine_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, engines in ((0, 1), (3, 3)):
        monkeypatch.setattr("server.model.gpu_count", lambda gpus=gpus: gpus)
        async with fake_server(engines=0) as client:
            assert await states(client) == ["ready"] * (engines + 1)


def test_engines_share_the_cpus(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny", tiny_onnx())
    models = Models.open(settings(engine="onnxruntime", models=(str(bundle),), engines=2 * usable_cpus()))
    (model,) = models
    assert model.description.startswith(f"{2 * usable_cpus()} x ONNX Runtime")
    assert model.description.endswith(" on 1 CPU thread")


def test_the_driver_is_asked_how_many_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
            return 0

        def cuDeviceGetCount(self, count) -> int:  # type: ignore[no-untyped-def]  # noqa: N802
            count._obj.value = 4
            return 0

    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert cuda_.gpu_count() == 4
    monkeypatch.setattr(Driver, "cuInit", lambda *_: 100)
    assert cuda_.gpu_count() == 0
