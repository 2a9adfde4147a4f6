"""What the tests of tools' protocols share: pictures as text, and the masks that `/predict` answers with."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt

from server.contract import rle
from tests.server.running import PNG_HEADERS, as_png, noise, png

PICTURE = as_png(noise(3, (50, 70)))
WIDE = as_png(noise(3, (64, 300)))
"""In which it finds an object in each tile."""
BLACK = png((0, 0, 0), (30, 20))
"""In which the fake engine finds nothing."""
JSON = {"Content-Type": "application/json"}


def text(picture: bytes = PICTURE) -> str:
    return base64.b64encode(picture).decode()


async def predicted(client: httpx2.AsyncClient, picture: bytes = PICTURE, query: str = "") -> list[dict[str, Any]]:
    """The detections of `/predict`."""
    reply = await client.post(f"/predict{query}", content=picture, headers=PNG_HEADERS)
    found: list[dict[str, Any]] = reply.json()["images"][0]["detections"]
    return found


def pixels(found: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask [h, w] of a detection of `/predict`."""
    h, w = found["mask"]["size"]
    return rle.to_mask(rle.decompress(found["mask"]["counts"], (h, w)), (h, w))


def refused(reply: httpx2.Response, status: int, *words: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert "Traceback" not in reply.text
    for word in words:
        assert word in reply.json()["detail"]


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "a list": (b"[]", 400),
    "null": (b"null", 400),
    "a number": (b"1e999", 400),
    "not UTF-8": (b'{"image": "\xff"}', 400),
    "half a surrogate": (b'{"image": "\\ud800"}', 400),
    "deep lists": (b'{"image": ' + b"[" * 100_000, 400),
    "deeper lists": (b'{"image": ' + b"[" * 300_000, 413),
    "deep objects": (b'{"image":' * 100_000, 400),
    "many objects": (b'{"image": "", "other": [' + b"{}," * 300_000 + b"{}]}", 413),
    "millions of values": (b'{"image": "", "other": [' + b"0," * 2_100_000 + b"0]}", 413),
}
"""What no protocol takes, and the status of each."""
