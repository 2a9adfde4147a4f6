"""The page with nothing but a keyboard, and what a screen reader is told."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page

FOCUS = """
const e = document.activeElement, ring = [e, e.closest(".button")].filter(Boolean)
  .some((one) => getComputedStyle(one).outlineStyle !== "none" && parseFloat(getComputedStyle(one).outlineWidth) >= 2);
return [e.id || e.dataset.sample || e.tagName, ring];
"""
NAMELESS = """
const named = (e) => e.ariaLabel || e.getAttribute("aria-labelledby") || e.labels?.length || e.textContent.trim()
  || e.querySelector("img[alt]:not([alt=''])");
return [...document.querySelectorAll("a, button, input, select, [tabindex='0'], [role]")]
  .filter((e) => e.checkVisibility() && !named(e)).map((e) => e.outerHTML.slice(0, 100));
"""


def tab_to(page: Page, name: str, *, back: bool = False) -> None:
    """Every stop on the way shows that it has the focus."""
    seen = []
    for _ in range(60):
        page.shift_tab() if back else page.press(Keys.TAB)
        at, has_ring = page.run(FOCUS)
        seen.append(at)
        assert has_ring, seen
        if at == name:
            return
    raise AssertionError(f"{name} is not reached, only {seen}")


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    tab_to(page, "fluorescence-1.webp")
    page.press(Keys.ENTER)
    usual, found = page.answered()
    tab_to(page, "threshold")
    page.press(*[Keys.ARROW_RIGHT] * 45)
    assert page.text("shown") == "0.95"
    fewer, _ = page.answered()
    assert fewer < usual
    page.press(Keys.HOME)
    assert page.answered()[0] == found
    page.press(Keys.END)
    assert page.answered()[0] == 0
    page.press(*[Keys.ARROW_LEFT] * 50)
    page.answered()
    tab_to(page, "masks")
    drawn = page.coloured()
    page.press(Keys.SPACE)
    assert page.coloured() < drawn
    page.press(Keys.SPACE)
    tab_to(page, "labels")
    tab_to(page, "INPUT")  # the class
    page.press(Keys.SPACE)
    assert page.answered()[0] == 0
    page.press(Keys.SPACE)
    tab_to(page, "SUMMARY")
    page.press(Keys.ENTER)
    page.wait_for("json-text", "request_id")


def test_the_list_of_objects_is_walked_with_arrows(page: Page) -> None:
    page.elements("[data-sample]")[0].click()
    shown, _ = page.answered()
    tab_to(page, "objects")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "\n2, nucleus" in page.text("details")
    assert page.element("objects").get_attribute("aria-activedescendant") == "object-1"
    page.press(Keys.END)
    assert f"\n{shown}, nucleus" in page.text("details")
    last = page.elements("[aria-selected=true]")[0].rect["y"]
    box = page.element("objects").rect
    assert box["y"] <= last < box["y"] + box["height"]
    page.press(Keys.HOME, Keys.ARROW_UP)
    assert "\n1, nucleus" in page.text("details")
    fitting = page.coloured()
    page.press(Keys.ENTER)
    assert page.coloured() > 1.5 * fitting / shown
    page.press(Keys.ESCAPE)
    assert page.text("details") == ""
    page.press(Keys.ESCAPE)
    assert page.element("view").get_attribute("class") == ""


def test_the_picture_is_enlarged_and_moved_with_keys(page: Page) -> None:
    page.elements("[data-sample]")[0].click()
    page.answered()
    tab_to(page, "view", back=True)
    fitting = page.coloured()
    page.press("+", "+")
    enlarged = page.coloured()
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert len({fitting, enlarged, page.coloured()}) == 3
    page.press("0")
    assert page.coloured() == fitting


def test_controls_have_names_and_the_status_is_told(page: Page, nuclei: Path) -> None:
    assert page.run(NAMELESS) == []
    page.choose(nuclei)
    shown, _ = page.answered()
    assert page.run(NAMELESS) == []
    assert page.element("status").get_attribute("role") == "status"
    assert f"{shown} objects" in (page.element("view").get_attribute("aria-label") or "")
    assert page.run("return document.documentElement.lang") == "en"


def test_nothing_moves_for_who_wants_no_motion(page: Page, nuclei: Path) -> None:
    page.run("document.getElementById('stage').classList.add('busy')")
    moving = "return getComputedStyle(document.getElementById('stage'), '::after').animationName"
    assert page.run(moving) == "busy"
    page.prefer(prefers_reduced_motion="reduce")
    assert page.run(moving) == "none"
