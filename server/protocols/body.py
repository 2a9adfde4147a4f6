"""Reading a request's body: never more of it than is allowed, and the pictures of a multipart form."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from server.contract.errors import BadParameter, BodyTooLarge, DeadlinePassed, UnsupportedFormat

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from server.body_budget import BodyRoom

IMAGE_PART = "image"
COMPRESSED = ("gzip", "deflate")
INFLATE_STEP = 1 << 20
"""Bytes that come out of a compressed body at once, before they are counted."""
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


async def read_body(request: Request, max_bytes: int, *, inflate: bool = False) -> bytes:
    """The whole body; `max_bytes` also holds for what comes out of a compressed one.

    Raises:
        BodyTooLarge: as soon as that is known: from Content-Length, else while the body comes in.
        UnsupportedFormat: the body is compressed, and not in gzip or deflate where `inflate` accepts these.
        BadParameter: it is not what its Content-Encoding says.
        QueueFull: the bodies of all requests together are too large.
        DeadlinePassed: it comes in too slowly.
        ClientDisconnect: the client left before the end.
    """
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not (inflate and encoding in COMPRESSED):
        wanted = "send it as it is, or in gzip or deflate" if inflate else "send it as it is"
        raise UnsupportedFormat(f"A body with Content-Encoding {encoding} is not accepted; {wanted}.")
    announced = request.headers.get("Content-Length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    timeout_s = request.app.state.settings.body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes, encoding)
    except TimeoutError as error:
        raise DeadlinePassed(f"The body did not come in within {timeout_s:g} s.") from error


async def _read(request: Request, max_bytes: int, encoding: str) -> bytes:
    chunks, size = [], 0
    with request.app.state.bodies.room() as room:
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            room.grow(len(chunk))
        body = b"".join(chunks)
        return body if encoding == "identity" else await _inflated(body, encoding, max_bytes, room)


async def _inflated(body: bytes, encoding: str, max_bytes: int, room: BodyRoom) -> bytes:
    """In steps, so that a body which is small and becomes gigabytes is found out early."""
    chunks, size = [], 0
    steps = inflate_steps(body, encoding)
    while chunk := await asyncio.to_thread(next, steps, b""):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        room.grow(len(chunk))
    return b"".join(chunks)


def inflate_steps(body: bytes, encoding: str) -> Iterator[bytes]:
    """What a body in gzip or deflate holds, never more than `INFLATE_STEP` bytes at once.

    Raises `BadParameter` for what is not in it, is cut off, or goes on after its end.
    """
    inflater = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        for start in range(0, len(body), INFLATE_STEP):  # all at once, what is left would be copied in every step
            rest = body[start : start + INFLATE_STEP]
            while chunk := inflater.decompress(rest, INFLATE_STEP):
                yield chunk
                rest = inflater.unconsumed_tail
            if inflater.eof and (inflater.unused_data or start + INFLATE_STEP < len(body)):
                raise BadParameter(f"The body goes on after the end of its {encoding}.")
    except zlib.error as error:
        raise BadParameter(f"The body is not in {encoding}, as its Content-Encoding says.") from error
    if not inflater.eof:
        raise BadParameter(f"The {encoding} of the body is cut off.")


def multipart_pictures(body: bytes, content_type: str, max_parts: int) -> list[bytes]:
    """The parts named `image`, in their order.

    Raises:
        BadParameter: any other part, or a broken form.
        BodyTooLarge: more parts than that.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise BadParameter("The multipart form has no boundary in its Content-Type.")
    form = _Form(max_parts)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadParameter(f"The multipart form is broken: {error}.") from error
    if not form.ended:
        raise BadParameter("The multipart form is cut off.")
    unknown = [name for name, _ in form.parts if name != IMAGE_PART]
    if unknown:
        raise BadParameter(f"The form has a part named {unknown[0]!r}; pictures are parts named {IMAGE_PART!r}.")
    if not form.parts:
        raise BadParameter(f"The form is empty; send pictures as parts named {IMAGE_PART!r}.")
    return [bytes(data) for _, data in form.parts]


class _Form:
    """Collects names and contents of parts from the parser's calls, in memory: the body is there already."""

    def __init__(self, max_parts: int) -> None:
        self._max_parts = max_parts
        self.parts: list[tuple[str, bytearray]] = []
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self.parts[-1][1].extend(data[start:end]),
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise too_many_pictures(self._max_parts)
        self.parts.append(("", bytearray()))

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            name = options.get(b"name", b"").decode("utf-8", "replace")
            self.parts[-1] = (name, self.parts[-1][1])
        self._header.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True


def too_many_pictures(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request has too many pictures; at most {limit} are accepted.")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
