"""The demo page in a real Chromium: `make test-browser`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from clients.samples import write_samples
from tests.server.running import ServerProcess, server_process

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("--engine", "auto", str(MODELS)) as process:
        yield process


@pytest.fixture
def page(server: ServerProcess, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1000,900",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.get(server.url)
    yield browser
    browser.quit()


def status(page: webdriver.Chrome, pattern: str) -> re.Match[str]:
    """The status line, once it matches."""
    found = WebDriverWait(page, 60).until(lambda p: re.search(pattern, p.find_element(By.ID, "status").text))
    assert isinstance(found, re.Match)
    return found


def choose(page: webdriver.Chrome, path: Path) -> None:
    page.find_element(By.ID, "file").send_keys(str(path))


def set_threshold(page: webdriver.Chrome, value: float) -> None:
    script = (
        "const t = document.getElementById('threshold'); t.value = arguments[0]; t.dispatchEvent(new Event('input'))"
    )
    page.execute_script(script, value)


def test_a_chosen_picture_is_shown_with_its_objects(page: webdriver.Chrome, tmp_path: Path) -> None:
    choose(page, write_samples(tmp_path / "samples")[0])
    shown, of = map(int, status(page, r"(\d+) of (\d+) objects").groups())
    assert 20 < shown <= of
    canvas = page.find_element(By.ID, "view")
    assert canvas.is_displayed()
    coloured = "const c = document.getElementById('view'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
    coloured += ".data; let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] != d[i + 1]; return n"
    assert page.execute_script(coloured) > 5000
    set_threshold(page, 1)
    assert status(page, r"^(\d+) of")[1] == "0"
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]


def test_the_generated_sample_needs_no_file(page: webdriver.Chrome) -> None:
    page.find_element(By.ID, "sample").click()
    assert int(status(page, r"(\d+) of \d+ objects")[1]) > 3


def test_a_file_that_is_no_picture_gives_the_servers_sentence(page: webdriver.Chrome, tmp_path: Path) -> None:
    text = tmp_path / "note.png"
    text.write_text("no picture")
    choose(page, text)
    status(page, r"picture|image|format")
    assert page.find_element(By.ID, "status").get_attribute("class") == "error"
