"""Bundles that change on disk under a running server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from server.app import create_app
from tests.server.running import PNG_HEADERS, png, running, settings, write_bundle

PICTURE = png()


@contextlib.asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings(models=(str(folder),), watch_s=0.02))
    async with running(app) as client:
        await asyncio.sleep(0.1)  # the first look
        yield client


async def names(client: httpx2.AsyncClient) -> list[str]:
    models = (await client.get("/models")).json()["models"]
    return sorted(f"{model['name']}:{model['version']}" for model in models)


async def until(client: httpx2.AsyncClient, *expected: str) -> None:
    async with asyncio.timeout(20):
        while await names(client) != list(expected):
            await asyncio.sleep(0.02)


def swap(folder: Path, name: str, **values: object) -> None:
    """Puts another bundle in the place of `folder`, as a build does."""
    fresh = write_bundle(folder.parent / ".fresh", b"2", name=name, **values)
    if folder.exists():
        folder.rename(folder.parent / ".old")
    fresh.rename(folder)
    shutil.rmtree(folder.parent / ".old", ignore_errors=True)


async def test_bundles_come_change_and_go(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with watching(tmp_path) as client:
        await until(client, "a:1")
        swap(tmp_path / "a", "a", version="2")
        await until(client, "a:2")
        swap(tmp_path / "b", "b")
        await until(client, "a:2", "b:1")
        swap(tmp_path / "b", "renamed")
        await until(client, "a:2", "renamed:1")
        shutil.rmtree(tmp_path / "a")
        await until(client, "renamed:1")


async def test_one_of_two_versions_goes(tmp_path: Path) -> None:
    write_bundle(tmp_path / "old", b"1", name="a", version="1")
    write_bundle(tmp_path / "new", b"2", name="a", version="2")
    async with watching(tmp_path) as client:
        await until(client, "a:1", "a:2")
        shutil.rmtree(tmp_path / "new")
        await until(client, "a:1")


async def test_no_request_is_lost_while_a_bundle_is_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    async with watching(tmp_path) as client:
        statuses = []

        async def ask() -> None:
            for _ in range(60):
                statuses.append((await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)).status_code)
                await asyncio.sleep(0.005)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for version in ("2", "3", "4"):
            swap(tmp_path / "a", "a", version=version)
            await until(client, f"a:{version}")
        await asyncio.gather(*asking)
        assert set(statuses) == {200}


async def test_a_bundle_that_is_not_whole_is_told_once_and_taken_when_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    ready = write_bundle(tmp_path / "elsewhere" / "b", b"2", name="b")
    with caplog.at_level(logging.WARNING, "server.watch"):
        async with watching(tmp_path) as client:
            await until(client, "a:1")
            (tmp_path / "b").mkdir()
            shutil.copy(ready / "model.json", tmp_path / "b")
            await asyncio.sleep(0.2)
            assert await names(client) == ["a:1"]
            shutil.copy(ready / "model.onnx", tmp_path / "b")
            await until(client, "a:1", "b:1")
    assert len([record for record in caplog.records if record.name == "server.watch"]) == 1


async def test_drafts_of_a_build_are_no_bundles(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    write_bundle(tmp_path / ".a-draft", b"1", name="a")
    async with watching(tmp_path) as client:
        await until(client, "a:1")
