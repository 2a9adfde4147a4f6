"""What the server's tests share: pictures, bundles, and servers in this process or in one of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx2
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from PIL import Image

from server.app import create_app
from server.contract.card import BundleFile, ModelCard
from server.engines.fake import FAKE_CARD
from server.models import Models
from server.settings import Settings

PNG_HEADERS = {"Content-Type": "image/png"}


def png(colour: tuple[int, int, int] = (200, 30, 10), size: tuple[int, int] = (60, 40)) -> bytes:
    """A picture of one colour; `size` is width, height."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def settings(**values: object) -> Settings:
    return Settings(**{"engine": "fake", **values})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(app: FastAPI, *, wait: bool = True) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, in this event loop."""
    transport = httpx2.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://test") as c:
        while wait and not app.state.models.ready:
            await asyncio.sleep(0.005)
        yield c


@contextlib.asynccontextmanager
async def fake_server(**values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with running(create_app(settings(**values))) as client:
        yield client


@contextlib.asynccontextmanager
async def server_with(models: Models, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with running(create_app(settings(**values), models)) as client:
        yield client


class ServerProcess:
    """`python -m server` with the fake engine; `url` once it listens."""

    def __init__(self, *arguments: str, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "server", "--engine", "fake", "--port", "0", *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                break

    def wait_until(self, path: str, holds: str, seconds: float = 60) -> None:
        """Until the answer of `path` is 200 and contains a text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            reply = self.get(path)
            if reply.status_code == 200 and holds in reply.text:
                return
            time.sleep(0.05)
        raise AssertionError(f"{path} never answered with {holds!r}")

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30)

    def predict(self, picture: bytes) -> httpx2.Response:
        return httpx2.post(f"{self.url}/predict", content=picture, headers=PNG_HEADERS, timeout=60)


@contextlib.contextmanager
def server_process(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """`prefix`: a program and its arguments that run the server."""
    server = ServerProcess(*arguments, prefix=prefix)
    try:
        server.wait_until("/health/ready", "ready")
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()


def write_bundle(folder: Path, onnx: bytes, engine: str = "onnxruntime", **values: object) -> Path:
    """A bundle of an ONNX file for an engine; `values` replace those of the fake model's card."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx)
    digest = hashlib.sha256(onnx).hexdigest()
    file = BundleFile(path="model.onnx", sha256=digest, engine=engine, precision="fp32")  # type: ignore[arg-type]
    card = FAKE_CARD.model_copy(update={"files": [file], **values})
    (folder / "model.json").write_text(ModelCard.model_validate(card.model_dump()).model_dump_json())
    return folder


def noise(seed: int, size_hw: tuple[int, int] = (50, 70)) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


def as_png(picture: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
