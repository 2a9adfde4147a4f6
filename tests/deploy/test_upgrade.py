"""A rolling update as Kubernetes does it, with processes for pods: nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2

from clients import AsyncClient
from tests.deploy.manifests import of_kind, overlay
from tests.server.running import PNG_HEADERS, ServerProcess, png, server_process

PICTURE = png()
ANNOUNCED_S = 0.5
"""In place of the ten seconds of `preStop`: here whoever chooses servers knows at once."""


class Service:
    """What a ClusterIP does: each new connection goes to any of the ready servers, and stays there."""

    def __init__(self) -> None:
        self.endpoints: list[ServerProcess] = []
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._accept, "127.0.0.1") as listener:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            await asyncio.gather(*self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        address = urlsplit(random.choice(self.endpoints).url)
        from_server, to_server = await asyncio.open_connection(address.hostname, address.port)
        try:
            await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
        except ConnectionError:
            pass  # the caller sees a connection that ends
        finally:
            self._connections.discard(connection)
            for sink in (to_server, writer):
                sink.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await sink.wait_closed()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        sink.write(data)
        await sink.drain()
    sink.write_eof()


async def roll(service: Service, pods: contextlib.ExitStack) -> None:
    """Each old server goes when a new one is ready (maxSurge 1, maxUnavailable 0)."""
    for old in list(service.endpoints):
        service.endpoints.append(await started(pods))
        service.endpoints.remove(old)
        await asyncio.sleep(ANNOUNCED_S)
        old.process.terminate()
        assert await asyncio.to_thread(old.process.wait, 30) == 0


async def started(pods: contextlib.ExitStack) -> ServerProcess:
    return await asyncio.to_thread(pods.enter_context, server_process("--fake-batch-ms", "20"))


async def ask_with_the_client(url: str, stop: asyncio.Event, answers: Counter[str]) -> None:
    """Keeps its connection, and tries again what a server that stops has refused."""
    async with AsyncClient(url) as client:
        while not stop.is_set():
            answer = await client.predict(PICTURE)
            answers[f"client: {answer.model}"] += 1


async def ask_anew(url: str, stop: asyncio.Event, answers: Counter[str]) -> None:
    """A connection a request, and never a second try."""
    while not stop.is_set():
        async with httpx2.AsyncClient() as http:
            reply = await http.post(f"{url}/predict", content=PICTURE, headers=PNG_HEADERS, timeout=30)
        answers[f"anew: {reply.status_code}"] += 1


async def test_a_rolling_update_loses_no_request() -> None:
    deployment = of_kind(overlay("cpu"), "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    answers: Counter[str] = Counter()
    service, stop = Service(), asyncio.Event()
    with contextlib.ExitStack() as pods:
        for _ in range(deployment["replicas"]):
            service.endpoints.append(await started(pods))
        async with service.listening() as url, asyncio.TaskGroup() as asking:
            for ask in (ask_with_the_client, ask_anew) * 4:
                asking.create_task(ask(url, stop, answers))
            await roll(service, pods)
            stop.set()
    assert set(answers) == {"client: fake", "anew: 200"}
    assert min(answers.values()) > 20
