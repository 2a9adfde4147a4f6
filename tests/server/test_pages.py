"""The demo page's files: which there are, as what they are served, and what they may do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.samples import SCENES, render
from tests.server.running import fake_server

STATIC = Path(__file__).parents[2] / "server" / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".webp": "image/webp"}


async def test_the_demo_page_may_run_this_servers_files_and_nothing_else() -> None:
    async with fake_server() as client:
        reply = await client.get("/")
    policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=|https?://", reply.text)


async def test_every_file_that_the_pages_name_is_served_as_what_it_is() -> None:
    pages, scripts = ("".join(path.read_text() for path in STATIC.glob(f"*.{kind}")) for kind in ("html", "js"))
    named = set(re.findall(r'"static/([\w.-]+)"', pages))
    named |= set(re.findall(r'from "./([\w.-]+)"', scripts))
    assert named == {path.name for path in STATIC.iterdir() if path.suffix in TYPES}
    async with fake_server(api_keys=("key",)) as client:
        for name in named:
            reply = await client.get(f"/static/{name}")
            assert reply.status_code == 200
            assert reply.headers["Content-Type"].partition(";")[0] == TYPES[Path(name).suffix]


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "docs.html", "../app.py", "%2e%2e%2fapp.py", "..%5capp.py", ""]
)
async def test_nothing_else_is_served_from_there(name: str) -> None:
    async with fake_server() as client:
        assert (await client.get(f"/static/{name}")).status_code == 404


async def test_a_browser_asks_again_and_is_told_that_nothing_has_changed() -> None:
    async with fake_server() as client:
        for path in ("/", "/docs", "/static/page.js"):
            first = await client.get(path)
            assert first.headers["Cache-Control"] == "no-cache"
            again = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.webp")), ids=lambda path: path.stem)
def test_samples_are_generated_ones(path: Path) -> None:
    """`maskline samples --seed 3` with less detail: no photograph, and nobody's but ours."""
    (scene,) = (scene for scene in SCENES if scene.name == path.stem)
    made, kept = render(scene, seed=3).astype(int), np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert made.shape == kept.shape
    assert np.abs(made - kept).mean() < 6
