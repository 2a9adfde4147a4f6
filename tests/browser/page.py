"""The demo page as a person uses it, and made-up answers for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PERMISSIONS = ["clipboardReadWrite", "clipboardSanitizedWrite"]
INSTEAD_OF_THE_SERVER = """
const [text, status, headers] = arguments, real = window.fetch;
window.fetch = (url, options) => String(url).startsWith("predict")
  ? Promise.resolve(new Response(text, { status, headers })) : real(url, options);
"""
COLOURED = """
const view = document.getElementById("view");
const pixels = view.getContext("2d").getImageData(0, 0, view.width, view.height);
let found = 0;
for (let k = 3; k < pixels.data.length; k += 4) if (pixels.data[k]) found++;
return found;
"""


class Page:
    """The page of one server. Elements are named by their ids."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.url = url
        self.command("Browser.grantPermissions", permissions=PERMISSIONS)
        for kind in ("browser", "performance"):
            self.log(kind)  # what was left there
        browser.get(url)

    def close(self) -> None:
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", features=[])
        errors = [line for line in self.log("browser") if line["level"] == "SEVERE" and line["source"] != "network"]
        self.browser.get("about:blank")
        assert errors == []

    # What a person does

    def choose(self, path: Path) -> None:
        self.element("file").send_keys(str(path))

    def drop(self, path: Path) -> None:
        """As a file manager does it, on the middle of the stage."""
        box = self.element("stage").rect
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, data=data, **at)

    def click(self, *names: str) -> None:
        for name in names:
            self.element(name).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def shift_tab(self) -> None:
        ActionChains(self.browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()

    def set_threshold(self, value: float) -> None:
        """As dragging the slider does."""
        self.run("const t = document.getElementById('threshold'); t.value = arguments[0];", value)
        self.run("document.getElementById('threshold').dispatchEvent(new Event('input'));")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        ratio = 2 if phone else 1
        size = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": phone}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, **features: str) -> None:
        """Media features, as `prefers_color_scheme="dark"`."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=named)

    # What a person sees

    def element(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def elements(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.element(name).text

    def is_shown(self, name: str) -> bool:
        return self.element(name).is_displayed()

    def wait_for(self, name: str, pattern: str, seconds: float = 30) -> re.Match[str]:
        """The element's text, once it matches."""

        def found(_: object) -> re.Match[str] | None:
            return re.search(pattern, self.text(name))

        try:
            match = WebDriverWait(self.browser, seconds, 0.05).until(found)
        except TimeoutException:
            raise AssertionError(f"{name} is {self.text(name)!r}, not {pattern!r}") from None
        assert match is not None
        return match

    def answered(self) -> tuple[int, int]:
        """Shown and found objects, once there is an answer."""
        shown, found = self.wait_for("status", r"(\d+) of (\d+) objects").groups()
        return int(shown), int(found)

    def coloured(self) -> int:
        """Pixels of the display with something drawn over the picture."""
        self.next_frame()
        return int(self.run(COLOURED))

    def next_frame(self) -> None:
        self.run_async("requestAnimationFrame(() => requestAnimationFrame(done))")

    def screenshot(self, **options: Any) -> dict[str, Any]:
        return dict(self.command("Page.captureScreenshot", **options))

    # The browser

    def run(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(script, *values)

    def run_async(self, script: str, *values: object) -> Any:
        """`script` calls `done(result)`."""
        script = f"const done = arguments[arguments.length - 1]; {script}"
        return self.browser.execute_async_script(script, *values)

    def command(self, name: str, **values: object) -> Any:
        return self.browser.execute_cdp_cmd(name, values)

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.browser.get_log(kind))  # type: ignore[no-untyped-call]

    def requested(self) -> list[str]:
        """The addresses of all that was requested since the page was opened."""
        events = [json.loads(line["message"])["message"] for line in self.log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def clipboard(self) -> str:
        return str(self.run_async("navigator.clipboard.readText().then(done, (error) => done(`${error}`))"))

    def answer_with(self, text: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """From now on the page's predictions are this, without a server."""
        self.run(INSTEAD_OF_THE_SERVER, text, status, headers or {})


def answer(size_hw: tuple[int, int], detections: Sequence[dict[str, Any]]) -> str:
    timings = {"decode": 4.0, "queue": 1.0, "inference": 20.0, "postprocess": 3.0, "total": 30.0}
    document = {
        "model": {"name": "demo", "version": "1"},
        "request_id": "made-up",
        "images": [{"width": size_hw[1], "height": size_hw[0], "detections": list(detections)}],
        "timings_ms": timings,
        "batch_size": 1,
    }
    return json.dumps(document)
