"""What the page says when there is no answer, and that it goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.browser.conftest import OpenPage
from tests.browser.page import Page, answer
from tests.server.running import as_png, noise, server_process, write_bundle

PROBLEM = {"Content-Type": "application/problem+json"}


def problem(status: int, detail: str) -> str:
    return json.dumps({"type": "about:blank", "title": "", "status": status, "detail": detail, "request_id": "1"})


def test_a_broken_file_gives_the_servers_sentence(page: Page, nuclei: Path, tmp_path: Path) -> None:
    text = tmp_path / "note.png"
    text.write_text("no picture")
    page.choose(text)
    said = page.wait_for("status", r".*(picture|image|format).*")[0]
    assert said == page.run(
        "return fetch('predict', { method: 'POST', body: 'no picture', headers: { 'Content-Type': 'image/png' } })"
        ".then((reply) => reply.json()).then((body) => body.detail)"
    )
    assert page.element("status").get_attribute("class") == "error"
    assert not page.is_shown("again")
    page.choose(nuclei)
    page.answered()
    assert page.element("status").get_attribute("class") == ""


def test_a_picture_of_which_half_is_missing(page: Page, nuclei: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.png"
    half.write_bytes(nuclei.read_bytes()[:20_000])
    page.choose(half)
    page.wait_for("status", "cut off|truncated|broken|decoded|incomplete|ends")
    assert not page.is_shown("time")


def test_a_folder_is_no_picture(page: Page, tmp_path: Path) -> None:
    page.drop(tmp_path)
    page.wait_for("status", "cannot be read")


def test_a_picture_that_is_too_large(open_page: OpenPage, tmp_path: Path) -> None:
    large = tmp_path / "large.bmp"
    Image.fromarray(np.zeros((800, 1000, 3), np.uint8)).save(large)
    with server_process("--max-picture-mib", "1") as server:
        page = open_page(f"{server.url}/")
        page.wait_for("only-model", "fake")
        page.choose(large)
        page.wait_for("status", "1 MiB|larger|too large")


def test_too_many_megapixels(open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(as_png(noise(0, (1000, 1200))))
    with server_process("--max-megapixels", "1") as server:
        page = open_page(f"{server.url}/")
        page.wait_for("only-model", "fake")
        page.choose(tmp_path / "wide.png")
        page.wait_for("status", "pixels")


def test_a_server_that_is_gone_and_comes_back(open_page: OpenPage, tmp_path: Path) -> None:
    picture = tmp_path / "noise.png"
    picture.write_bytes(as_png(noise(0)))
    with server_process() as server:
        page = open_page(f"{server.url}/")
        page.wait_for("only-model", "fake")
        port = server.url.rpartition(":")[2]
    page.choose(picture)
    page.wait_for("status", "does not answer")
    page.elements("[data-sample]")[0].click()
    page.wait_for("status", "does not answer")
    with server_process("--port", port):
        page.choose(picture)
        assert page.answered() == (1, 1)


def test_a_busy_server_says_when_to_try_again(page: Page, nuclei: Path) -> None:
    page.answer_with(problem(429, "The wait would be 20 s."), 429, {**PROBLEM, "Retry-After": "2"})
    page.choose(nuclei)
    page.wait_for("status", r"The wait would be 20 s. Try again in 2 s\.")
    assert page.text("again") == "Try again in 2 s"
    assert not page.element("again").is_enabled()
    page.answer_with(answer((520, 696), []))
    page.wait_for("again", "^Try again$")
    page.click("again")
    assert page.answered() == (0, 0)


def test_what_a_proxy_answers_is_told_in_our_words(page: Page, nuclei: Path) -> None:
    page.answer_with("<html>413</html>", 413)
    page.choose(nuclei)
    page.wait_for("status", "too large")
    page.answer_with("<html>502</html>", 502)
    page.choose(nuclei)
    page.wait_for("status", "does not answer")
    page.click("again")
    page.answer_with("<html>418</html>", 418)
    page.choose(nuclei)
    page.wait_for("status", "answered 418")


def test_a_folder_dropped_meanwhile_ends_the_wait(open_page: OpenPage, nuclei: Path, tmp_path: Path) -> None:
    with server_process("--fake-batch-ms", "3000") as server:
        page = open_page(f"{server.url}/")
        page.wait_for("only-model", "fake")
        page.choose(nuclei)
        page.wait_for("status", "Looking")
        page.drop(tmp_path)
        page.wait_for("status", "cannot be read")
        assert "busy" not in (page.element("stage").get_attribute("class") or "")


def test_a_key_is_asked_for_and_kept_in_the_page_only(open_page: OpenPage, tmp_path: Path) -> None:
    picture = tmp_path / "noise.png"
    picture.write_bytes(as_png(noise(0)))
    with server_process("--api-keys", "right") as server:
        page = open_page(f"{server.url}/")
        page.wait_for("status", "needs a key")
        assert page.browser.switch_to.active_element == page.element("key")
        page.press("wrong", "\n")
        page.wait_for("status", "does not take this key")
        page.element("key").clear()
        page.element("key").send_keys("right", "\n")
        page.wait_for("only-model", "fake")
        assert not page.is_shown("key-form")
        page.choose(picture)
        assert page.answered() == (1, 1)
        kept = "return [document.cookie, localStorage.length, sessionStorage.length, location.href, key.value]"
        assert page.run(kept.replace("key.value", "document.getElementById('key').value")) == ["", 0, 0, page.url, ""]
        page.browser.refresh()
        page.wait_for("status", "needs a key")


def test_a_model_that_is_chosen_answers_for_the_picture_that_is_there(open_page: OpenPage, tmp_path: Path) -> None:
    bundles = [str(write_bundle(tmp_path / v, b"", version=v, classes=["background", f"of {v}"])) for v in ("1", "2")]
    picture = tmp_path / "noise.png"
    picture.write_bytes(as_png(noise(0)))
    with server_process(*bundles) as server:
        page = open_page(f"{server.url}/")
        page.wait_for("model", "fake 2")
        page.choose(picture)
        page.wait_for("classes", "of 1")
        page.element("model").send_keys("fake 2")
        page.wait_for("classes", "of 2")
        assert page.answered() == (1, 1)
