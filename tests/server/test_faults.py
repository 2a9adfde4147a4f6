"""Engines that raise, hang, answer rubbish or cannot be made anew, seen through HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import pytest

from server.app import create_app
from server.contract.errors import EngineFailed, EngineLost
from server.engines.base import Canvases, Detections
from server.engines.fake import FakeEngine
from server.models import Models
from server.scheduling.supervision import RestartPolicy
from tests.server.faulty_engine import Faults, raising
from tests.server.running import PNG_HEADERS, png, running, server_with, settings, write_bundle

PICTURE = png()
ADMIN = {"Authorization": "Bearer secret"}


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr("server.model.RestartPolicy", partial(RestartPolicy, close_timeout_s=0.2))
    faults = Faults()
    yield faults
    faults.release.set()


@contextlib.asynccontextmanager
async def serving(faults: Faults, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with server_with(Models.of(settings(**values), [faults.make]), **values) as client:
        yield client


async def predict(client: httpx2.AsyncClient, picture: bytes = PICTURE, query: str = "") -> httpx2.Response:
    return await client.post(f"/predict{query}", content=picture, headers=PNG_HEADERS)


async def readiness(client: httpx2.AsyncClient) -> tuple[int, str]:
    reply = await client.get("/health/ready")
    return reply.status_code, reply.json().get("detail", "")


async def ready_again(client: httpx2.AsyncClient, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while (await readiness(client))[0] != 200:
            await asyncio.sleep(0.01)


async def storm(client: httpx2.AsyncClient) -> None:
    for _ in range(3):
        assert (await predict(client)).status_code == 500
    assert (await readiness(client))[0] == 503


# Storms


async def test_one_poisoned_picture_fails_alone(faults: Faults) -> None:
    def poisoned_by_bright_ones(images: Canvases, found: Detections) -> Detections:
        if images.max() > 250:
            raise EngineFailed("The picture is too bright.")
        return found

    faults.fault, faults.seconds_per_batch = poisoned_by_bright_ones, 0.05
    async with serving(faults) as client:
        pictures = [png((255 if i == 3 else 100 + i, 30, 10)) for i in range(9)]
        replies = await asyncio.gather(*(predict(client, picture) for picture in pictures))
        assert [reply.status_code for reply in replies] == [200] * 3 + [500] + [200] * 5
        assert (await readiness(client))[0] == 200
    assert faults.made == 1


async def test_an_engine_that_always_fails_is_made_anew(faults: Faults) -> None:
    async with serving(faults) as client:
        faults.fault = raising(EngineFailed("Out of memory."))
        await storm(client)
        status, reason = await readiness(client)
        assert (status, reason) == (
            503,
            "fake: The engine failed 3 times in a row: Out of memory. It is being started anew.",
        )
        assert (await client.get("/health/live")).status_code == 200
        (described,) = (await client.get("/models")).json()["models"]
        assert (described["ready"], described["state"]) == (False, "restarting")
        waiting = asyncio.create_task(predict(client))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        faults.fault = None
        await ready_again(client)
        assert (await waiting).status_code == 200
        assert (await predict(client)).status_code == 200
    assert faults.made >= 3
    assert faults.closed == faults.made


async def test_what_waits_for_the_engine_keeps_its_deadline(faults: Faults) -> None:
    async with serving(faults) as client:
        faults.fault = raising(EngineFailed("No memory."))
        await storm(client)
        reply = await predict(client, query="?timeout_ms=400")
        assert reply.status_code in (503, 504)
        faults.fault = None
        await ready_again(client)
        assert (await predict(client)).status_code == 200


async def test_a_long_restart_refuses_with_the_time_to_come_back(faults: Faults) -> None:
    async with serving(faults, max_queue_wait_s=0.1) as client:
        faults.fault = raising(EngineFailed("No memory."))
        await storm(client)
        reply = await predict(client)
        assert reply.status_code == 503
        assert "started anew" in reply.json()["detail"]
        assert int(reply.headers["Retry-After"]) >= 1
        faults.fault = None
        await ready_again(client)
        assert (await predict(client)).status_code == 200


async def test_a_restart_that_never_works_fails_liveness(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.model.RestartPolicy", partial(RestartPolicy, longest_pause_s=0.01))

    def gone() -> None:
        raise EngineFailed("The driver is gone.")

    async with serving(faults) as client:
        faults.fault, faults.on_make = raising(EngineFailed("x")), gone
        await storm(client)
        waiting = asyncio.create_task(predict(client))
        while (await client.get("/health/live")).status_code == 200:
            await asyncio.sleep(0.01)
        for path in ("/health/live", "/health/ready"):
            detail = (await client.get(path)).json()["detail"]
            assert detail == "The engine could not be started anew, 8 times: The driver is gone."
        for reply in (await waiting, await predict(client)):
            assert reply.status_code == 503
            assert "The driver is gone." in reply.json()["detail"]


async def test_a_lost_device_fails_liveness_and_answers_all(faults: Faults) -> None:
    faults.seconds_per_batch = 0.05
    async with serving(faults) as client:
        faults.fault = raising(EngineLost("The GPU has fallen off the bus."))
        replies = await asyncio.gather(*(predict(client) for _ in range(20)))
        assert {(reply.status_code, reply.json()["detail"]) for reply in replies} == {
            (503, "The GPU has fallen off the bus.")
        }
        assert (await client.get("/health/live")).status_code == 503
        assert faults.made == 1


# Hanging


async def test_a_hanging_engine_is_replaced_and_its_waiters_told(faults: Faults) -> None:
    async with serving(faults, engine_timeout_s=0.3) as client:
        faults.fault = lambda images, found: (faults.hang(), found)[1]
        started = time.monotonic()
        hanging = [asyncio.create_task(predict(client)) for _ in range(3)]
        await asyncio.sleep(0.1)
        faults.fault = None
        replies = await asyncio.gather(*hanging)
        assert time.monotonic() - started < 5
        told = [reply for reply in replies if reply.status_code == 503]
        assert told
        assert {reply.json()["detail"] for reply in told} == {
            "The engine did not answer a batch within 0.3 s. It is being started anew."
        }
        assert {reply.status_code for reply in replies} <= {200, 503}
        await ready_again(client)
        assert (await predict(client)).status_code == 200
        assert (faults.made, faults.closed) == (2, 0)
        faults.release.set()
        while faults.closed != 1:
            await asyncio.sleep(0.01)
        assert (await predict(client)).status_code == 200
        assert (await readiness(client))[0] == 200


async def test_an_engine_that_hangs_at_the_end_does_not_keep_the_server(faults: Faults) -> None:
    started = time.monotonic()
    async with serving(faults) as client:
        assert (await predict(client)).status_code == 200
        faults.on_close = faults.hang
    assert time.monotonic() - started < 20


async def test_a_first_run_that_hangs_fails_liveness(faults: Faults) -> None:
    faults.fault = lambda images, found: (faults.hang(), found)[1]
    models = Models.of(settings(engine_timeout_s=0.1), [faults.make])
    async with running(create_app(settings(), models), wait=False) as client:
        async with asyncio.timeout(10):
            while (await client.get("/health/live")).status_code == 200:
                await asyncio.sleep(0.01)
        for reply in (await client.get("/health/live"), await predict(client)):
            assert reply.status_code == 503
            assert "did not answer a batch within 0.1 s" in reply.json()["detail"]


# Rubbish


def changed(column: int, value: float) -> Callable[[Canvases, Detections], Detections]:
    def fault(images: Canvases, found: Detections) -> Detections:
        rows = found.detections.copy()
        rows[:, column] = value
        return Detections(rows, found.masks)

    return fault


RUBBISH = [
    pytest.param(changed(2, np.nan), "boxes", id="box"),
    pytest.param(changed(3, np.inf), "boxes", id="endless box"),
    pytest.param(changed(5, np.nan), "scores", id="score"),
    pytest.param(changed(5, 7), "scores above 1", id="high score"),
    pytest.param(changed(0, 3), "other pictures than 0 to 0", id="image"),
    pytest.param(changed(0, -1), "other pictures", id="negative image"),
    pytest.param(changed(6, 99), "classes other than 1 to 2", id="class"),
    pytest.param(changed(6, 0), "classes", id="background"),
    pytest.param(changed(6, 1.5), "classes", id="half a class"),
    pytest.param(lambda _, found: Detections(found.detections, found.masks * np.float32(np.nan)), "masks", id="mask"),
    pytest.param(lambda _, found: Detections(found.detections[:, :6], found.masks), "(1, 6)", id="columns"),
    pytest.param(lambda _, found: Detections(found.detections, found.masks[:, :3]), "(1, 3, 28)", id="mask side"),
    pytest.param(lambda _, found: Detections(found.detections, found.masks[:0]), "(0, 28, 28)", id="mask count"),
    pytest.param(lambda _, found: Detections(found.detections.astype("f8"), found.masks), "float64", id="dtype"),
    pytest.param(lambda _, found: Detections(None, found.masks), "NoneType", id="nothing"),
]


@pytest.mark.parametrize(("fault", "words"), RUBBISH)
async def test_rubbish_is_an_error_with_a_sentence(faults: Faults, fault: object, words: str) -> None:
    async with serving(faults) as client:
        faults.fault = fault  # type: ignore[assignment]
        reply = await predict(client)
        assert reply.status_code == 500
        assert reply.json()["detail"].startswith("The engine answered with rubbish: ")
        assert words in reply.json()["detail"]
        faults.fault = None
        assert (await predict(client)).status_code == 200


async def test_padding_may_hold_anything(faults: Faults) -> None:
    def padded(images: Canvases, found: Detections) -> Detections:
        padding = np.array([[np.nan, 1, np.inf, 1, 1, 0, 77]], np.float32)
        return Detections(np.vstack([found.detections, padding]), np.vstack([found.masks, found.masks[:1]]))

    async with serving(faults) as client:
        faults.fault = padded
        reply = await predict(client)
        assert len(reply.json()["images"][0]["detections"]) == 1


# Memory


async def test_memory_of_an_unloaded_model_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[weakref.ref[FakeEngine]] = []

    class Watched(FakeEngine):
        def __init__(self, *args: object, **values: object) -> None:
            super().__init__(*args, **values)  # type: ignore[arg-type]
            engines.append(weakref.ref(self))

    monkeypatch.setattr("server.model.FakeEngine", Watched)
    write_bundle(tmp_path / "a", b"1", name="a")
    app = create_app(settings(models=(str(tmp_path),), admin_key="secret"))
    async with running(app) as client:
        assert (await predict(client)).status_code == 200
        assert (await client.post("/models/a/load", headers=ADMIN)).status_code == 200
        assert (await predict(client)).status_code == 200
        await until_gone(engines[0])
        assert (await client.post("/models/a/unload", headers=ADMIN)).status_code == 200
        await until_gone(engines[1])


async def until_gone(engine: weakref.ref[FakeEngine]) -> None:
    async with asyncio.timeout(10):
        while engine() is not None:
            await asyncio.sleep(0.01)
            gc.collect()
