"""Picture files to canvases, in threads, within the memory that the server has for it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from server.contract import card
from server.decode import Limits, Picture, PictureFile
from server.decode_budget import DecodeBudget, NoRoom, Room
from server.preprocess import Canvas, prepare

KEPT_BYTES = 13
"""Of each pixel of a picture that is to be drawn on: itself, the painted copy, Pillow's, and the PNG of it."""

ReadPicture = tuple[Picture | None, Canvas, float]
"""The decoded picture where it is to be kept, its canvas, seconds."""


class PictureReader:
    """Shared by all models of a server."""

    def __init__(self, threads: ThreadPoolExecutor, memory: DecodeBudget) -> None:
        self.threads = threads
        self._memory = memory

    async def read(self, file: bytes, limits: Limits, rule: card.Input, keep_picture: bool) -> ReadPicture:
        """In a thread at once where there is memory for it, else when there is. Raises `PictureError`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.threads, self._read, file, limits, rule, keep_picture)
        except NoRoom as error:
            room = await self._memory.wait_for(error.wanted)
        work = self.threads.submit(self._read, file, limits, rule, keep_picture, room)
        work.add_done_callback(lambda done: room.give_back() if done.cancelled() else None)  # it never ran
        return await asyncio.wrap_future(work)

    def _read(
        self, file: bytes, limits: Limits, rule: card.Input, keep_picture: bool, room: Room | None = None
    ) -> ReadPicture:
        started = time.monotonic()
        header = PictureFile(file, limits)
        room = room or self._memory.take(header.decode_bytes + keep_picture * KEPT_BYTES * header.pixels)
        with room:
            decoded = header.decode()
            canvas = prepare(decoded, rule)
            whole = decoded.whole() if keep_picture else None
            if whole is not None:
                room.keep_while(whole)
        return whole, canvas, time.monotonic() - started
