"""The demo page in a real Chromium: `make test-browser`. From a picture to its objects, and what changes them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from clients.prediction import parse_answer
from clients.samples import SCENES, render
from tests.browser.conftest import OpenPage
from tests.browser.page import Page
from tests.server.running import ServerProcess, server_process

PASTE = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const file = new File([bytes], "image.png", { type: "image/png" });
const clipboardData = new DataTransfer();
clipboardData.items.add(file);
document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
"""
BRIGHTNESS = """
const at = (id) => {
  const c = document.getElementById(id);
  return c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
};
const picture = at("picture"), view = at("view"), sums = [0, 0], counts = [0, 0];
for (let k = 0; k < view.length; k += 4) {
  const isCovered = view[k + 3] > 0 ? 1 : 0;
  sums[isCovered] += picture[k];
  counts[isCovered] += picture[k + 3] ? 1 : 0;
}
return [sums[0] / counts[0], sums[1] / counts[1]];
"""


def test_a_chosen_picture_is_shown_with_its_objects(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    shown, found = page.answered()
    assert 40 < shown < found
    assert page.coloured() > 5000
    assert len([row for row in page.elements("#objects li") if row.is_displayed()]) == shown
    assert page.text("count") == page.text("class-1") == str(shown)


def test_a_dropped_picture_is_shown_with_its_objects(page: Page, nuclei: Path) -> None:
    page.drop(nuclei)
    assert page.answered()[0] > 40
    assert page.coloured() > 5000


def test_a_pasted_picture_is_shown_with_its_objects(page: Page, nuclei: Path) -> None:
    page.run(PASTE, base64.b64encode(nuclei.read_bytes()).decode())
    assert page.answered()[0] > 40
    assert page.coloured() > 5000


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_a_sample_needs_no_file(page: Page, sample: int) -> None:
    page.elements("[data-sample]")[sample].click()
    assert page.answered()[0] > 10


def test_masks_lie_on_the_nuclei(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    page.click("boxes", "labels")
    page.next_frame()
    beside, under = page.run(BRIGHTNESS)
    assert under > 4 * beside


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (7, Image.Transpose.TRANSVERSE)],
)
def test_masks_lie_on_a_picture_that_its_exif_data_turn(
    page: Page, tmp_path: Path, orientation: int, stored: Image.Transpose
) -> None:
    turned = Image.fromarray(render(SCENES[0])).transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    page.choose(tmp_path / "turned.jpg")
    assert page.answered()[0] > 40
    page.click("boxes", "labels")
    page.next_frame()
    beside, under = page.run(BRIGHTNESS)
    assert under > 4 * beside


def test_a_format_that_the_browser_does_not_read_is_answered_all_the_same(page: Page, tmp_path: Path) -> None:
    Image.fromarray(render(SCENES[1])).save(tmp_path / "scan.tif")
    page.choose(tmp_path / "scan.tif")
    assert page.answered()[0] > 10
    assert page.coloured() > 1000


def test_threshold_classes_and_layers_change_what_is_drawn_without_a_request(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    usual, found = page.answered()
    all_of_it = page.coloured()
    page.requested()
    page.set_threshold(0.01)
    assert page.answered()[0] == found
    assert page.coloured() > all_of_it
    page.set_threshold(1)
    assert page.answered()[0] == 0
    assert page.coloured() == 0
    page.set_threshold(0.5)
    assert page.answered()[0] == usual
    page.click("boxes", "labels")
    assert 0 < page.coloured() < all_of_it
    page.click("masks")
    assert page.coloured() == 0
    page.click("masks")
    (toggle,) = page.elements("#classes input")
    toggle.click()
    assert page.answered()[0] == page.coloured() == 0
    assert page.text("class-1") == str(usual)
    toggle.click()
    assert page.answered()[0] == usual
    assert page.requested() == []


def test_an_object_that_is_pointed_at_stands_out_and_is_described(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    first, second = page.elements("#objects li")[:2]
    first.click()
    assert page.text("details").startswith("Object\n1, nucleus")
    assert page.elements("[aria-selected=true]") == [first]
    plain = page.coloured()
    second.click()
    assert page.text("details").startswith("Object\n2, nucleus")
    assert page.coloured() != plain


def test_pointing_at_the_picture_finds_the_object_there(page: Page, nuclei: Path, demo: ServerProcess) -> None:
    page.choose(nuclei)
    page.answered()
    (prediction,) = parse_answer(demo.predict(nuclei.read_bytes()).json())
    mask = list(prediction)[4].mask()
    rows, columns = np.nonzero(mask)
    near = np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean()))
    point_at(page, (columns[near] + 0.5) / mask.shape[1], (rows[near] + 0.5) / mask.shape[0])
    assert page.wait_for("details", r"Object\n(\d+), nucleus")[1] == "5"


