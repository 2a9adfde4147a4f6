"""One Chromium for all tests of the page, a server with the demo model, and pages that begin anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from clients.samples import SCENES, render
from tests.browser.page import Page
from tests.server.running import ServerProcess, as_png, server_process

MODELS = Path(__file__).parents[2] / "models"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,800",
)

OpenPage = Callable[[str], Page]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def demo() -> Iterator[ServerProcess]:
    """The demo model, on the CPU."""
    with server_process("--engine", "auto", str(MODELS)) as process:
        yield process


@pytest.fixture
def open_page(browser: webdriver.Chrome) -> Iterator[OpenPage]:
    """Opens the page of a server; at the end the browser's console must hold no error of the page's own."""
    opened: list[Page] = []

    def open_one(url: str) -> Page:
        opened.append(Page(browser, url))
        return opened[-1]

    yield open_one
    for page in opened:
        page.close()


@pytest.fixture
def page(open_page: OpenPage, demo: ServerProcess) -> Page:
    """The demo model's page."""
    page = open_page(demo.url)
    page.wait_for("only-model", r"demo")
    return page


@pytest.fixture(scope="session")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with about 60 nuclei, 696 x 520."""
    path = tmp_path_factory.mktemp("pictures") / "nuclei.png"
    path.write_bytes(as_png(render(SCENES[0])))
    return path
