"""The load tester's report in Chromium, and as docs/load-testing.md shows it (`make screenshots`)."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from clients.loadtest.__main__ import main
from clients.samples import SCENES, render
from tests.browser.conftest import OpenPage
from tests.server.running import as_png, server_process

SHOWN = """
return [...document.querySelectorAll("figure")].map((figure) => {
  const svg = figure.querySelector("svg"), frame = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("polyline, circle, rect")].map((mark) => mark.getBoundingClientRect());
  const inside = marks.filter((m) => m.left >= frame.left - 4 && m.right <= frame.right + 4
    && m.top >= frame.top - 4 && m.bottom <= frame.bottom + 4 && m.width + m.height > 0);
  return {caption: figure.querySelector("figcaption").textContent, width: frame.width, height: frame.height,
    marks: marks.length, inside: inside.length, texts: svg.querySelectorAll("text").length};
});
"""
OF_ALL_RUNS = 4
OF_ONE = 4
CONCURRENCY = (1, 2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server whose engine takes 20 ms for a batch of up to 8: throughput grows until the batches are full."""
    folder = tmp_path_factory.mktemp("load")
    for scene in SCENES:
        (folder / f"{scene.name}.png").write_bytes(as_png(render(scene)))
    duration = "5s" if "SCREENSHOTS" in os.environ else "1.2s"
    options = ["--concurrency", ",".join(map(str, CONCURRENCY)), "--duration", duration]
    with server_process("--fake-batch-ms", "20", "--max-batch-size", "8") as server:
        assert main([server.url, str(folder), *options, "--output", str(folder / "report")]) == 0
    return folder / "report" / "report.html"


def test_every_plot_is_drawn_and_nothing_is_loaded(report: Path, open_page: OpenPage) -> None:
    page = open_page(report.as_uri())
    page.resize(1280, 800)
    figures = page.run(SHOWN)
    assert len(figures) == OF_ALL_RUNS + OF_ONE * len(CONCURRENCY)
    for figure in figures:
        assert figure["width"] > 400, figure
        assert figure["height"] > 200, figure
        assert figure["inside"] == figure["marks"] > 0, figure
        assert figure["texts"] > 5, figure
    assert page.requested() == [report.as_uri()]


def test_the_table_is_copied(report: Path, open_page: OpenPage) -> None:
    page = open_page(report.as_uri())
    page.run("document.querySelector('button.copy').click()")
    pasted = str(page.run("return getSelection().toString()"))
    assert pasted.startswith("| load | s | sent |")
    assert len(pasted.strip().splitlines()) == 2 + len(CONCURRENCY)


def test_it_fits_a_phone_in_the_dark(report: Path, open_page: OpenPage) -> None:
    page = open_page(report.as_uri())
    page.resize(360, 740, phone=True)
    page.prefer(prefers_color_scheme="dark")
    assert page.run("return document.documentElement.scrollWidth") <= 360
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 24, 39)"


def test_the_picture_of_the_docs(report: Path, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(report.as_uri())
    page.resize(1280, 1420)
    page.prefer(prefers_color_scheme="light")
    picture = base64.b64decode(page.screenshot(format="webp", quality=85)["data"])
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "load-report.webp").write_bytes(picture)
    assert 10_000 < len(picture) < 300_000
