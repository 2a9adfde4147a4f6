"""Picture files to canvases, in threads, within the memory that the server has for it."""

from __future__ import annotations

import asyncio
import ctypes
import sys

from server.contract.card import ModelCard
from server.pictures.budget import DecodeBudget, NoRoom, Room
from server.pictures.decode import DecodedPicture, Limits, Picture, PictureFile
from server.pictures.threads import PictureThreads
from server.preprocess import Canvas, prepare, prepare_file, prepare_halved

KEPT_BYTES = 13
"""Of each pixel of a picture that is to be drawn on: itself, the painted copy, Pillow's, and the PNG of it."""

LARGE = 64 << 20
"""Bytes; from here on, what decoding took is given back to the system at once."""

ReadPicture = tuple[Picture | None, Canvas]
"""The decoded picture where it is to be kept, and its canvas."""


class PictureReader:
    """Shared by all models of a server."""

    def __init__(self, threads: PictureThreads, memory: DecodeBudget) -> None:
        self.threads = threads
        self._memory = memory
        self._memory_in_tiles = DecodeBudget(memory.max_bytes)
        """Pictures in tiles are kept for seconds: others need not wait for that."""

    async def read(
        self, file: bytes | Picture, limits: Limits, model: ModelCard, keep_picture: bool
    ) -> tuple[ReadPicture, float]:
        """A picture file, or a picture that needs no decoding. In a thread at once where there is memory for it, else
        when there is; and the seconds that it took.

        Raises `PictureError`.
        """
        try:
            return await self.threads.read(self._read, file, limits, model, keep_picture, None)
        except NoRoom as error:
            room = await self._memory.wait_for(error.wanted)
        try:
            return await self.threads.read(self._read, file, limits, model, keep_picture, room)
        except asyncio.CancelledError:
            room.abandon()  # it may never have begun
            raise

    def read_now(self, file: bytes | Picture, limits: Limits, model: ModelCard, keep_picture: bool) -> ReadPicture:
        """The same in the caller's thread. Raises `PictureError`, and `NoRoom` where there is no memory for it now."""
        return self._read(file, limits, model, keep_picture, None)

    async def size_hw(self, file: bytes | Picture, limits: Limits) -> tuple[int, int]:
        """Sides of a picture as its file has them, which is not turned upright yet. Raises `PictureError`."""
        if not isinstance(file, bytes):
            return file.shape[0], file.shape[1]
        return (await self.threads.read(_size_hw, file, limits))[0]

    async def open(
        self, file: bytes | Picture, limits: Limits, keep_picture: bool
    ) -> tuple[Picture | DecodedPicture, float]:
        """A picture to be read in parts, an array where it is to be kept, and the seconds that it took to decode. Its
        memory is given back when nobody has it any more. Raises `PictureError`."""
        try:
            return await self.threads.read(self._open, file, limits, keep_picture, None)
        except NoRoom as error:
            room = await self._memory_in_tiles.wait_for(error.wanted)
        try:
            return await self.threads.read(self._open, file, limits, keep_picture, room)
        except asyncio.CancelledError:
            room.abandon()
            raise

    def _open(
        self, file: bytes | Picture, limits: Limits, keep_picture: bool, room: Room | None
    ) -> Picture | DecodedPicture:
        if not isinstance(file, bytes):
            limits.check_size(file.shape[1], file.shape[0])
            return file
        header = PictureFile(file, limits)
        with room or self._memory_in_tiles.take(_bytes_to_hold(header, keep_picture)) as room:
            decoded = header.decode()
            picture = decoded.whole() if keep_picture else decoded
            room.keep_while(picture)
        return picture

    def _read(
        self, file: bytes | Picture, limits: Limits, model: ModelCard, keep_picture: bool, room: Room | None
    ) -> ReadPicture:
        if not isinstance(file, bytes):
            limits.check_size(file.shape[1], file.shape[0])
            return file if keep_picture else None, prepare(file, model.input)
        header = PictureFile(file, limits)
        room = room or self._memory.take(_bytes_to_hold(header, keep_picture))
        with room:
            whole, canvas = _decoded(header, model, keep_picture)
            if header.decode_bytes >= LARGE:
                return_freed_memory()
            if whole is not None:
                room.keep_while(whole)
        return whole, canvas


def _bytes_to_hold(header: PictureFile, keep_picture: bool) -> int:
    return header.decode_bytes + keep_picture * KEPT_BYTES * header.pixels


def _size_hw(file: bytes, limits: Limits) -> tuple[int, int]:
    return PictureFile(file, limits).size_hw


def _decoded(header: PictureFile, model: ModelCard, keep_picture: bool) -> ReadPicture:
    """The canvas is the same whether the picture is kept or not."""
    if not keep_picture:
        return None, prepare_file(header, model)
    canvas = prepare_halved(header, model)
    decoded = header.decode()
    return decoded.whole(), canvas or prepare(decoded, model.input)


def return_freed_memory() -> None:
    """glibc keeps it for the thread that freed it, so that each thread may keep a large picture's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
