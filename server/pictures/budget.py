"""Memory for decoding pictures: one sum for all of them, however many threads and requests there are."""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections import deque

from server.contract.errors import PictureTooLarge

MIB = 1 << 20


class NoRoom(Exception):  # noqa: N818 - the name says what happened
    """Others hold the memory now; wait for `wanted` bytes."""

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class DecodeBudget:
    """`max_bytes` that decoded pictures may take together. Who waits is served in order, so that large ones get in.

    `take` is for any thread and never waits: a thread that did would be missing where memory could be freed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, asyncio.Future[Room]]] = deque()

    def take(self, size: int) -> Room:
        """Raises `PictureTooLarge` where it could never fit, `NoRoom` where it does not now."""
        if size > self.max_bytes:
            raise PictureTooLarge(
                f"To decode this picture takes {math.ceil(size / MIB)} MiB, more than the {self.max_bytes // MIB} MiB "
                "that the server has for all pictures (max_decode_mib); send a smaller one."
            )
        with self._lock:
            if self._waiting or self._held + size > self.max_bytes:
                raise NoRoom(size)
            self._held += size
        return Room(self, size)

    async def wait_for(self, size: int) -> Room:
        """Room for what `take` had none for."""
        future: asyncio.Future[Room] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((size, future))
        self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.result().give_back()
            self._serve()
            raise

    def give_back(self, size: int) -> None:
        """From any thread."""
        with self._lock:
            self._held -= size
            loop = self._waiting[0][1].get_loop() if self._waiting else None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        """On the event loop: whoever has waited longest and fits."""
        with self._lock:
            while self._waiting:
                size, future = self._waiting[0]
                if not future.done():
                    if self._held + size > self.max_bytes:
                        return
                    self._held += size
                    future.set_result(Room(self, size))
                self._waiting.popleft()


class Room:
    """Some bytes of the budget; as a context it gives them back at its end, or when what it keeps has gone."""

    def __init__(self, budget: DecodeBudget, size: int) -> None:
        self._budget = budget
        self._size = size
        self._lock = threading.Lock()
        self._entered = self._kept = False

    def __enter__(self) -> Room:
        with self._lock:
            if not self._size:
                raise NoRoom(0)
            self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.give_back()

    def keep_while(self, used: object) -> None:
        """Gives the bytes back when nobody has `used` any more."""
        self._kept = True
        weakref.finalize(used, self.give_back)

    def give_back(self) -> None:
        with self._lock:
            size, self._size = self._size, 0
        if size:
            self._budget.give_back(size)

    def abandon(self) -> None:
        """Gives the bytes back unless somebody is in the context; nobody can enter it any more."""
        with self._lock:
            entered = self._entered
        if not entered:
            self.give_back()
