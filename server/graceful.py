"""uvicorn, stopped politely: its own way is to close the listener first and to refuse whoever comes."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.connections import SPARE_FILES, Connections, GuardedProtocol, raise_file_limit
from server.lifecycle import Lifecycle
from server.models import Models
from server.settings import Settings

logger = logging.getLogger("server")

SETTLE_ROUNDS = 10
"""Rounds of the event loop before new work is refused: what a client sent before the signal may still be in the
kernel, and from there to its route it takes a few rounds."""

TICKS_A_SWEEP = 5


class GracefulServer(uvicorn.Server):
    """On SIGTERM or SIGINT: readiness fails, new work gets 503, accepted requests are answered, then it exits.

    A second SIGTERM changes nothing; a second SIGINT (Ctrl+C) stops at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        drain_timeout_s: float,
        give_up: Callable[[], Awaitable[None]],
        connections: Connections,
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._give_up = give_up
        self._lifecycle = lifecycle
        self._drain_timeout_s = drain_timeout_s
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second."""
        if counter % TICKS_A_SWEEP == 0:
            self._connections.close_late(self.server_state.connections)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs in the signal's handler; does not note the signal, so that the process ends with status 0."""
        if not self.started or self._loop is None or (sig == signal.SIGINT and self._lifecycle.draining):
            self.should_exit = True
            self.force_exit = self.started
            return
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0.01)
        logger.info("stopping: answering %d accepted requests", self._lifecycle.in_flight)
        if not await self._lifecycle.drain(self._drain_timeout_s):
            logger.error("gave up on %d requests after %g s", self._lifecycle.in_flight, self._drain_timeout_s)
            await self._give_up()
        self.should_exit = True


def serve(app: FastAPI, models: Models, listener: socket.socket, settings: Settings) -> None:
    """Runs until a signal stops it."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    most = max(raise_file_limit() - SPARE_FILES, 16)
    connections = Connections(min(settings.max_connections or most, most), settings.header_timeout_s)
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=1,
    )
    config.connections = connections  # type: ignore[attr-defined]  # what its protocols have of the world
    lifecycle = app.state.lifecycle
    GracefulServer(config, lifecycle, settings.drain_timeout_s, models.give_up, connections).run([listener])
