"""The page of `maskline diff` in Chromium, and as docs/continuity.md shows it (`make screenshots`)."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.diff.__main__ import main
from clients.masks import Mask
from clients.samples import SCENES, render
from server.contract import rle
from server.pipeline import Pipeline
from tests.browser.conftest import MODELS, OpenPage
from tests.clients.conftest import Asked, FakeServer, Reply, answer
from tests.server.running import as_png

SEEN = """
return [...document.querySelectorAll(".sides svg")].map((svg) => {
  const frame = svg.getBoundingClientRect(), picture = svg.querySelector("image, use").getBoundingClientRect();
  const kinds = [...svg.querySelectorAll("path")].map((path) => path.getAttribute("class"));
  const inside = [...svg.querySelectorAll("path")].map((path) => path.getBoundingClientRect())
    .filter((p) => p.left >= frame.left - 4 && p.right <= frame.right + 4 && p.width + p.height > 0);
  return {width: frame.width, height: frame.height, covered: picture.width >= frame.width - 1, kinds,
    inside: inside.length};
});
"""
LOADED = """
Promise.all([...document.querySelectorAll("image")].map((image) => {
  const copy = new Image();
  copy.src = image.getAttribute("href");
  return copy.decode().then(() => copy.naturalWidth);
})).then(done, (error) => done(`${error}`));
"""
PLOTS = """
return [...document.querySelectorAll(".plots figure")].map((figure) => [figure.querySelector("figcaption").textContent,
  [...figure.querySelectorAll("polyline, circle, rect")].filter((m) => m.getBoundingClientRect().width > 0).length]);
"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo model, and of a server that makes its answers worse."""
    folder = tmp_path_factory.mktemp("diff")
    (folder / "models").symlink_to(MODELS)
    (folder / "samples").mkdir()
    for scene in SCENES:
        (folder / "samples" / f"{scene.name}.png").write_bytes(as_png(render(scene)))
    pipeline, server = Pipeline.open(MODELS / "demo"), FakeServer()
    one_at_a_time = threading.Lock()

    def script(asked: Asked) -> Reply:
        with one_at_a_time:
            found = dataclasses.asdict(pipeline.predict(asked.body))
        return Reply(content={**answer(), "images": [{**found, "detections": worse(found["detections"])}]})

    server.script = script
    try:
        with contextlib.chdir(folder):
            assert main(["models/demo", server.url, "samples"]) == 1
    finally:
        server.close()
        pipeline.engine.close()
    return folder / "diff.html"


def worse(detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the sure ones some are missing, less sure, of another class, or found again elsewhere in the picture; masks
    are moved a little, and scores too."""
    rng = np.random.default_rng(len(detections))
    changed = []
    for k, one in enumerate(detections):
        if one["score"] < 0.5 or k % 11 == 3:
            continue
        moved = redrawn(one, np.roll(mask_of(one), rng.integers(-1, 2, 2), (0, 1)))
        moved["score"] = (
            0.45 if k % 13 == 5 else round(float(np.clip(one["score"] - abs(rng.normal(0, 0.05)), 0.5, 1)), 6)
        )
        if k % 17 == 7:
            moved |= {"class_id": 2, "class_name": "debris"}
        if k % 9 == 2:
            changed.append(redrawn(one, mask_of(one)[::-1, ::-1]) | {"score": 0.55})
        changed.append(moved)
    return changed


def mask_of(one: dict[str, Any]) -> Mask:
    size_hw = tuple(one["mask"]["size"])
    return rle.to_mask(rle.decompress(one["mask"]["counts"], size_hw), size_hw)


def redrawn(one: dict[str, Any], mask: Mask) -> dict[str, Any]:
    return one | {"mask": {"size": list(mask.shape), "counts": rle.compress(rle.from_mask(mask))}}


def test_every_picture_and_plot_is_seen_and_nothing_is_loaded(page_file: Path, open_page: OpenPage) -> None:
    page = open_page(page_file.as_uri())
    page.resize(1280, 800)
    seen = page.run(SEEN)
    assert len(seen) == 2 * len(SCENES)
    for side in seen:
        assert side["width"] > 500, side
        assert side["height"] > 300, side
        assert side["covered"], side
        assert side["inside"] == len(side["kinds"]) > 10, side
    assert {"kept", "lost", "lost unsure", "changed"} == {kind for side in seen[::2] for kind in side["kinds"]}
    assert {"kept", "gained", "changed"} == {kind for side in seen[1::2] for kind in side["kinds"]}
    widths = page.run_async(LOADED)
    assert sorted(widths) == sorted(min(640, scene.size_hw[1]) for scene in SCENES)
    plots = page.run(PLOTS)
    assert len(plots) == 4
    assert all(marks > 0 for _, marks in plots), plots
    assert [url for url in page.requested() if not url.startswith("data:")] == [page_file.as_uri()]


def test_what_is_in_both_can_be_hidden(page_file: Path, open_page: OpenPage) -> None:
    page = open_page(page_file.as_uri())
    page.resize(1280, 800)
    assert page.elements(".sides path.kept")[0].is_displayed()
    page.click("kept")
    assert not any(path.is_displayed() for path in page.elements(".sides path.kept"))
    assert page.elements(".sides path.lost")[0].is_displayed()


def test_it_fits_a_phone_in_the_dark(page_file: Path, open_page: OpenPage) -> None:
    page = open_page(page_file.as_uri())
    page.resize(360, 740, phone=True)
    page.prefer(prefers_color_scheme="dark")
    assert page.run("return document.documentElement.scrollWidth") <= 360
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 24, 39)"
    assert page.run(SEEN)[0]["width"] > 300


def test_the_picture_of_the_docs(page_file: Path, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(page_file.as_uri())
    page.resize(1280, 2280)
    page.prefer(prefers_color_scheme="light")
    picture = base64.b64decode(page.screenshot(format="webp", quality=80)["data"])
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diff.webp").write_bytes(picture)
    assert 10_000 < len(picture) < 300_000
