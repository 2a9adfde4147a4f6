"""The calls that the page offers run as they are copied, and find what the page shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.browser.conftest import OpenPage
from tests.browser.page import Page
from tests.server.running import as_png, noise, server_process, write_bundle

PRINTS_SCORES = "\nimport json\nprint(json.dumps([float(score) for score in prediction.scores]))"


def shell(call: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    command = ["bash", "-euc", call]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=True, timeout=60
    ).stdout.decode()


def scores(answer: str) -> list[float]:
    return [detection["score"] for detection in json.loads(answer)["images"][0]["detections"]]


def shown_scores(page: Page) -> list[str]:
    rows = [row for row in page.elements("#objects li") if row.is_displayed()]
    return [row.text.split()[-1] for row in rows]


def test_the_curl_call_finds_what_the_page_shows(page: Page, nuclei: Path, tmp_path: Path) -> None:
    page.choose(nuclei)
    page.answered()
    page.set_threshold(0.97)
    shown, _ = page.answered()
    page.click("copy-curl")
    shutil.copy(nuclei, tmp_path)
    found = scores(shell(page.clipboard(), tmp_path))
    assert len(found) == shown > 5
    assert [f"{score:.3f}" for score in found] == shown_scores(page)


def test_the_python_call_finds_what_the_page_shows(page: Page, nuclei: Path, tmp_path: Path) -> None:
    page.choose(nuclei)
    page.answered()
    page.click("copy-python")
    shutil.copy(nuclei, tmp_path)
    command = [sys.executable, "-c", page.clipboard() + PRINTS_SCORES]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [f"{score:.3f}" for score in json.loads(output.splitlines()[-1])] == shown_scores(page)


def test_the_call_of_a_sample_fetches_it_first(page: Page, tmp_path: Path) -> None:
    page.elements("[data-sample]")[0].click()
    shown, _ = page.answered()
    page.click("copy-curl")
    assert len(scores(shell(page.clipboard(), tmp_path))) == shown


def test_names_that_a_shell_would_read_are_quoted(page: Page, nuclei: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's $HOME; rm *.png"
    shutil.copy(nuclei, odd)
    page.choose(odd)
    shown, _ = page.answered()
    page.click("copy-curl")
    assert len(scores(shell(page.clipboard(), tmp_path))) == shown


def test_calls_name_the_model_and_never_the_key(open_page: OpenPage, tmp_path: Path) -> None:
    classes = {"cells": "cell", "pets": "cat"}
    bundles = [str(write_bundle(tmp_path / name, b"", name=name, classes=["", of])) for name, of in classes.items()]
    picture = tmp_path / "noise.png"
    picture.write_bytes(as_png(noise(0)))
    with server_process("--api-keys", "secret-1", *bundles) as server:
        page = open_page(f"{server.url}/")
        page.wait_for("status", "needs a key")
        page.element("key").send_keys("secret-1")
        page.press("\n")
        page.wait_for("model", "cells 1")
        for name, of in classes.items():
            page.element("model").send_keys(name)
            page.choose(picture)
            assert page.answered() == (1, 1)
            assert page.elements("#classes .name")[0].text == of
            page.click("copy-curl")
            call = page.clipboard()
            assert "secret-1" not in call
            answer = json.loads(shell(call, tmp_path, API_KEY="secret-1"))
            assert answer["model"]["name"] == name
            assert len(answer["images"][0]["detections"]) == 1
        assert "secret-1" not in page.text("python")
