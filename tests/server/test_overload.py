"""More requests than the engine can answer: who is refused, who waits, and that nobody is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest

from server.contract import card
from server.engines.fake import FAKE_CARD, FakeEngine
from server.models import Models
from server.pictures.decode import PictureFile
from server.pipeline import Pipeline
from server.preprocess import Canvas, prepare_file
from tests.server.faulty_engine import Faults
from tests.server.running import PNG_HEADERS, png, server_process, server_with, settings, write_bundle

PICTURE = png()
ADMIN = {"Authorization": "Bearer secret"}


@contextlib.asynccontextmanager
async def serving(faults: Faults, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with server_with(Models.of(settings(**values), [faults.make]), **values) as client:
        yield client


async def predict(client: httpx2.AsyncClient, query: str = "") -> httpx2.Response:
    return await client.post(f"/predict{query}", content=PICTURE, headers=PNG_HEADERS)


async def test_five_times_too_many_requests() -> None:
    """The engine answers 50 pictures a second."""
    faults = Faults(seconds_per_image=0.02)
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield PICTURE

    async def send() -> tuple[httpx2.Response, float]:
        sent = time.monotonic()
        return await client.post("/predict", content=body(), headers=PNG_HEADERS), time.monotonic() - sent

    async with serving(faults, max_queue_wait_s=0.5) as client:
        for _ in range(4):
            await predict(client)
        before, started = faults.pictures, time.monotonic()
        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(send()))
            await asyncio.sleep(0.004)
        replies = await asyncio.gather(*tasks)
        elapsed_s = time.monotonic() - started
        answered = [reply for reply, _ in replies if reply.status_code == 200]
        refused = [(reply, seconds) for reply, seconds in replies if reply.status_code == 429]
        assert len(answered) + len(refused) == 400
        assert len(answered) / elapsed_s > 25
        assert len(refused) > 150
        assert faults.pictures - before == len(answered)
        assert read < 400 - 0.9 * len(refused)  # nearly all were refused before their bodies were read
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply, _ in refused)
        assert statistics.median(seconds for _, seconds in refused) < 0.2
        assert (await predict(client)).status_code == 200


async def test_pictures_that_wait_to_be_decoded_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(file: PictureFile, model: card.ModelCard) -> Canvas:
        time.sleep(0.1)
        return prepare_file(file, model)

    monkeypatch.setattr("server.pictures.reader.prepare_file", slowly)
    async with serving(Faults(), max_queue_wait_s=0.5, picture_threads=1) as client:
        await predict(client)
        tasks = []
        for _ in range(15):
            tasks.append(asyncio.create_task(predict(client)))
            await asyncio.sleep(0.005)
        statuses = Counter(reply.status_code for reply in await asyncio.gather(*tasks))
    assert statuses.keys() == {200, 429}
    assert 3 <= statuses[200] <= 10


async def test_a_deadline_that_cannot_be_met_is_refused_before_the_body_is_read() -> None:
    async with serving(Faults(seconds_per_batch=0.4), max_batch_size=1) as client:
        await predict(client)
        waiting = [asyncio.create_task(predict(client)) for _ in range(3)]
        await asyncio.sleep(0.1)

        async def body() -> AsyncIterator[bytes]:
            raise AssertionError("nobody should read this")
            yield b""

        reply = await client.post("/predict?timeout_ms=500", content=body(), headers=PNG_HEADERS)
        assert (reply.status_code, reply.headers["Retry-After"]) in ((429, "1"), (429, "2"))
        assert "deadline is sooner" in reply.json()["detail"]
        assert (await predict(client, "?timeout_ms=20000")).status_code == 200
        assert {(await task).status_code for task in waiting} == {200}


async def test_a_deadline_that_passes_in_the_queue_costs_no_inference() -> None:
    faults = Faults(seconds_per_batch=0.4)
    async with serving(faults, max_batch_size=1) as client:  # it has learned nothing yet, and admits all
        replies = await asyncio.gather(predict(client), *(predict(client, "?timeout_ms=200") for _ in range(4)))
        assert Counter(reply.status_code for reply in replies)[504] >= 3
        assert replies[-1].json()["detail"] == "The deadline passed before the answer was ready."
    assert faults.pictures <= 2


async def test_low_priority_yields() -> None:
    done: list[str] = []
    async with serving(Faults(seconds_per_batch=0.3), max_batch_size=1) as client:

        async def send(priority: str) -> None:
            assert (await predict(client, f"?priority={priority}")).status_code == 200
            done.append(priority)

        await predict(client)  # the first picture of a process decodes slowly
        tasks = [asyncio.create_task(send("low")) for _ in range(3)]
        while 'maskline_queue_depth{model="fake",version="1"} 2.0' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.005)
        tasks += [asyncio.create_task(send("normal")) for _ in range(3)]
        await asyncio.gather(*tasks)
        assert (await predict(client, "?priority=high")).status_code == 400
    assert done == ["low", "normal", "normal", "normal", "low", "low"]


async def test_one_slow_batch_does_not_lock_the_server() -> None:
    faults = Faults(seconds_per_batch=1.0)
    async with serving(faults, max_queue_wait_s=0.5) as client:
        await predict(client)
        busy = asyncio.create_task(predict(client))
        await asyncio.sleep(0.1)
        assert (await predict(client)).status_code == 429
        assert (await busy).status_code == 200
        faults.seconds_per_batch = 0.01
        for _ in range(2):
            assert (await predict(client)).status_code == 200
        together = await asyncio.gather(*(predict(client) for _ in range(10)))
        assert {reply.status_code for reply in together} == {200}


# A server in a process of its own


def test_an_engine_that_hangs_does_not_keep_the_process() -> None:
    arguments = ("--fake-batch-ms", "100000", "--drain-timeout-s", "0.1", "--engine-timeout-s", "0.5")
    with server_process(*arguments) as server:
        reply = server.predict(PICTURE)
        assert reply.status_code == 503
        assert "did not answer a batch within 0.5 s" in reply.json()["detail"]
        server.wait_until("/health/ready", "ready")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


async def test_every_request_gets_its_own_answer_once(tmp_path: Path) -> None:
    """300 of them: good and bad pictures, clients that leave, both priorities, and a reload in the middle."""
    bundle = write_bundle(tmp_path / "a", b"1", name="a")
    arguments = (str(bundle), "--admin-key", "secret", "--fake-batch-ms", "20", "--max-queue-size", "5000")
    with server_process(*arguments) as server:
        limits = httpx2.Limits(max_connections=60)
        async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            tasks = [asyncio.create_task(exchange(client, i)) for i in range(300)]
            done = 0
            while done < 100:
                await asyncio.sleep(0.01)
                done = sum(task.done() for task in tasks)
            reloads = [await client.post("/models/a/load", headers=ADMIN) for _ in range(3)]
            outcomes = Counter(await asyncio.wait_for(asyncio.gather(*tasks), 120))
        assert [reply.status_code for reply in reloads] == [200] * 3
        assert outcomes == {"answered": 270, "bad picture": 20, "left": 10}
        server.wait_until("/metrics", "maskline_requests_in_flight 0.0")
        server.wait_until("/metrics", 'maskline_queue_depth{model="a",version="1"} 0.0')


async def exchange(client: httpx2.AsyncClient, number: int) -> str:
    if number % 30 == 7:
        return await leave(str(client.base_url))
    if number % 15 == 3:
        reply = await client.post("/predict", content=b"no picture", headers=PNG_HEADERS)
        assert reply.status_code == 400
        return "bad picture"
    rng = random.Random(number)
    picture = png((number % 256, rng.randint(0, 255), 1 + number // 256), (rng.randint(20, 90), 40))
    priority = rng.choice(["normal", "low"])
    reply = await client.post(f"/predict?priority={priority}", content=picture, headers=PNG_HEADERS)
    assert reply.status_code == 200, reply.text
    assert orjson.dumps(reply.json()["images"]) == orjson.dumps([expected(picture)])
    return "answered"


def expected(picture: bytes) -> object:
    engine = FakeEngine(FAKE_CARD)
    return orjson.loads(orjson.dumps(Pipeline(engine).predict(picture)))


async def leave(url: str) -> str:
    """Sends a picture and goes without waiting for the answer."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
    writer.write(head.encode() + PICTURE)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    return "left"
