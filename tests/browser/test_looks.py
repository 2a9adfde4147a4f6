"""The page on a phone, in the dark, and as the README shows it: `make screenshots` writes those into docs/images."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.browser.page import Page

WIDER = """
return [...document.querySelectorAll("body *")].filter((e) => !e.closest("pre, .unseen, #list, #classes, label.button")
  && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80));
"""
CONTRAST = """
const light = (colour) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const root = getComputedStyle(document.documentElement), of = (name) => light(root.getPropertyValue(name));
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
return arguments[0].map(([ink, ground]) => ratio(of(ink), of(ground)));
"""
PAIRS = [
    ("--ink", "--ground"),
    ("--ink", "--card"),
    ("--quiet", "--ground"),
    ("--quiet", "--card"),
    ("--error", "--ground"),
    ("--accent", "--ground"),
    ("--on-accent", "--accent"),
]


@pytest.mark.parametrize("width", [320, 360])
def test_nothing_is_wider_than_a_phone(page: Page, nuclei: Path, width: int) -> None:
    page.resize(width, 740, phone=True)
    for _ in ("empty", "answered"):
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run(WIDER) == []
        page.choose(nuclei)
        page.answered()
    page.run("document.getElementById('key-form').hidden = false")
    page.element("json").click()
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.coloured() > 5000
    assert page.element("file").get_attribute("accept") == "image/*"  # where a phone offers its camera


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: Page, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    assert min(page.run(CONTRAST, PAIRS)) >= 4.5
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").partition(",")[0])
    assert (red < 64) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_readmes_picture_of_the_page(page: Page, tmp_path: Path, scheme: str) -> None:
    page.resize(1280, 800)
    page.prefer(prefers_color_scheme=scheme)
    page.elements("[data-sample]")[1].click()
    page.answered()
    page.wait_for("total", "to draw")
    page.elements("#objects li")[3].click()
    page.next_frame()
    picture = base64.b64decode(page.screenshot(format="webp", quality=90)["data"])
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"page-{scheme}.webp").write_bytes(picture)
    assert 10_000 < len(picture) < 300_000
