"""Several models in one server: which is meant, and loading and unloading them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from server.app import create_app
from server.contract.errors import BadParameter, BundleError, ModelNotFound
from server.engines.fake import FAKE_CARD, FakeEngine
from server.models import Models
from tests.server.running import PNG_HEADERS, fake_server, png, running, server_with, settings, write_bundle

PICTURE = png()


def models(*names_and_versions: str) -> Models:
    pairs = [text.split(":") for text in names_and_versions]
    engines = [FakeEngine(FAKE_CARD.model_copy(update={"name": name, "version": version})) for name, version in pairs]
    made = Models.of(settings(), engines)
    for model in made:
        model.ready = True
    return made


@pytest.mark.parametrize(
    ("loaded", "name", "version", "chosen"),
    [
        pytest.param(["a:1"], None, None, "a:1", id="only one"),
        pytest.param(["a:1", "a:2"], None, None, "a:2", id="newest of the only one"),
        pytest.param(["a:1.9", "a:1.10"], "a", None, "a:1.10", id="versions as people count"),
        pytest.param(["a:1", "a:2"], None, "1", "a:1", id="version"),
        pytest.param(["a:1", "default:1"], None, None, "default:1", id="default"),
        pytest.param(["a:1", "b:1"], "b", None, "b:1", id="name"),
    ],
)
def test_selection(loaded: list[str], name: str | None, version: str | None, chosen: str) -> None:
    card = models(*loaded).select(name, version).card
    assert f"{card.name}:{card.version}" == chosen


def test_selection_errors() -> None:
    several = models("b:1", "a:1")
    with pytest.raises(BadParameter, match="a, b"):
        several.select(None, None)
    with pytest.raises(ModelNotFound, match=r"'c'.*a, b"):
        several.select("c", None)
    with pytest.raises(ModelNotFound, match="no version '2'"):
        several.select("a", "2")
    with pytest.raises(BundleError, match="both version 1"):
        models("a:1", "a:1")


async def test_requests_go_to_the_model_they_name() -> None:
    async with server_with(models("a:1", "b:1")) as client:
        for name in "ab":
            reply = await client.post(f"/predict?model={name}", content=PICTURE, headers=PNG_HEADERS)
            assert reply.json()["model"] == {"name": name, "version": "1"}
        assert (await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)).status_code == 400
        listed = (await client.get("/models")).json()["models"]
        assert [model["name"] for model in listed] == ["a", "b"]
        described = (await client.get("/models/a")).json()
        assert described["versions"] == ["1"]
        assert described["card"]["output"]["mask_size"] == 28


# Loading and unloading

ADMIN = {"Authorization": "Bearer secret"}


@contextlib.asynccontextmanager
async def bundles(folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings(models=(str(folder),), admin_key="secret"))
    async with running(app) as client:
        yield client


async def test_unload_and_load(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a", b"1", name="a")
    write_bundle(tmp_path / "b", b"2", name="b")
    async with bundles(tmp_path) as client:
        assert (await client.post("/models/a/unload", headers=ADMIN)).status_code == 200
        assert (await client.get("/models/a")).status_code == 404
        assert (await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)).json()["model"]["name"] == "b"
        assert (await client.post("/models/a/load", headers=ADMIN)).status_code == 200
        reply = await client.post("/predict?model=a", content=PICTURE, headers=PNG_HEADERS)
        assert reply.status_code == 200
        assert (await client.post("/models/c/load", headers=ADMIN)).status_code == 404
        assert (await client.post("/models/c/unload", headers=ADMIN)).status_code == 404


async def test_new_version_takes_over_while_requests_run(tmp_path: Path) -> None:
    write_bundle(tmp_path / "old", b"1", name="a", version="1")
    async with bundles(tmp_path) as client:
        tasks = [asyncio.create_task(client.post("/predict", content=PICTURE, headers=PNG_HEADERS)) for _ in range(20)]
        write_bundle(tmp_path / "new", b"2", name="a", version="2")
        assert (await client.post("/models/a/load", headers=ADMIN)).status_code == 200
        assert {reply.status_code for reply in await asyncio.gather(*tasks)} == {200}
        reply = await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)
        assert reply.json()["model"]["version"] == "2"


async def test_bad_bundle_leaves_the_loaded_one(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "a", b"1", name="a")
    async with bundles(tmp_path) as client:
        (bundle / "model.onnx").write_bytes(b"2")
        reply = await client.post("/models/a/load", headers=ADMIN)
        assert (reply.status_code, "SHA-256" in reply.json()["detail"]) == (503, True)
        assert (await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)).status_code == 200


@pytest.mark.parametrize(
    ("admin_key", "headers"),
    [
        pytest.param("", ADMIN, id="no key set"),
        pytest.param("", {"Authorization": "Bearer "}, id="no key set, none sent"),
        pytest.param("other", ADMIN, id="wrong key"),
        pytest.param("secret", {}, id="no key sent"),
    ],
)
async def test_admin_routes_need_the_key(admin_key: str, headers: dict[str, str]) -> None:
    async with fake_server(admin_key=admin_key) as client:
        for action in ("load", "unload"):
            reply = await client.post(f"/models/fake/{action}", headers=headers)
            assert reply.status_code == 403
            assert "MASKLINE_ADMIN_KEY" in reply.json()["detail"]


# Keys


async def test_api_keys() -> None:
    async with fake_server(api_keys=("one", "two")) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            reply = await client.get("/models", headers=headers)
            assert reply.status_code == 401
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"Authorization": "Bearer two"}, {"authorization": "bearer one"}, {"X-API-Key": "two"}):
            assert (await client.get("/models", headers=headers)).status_code == 200
        for path in ("/health/live", "/health/ready", "/metrics", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/masks/models"])
async def test_root_path(path: str) -> None:
    async with fake_server(root_path="/masks", api_keys=("key",)) as client:
        assert (await client.get(path, headers={"X-API-Key": "key"})).status_code == 200
        assert (await client.get("/masks/health/ready")).status_code == 200
        assert (await client.get("/masks/")).status_code == 200
