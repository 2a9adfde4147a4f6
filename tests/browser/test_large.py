"""A picture of 12 megapixels with 100 objects: drawn in under a second, and smooth. Times are the page's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.contract import rle
from tests.browser.page import Page, answer

WIDTH, HEIGHT, OBJECTS, RADIUS = 4000, 3000, 100, 180
CLASSES = ("leaf", "stone", "seed, dry")
FRAMES = """
const act = new Function("k", arguments[0]), times = [];
let k = 0, last = performance.now();
const step = (now) => {
  if (k) times.push(performance.now() - last);
  last = performance.now();
  if (k === 40) return done(times.sort((a, b) => a - b)[20]);
  act(k++);
  requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""
SLIDER = "const t = document.getElementById('threshold'); t.value = (k % 20) / 20; t.dispatchEvent(new Event('input'));"
CLASS = "document.querySelector('#classes input').click();"
POINTER = """
const view = document.getElementById("view"), { left, top } = view.getBoundingClientRect();
view.dispatchEvent(new PointerEvent("pointermove", { clientX: left + 100 + 12 * k, clientY: top + 50 + 8 * k }));
"""


def blob(index: int, rng: np.random.Generator) -> dict[str, Any]:
    """A disc with a wavy rim."""
    x, y = rng.uniform(RADIUS, WIDTH - RADIUS), rng.uniform(RADIUS, HEIGHT - RADIUS)
    columns = np.arange(int(x - RADIUS), int(x + RADIUS))
    across = (columns - x) / RADIUS
    half = RADIUS * np.sqrt(np.clip(1 - across**2, 0, 1)) * (1 + 0.1 * np.sin(20 * across)) + 1
    top, bottom = (np.clip(np.rint(edge), 0, HEIGHT - 1).astype(int) for edge in (y - half, y + half))
    bounds = np.stack([columns * HEIGHT + top, columns * HEIGHT + bottom], 1).ravel()
    counts = rle.from_boundaries(bounds, WIDTH * HEIGHT)
    return {
        "box": [float(columns[0]), float(top.min()), float(columns[-1] + 1), float(bottom.max())],
        "class_id": 1 + index % len(CLASSES),
        "class_name": CLASSES[index % len(CLASSES)],
        "score": 1 - index / OBJECTS,
        "area": rle.area(counts),
        "mask": {"size": [HEIGHT, WIDTH], "counts": rle.compress(counts)},
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A photograph's worth of pixels, and an answer to it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3), np.uint8))
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    coarse.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(path, quality=88)
    return path, answer((HEIGHT, WIDTH), [blob(k, rng) for k in range(OBJECTS)])


@pytest.fixture
def full(page: Page, large: tuple[Path, str]) -> Page:
    path, text = large
    page.set_threshold(0.01)
    page.answer_with(text)
    page.choose(path)
    assert page.answered() == (OBJECTS, OBJECTS)
    page.wait_for("total", "to draw")
    return page


def test_it_is_drawn_in_under_a_second(full: Page) -> None:
    """From the answer's last byte; here that is there before the picture is decoded, so that this counts as well."""
    assert float(full.element("time").get_attribute("data-drawn-ms") or "inf") < 1000
    assert full.coloured() > 50_000


@pytest.mark.parametrize("act", [SLIDER, CLASS, POINTER], ids=["slider", "class", "pointer"])
def test_it_stays_smooth(full: Page, act: str) -> None:
    """About 17 ms a frame on a quiet machine, without a GPU."""
    assert full.run_async(FRAMES, act) < 150


def test_several_classes_have_colours_and_counts_and_can_be_hidden_at_once(full: Page) -> None:
    rows = [row.text.split("\n") for row in full.elements("#classes .class")]
    assert rows == [["leaf", "34"], ["stone", "33"], ["seed, dry", "33"]]
    swatches = [row.value_of_css_property("background-color") for row in full.elements("#classes .swatch")]
    assert len(set(swatches)) == 3
    full.elements("#classes input")[1].click()
    assert full.answered()[0] == 67
    assert "classes=leaf%2C3" in full.text("curl")
    assert 'classes="leaf,3"' in full.text("python")
    full.click("none")
    assert full.answered()[0] == 0
    full.click("all")
    assert full.answered()[0] == 100
    assert "classes" not in full.text("curl")
