"""The page about the client: what it shows runs, type checks, and leaves nothing out."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clients.exchange import Options
from tests.clients.conftest import HEIGHT, WIDTH, FakeServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
SCRIPTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SERVER = "http://127.0.0.1:8000"


def without_supervision() -> list[str]:
    return [script for script in SCRIPTS if "supervision" not in script]


def test_every_script_of_the_page_runs(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for name in ("picture.png", "pictures/a.png", "pictures/b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(name)
    names: dict[str, Any] = {}
    scripts = SCRIPTS if importlib.util.find_spec("supervision") else without_supervision()
    for script in scripts:
        exec(script.replace(SERVER, server.url), names)
    names["client"].close()
    assert Path("out.png").stat().st_size > 0
    text = capsys.readouterr().out
    assert "nucleus" in text
    assert "no-such.png: No such file or directory" in text
    assert len(scripts) >= 6


def test_the_scripts_type_check_as_a_users_own(tmp_path: Path):
    script = tmp_path / "script.py"
    wrong = 'client.predict("picture.png", score_treshold=0.5)\n'
    script.write_text("\n".join(without_supervision()) + wrong)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(script)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=tmp_path
    )
    errors = [line for line in result.stdout.splitlines() if line.startswith("script.py:") and "error:" in line]
    assert len(errors) == 1, result.stdout + result.stderr
    assert 'Unexpected keyword argument "score_treshold"' in errors[0]


def test_type_checkers_may_look_at_what_is_installed():
    for package in ("clients", "server"):
        assert (ROOT / package / "py.typed").exists()
        assert re.search(rf'^{package} = \[.*"py.typed"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_page_names_every_option():
    for option in Options.__annotations__:
        assert f"`{option}`" in PAGE