def point_at(page: Page, right: float, down: float) -> None:
    """A place of the picture, as parts of its width and height, where it fills the stage's height."""
    width, height = 696, 520
    stage = page.run("return document.getElementById('stage').getBoundingClientRect().toJSON()")
    scale = min(stage["width"] / width, stage["height"] / height)
    left = stage["x"] + (stage["width"] - width * scale) / 2
    top = stage["y"] + (stage["height"] - height * scale) / 2
    at = {"x": left + right * width * scale, "y": top + down * height * scale}
    page.command("Input.dispatchMouseEvent", type="mouseMoved", **at)


def test_the_picture_can_be_enlarged_and_moved_back(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    fitting = page.coloured()
    for _ in range(3):
        page.click("closer")
    assert page.coloured() != fitting
    page.click("fit")
    assert page.coloured() == fitting


def test_a_pinch_and_the_wheel_with_ctrl_enlarge_and_a_drag_moves(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    seen = [page.coloured()]
    box = page.element("stage").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for reach, kind in ((20, "touchStart"), (40, "touchMove"), (80, "touchMove")):
        fingers = [{"x": x - reach, "y": y, "id": 0}, {"x": x + reach, "y": y, "id": 1}]
        page.command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
    page.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    seen.append(page.coloured())
    page.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-120, modifiers=2)
    seen.append(page.coloured())
    page.command("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x + 90, y=y + 60, button="left", buttons=1)
    page.command("Input.dispatchMouseEvent", type="mouseReleased", x=x + 90, y=y + 60, button="left")
    seen.append(page.coloured())
    assert len(set(seen)) == 4
    page.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=900)
    assert page.coloured() == seen[-1]  # without Ctrl the page scrolls


def test_the_time_bar_adds_up_to_the_round_trip(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    total = float(page.wait_for("total", r"([\d.]+) ms there and back, [\d.]+ ms to draw")[1])
    lines = page.text("stages").split("\n")
    stages = dict(zip(lines[::2], (float(text.removesuffix(" ms")) for text in lines[1::2]), strict=True))
    assert list(stages) == ["decode", "queue", "inference", "postprocess", "other", "network"]
    assert sum(stages.values()) == pytest.approx(total, abs=4)


def test_the_json_is_the_servers_and_written_out_when_it_is_opened(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    _, found = page.answered()
    assert page.element("json-text").get_attribute("textContent") == ""
    page.element("json").find_element(By.TAG_NAME, "summary").click()
    page.wait_for("json-text", "request_id")
    page.click("copy-json")
    assert len(json.loads(page.clipboard())["images"][0]["detections"]) == found


def test_the_picture_with_its_objects_is_saved_at_full_size(page: Page, nuclei: Path, tmp_path: Path) -> None:
    page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.choose(nuclei)
    page.answered()
    page.click("save")
    saved = tmp_path / "nuclei-objects.png"
    WebDriverWait(page.browser, 20).until(lambda _: saved.exists())
    image = Image.open(io.BytesIO(saved.read_bytes()))
    assert image.size == (696, 520)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 20).mean() > 0.03  # the picture itself is grey


def test_a_newer_picture_takes_the_place_of_one_that_is_under_way(page: Page, nuclei: Path) -> None:
    page.elements("[data-sample]")[1].click()
    page.choose(nuclei)
    assert page.answered()[0] > 40
    assert "nuclei.png" in (page.element("view").get_attribute("aria-label") or "")
    assert "nuclei.png" in page.text("curl")


def test_no_request_leaves_the_servers_origin(page: Page, nuclei: Path) -> None:
    page.choose(nuclei)
    page.answered()
    page.elements("[data-sample]")[0].click()
    page.answered()
    page.element("json").find_element(By.TAG_NAME, "summary").click()
    page.click("copy-curl", "save")
    requested = page.requested()
    assert len(requested) > 10
    assert [url for url in requested if not url.removeprefix("blob:").startswith(f"{page.url}/")] == []


def test_behind_a_proxy_the_page_works_under_its_path(open_page: OpenPage, nuclei: Path) -> None:
    with server_process("--root-path", "/maskline") as server:
        page = open_page(f"{server.url}/")
        page.wait_for("only-model", "fake")
        page.choose(nuclei)
        assert page.answered() == (1, 1)
        assert server.url.endswith("/maskline")
        assert f"{server.url}/predict?" in page.text("curl")
