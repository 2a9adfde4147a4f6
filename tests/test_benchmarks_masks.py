"""benchmarks/masks.py without torchvision: turns, rows, agreement, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import masks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

GRID = "grid_sample paste + pycocotools"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    monkeypatch.setattr(masks, "CASES", {"tiny": (120, 160), "small": (240, 320)})
    monkeypatch.setattr(masks, "TURN_S", 0.01)


@pytest.mark.usefixtures("small")
def test_contestants_take_turns_and_get_a_row_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "BASELINE", GRID)
    monkeypatch.setattr(masks, "OURS", {"maskline": GRID})
    report, plot = tmp_path / "masks.json", tmp_path / "masks.png"

    assert masks.main(["--rounds", "2", "--json", str(report), "--plot", str(plot)]) == 0

    rows = json.loads(report.read_text())["rows"]
    names = [(case, variant) for case in ("tiny", "small") for variant in ("maskline", GRID)]
    assert [(row["case"], row["variant"]) for row in rows] == names
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)
    assert all(0 <= row["added_mb"] < 60 for row in rows)
    assert [row["speedup"] for row in rows if row["variant"] == GRID] == [1, 1]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_other_pixels_are_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """torchvision's rule grows the box."""
    monkeypatch.setattr(masks, "BASELINE", GRID)
    monkeypatch.setattr(masks, "OURS", {"maskline, torchvision's rule": GRID})

    assert masks.main(["--rounds", "1"]) == 1
    assert "pixels at tiny" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_an_interpreter_without_the_peers_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert masks.main(["--rounds", "1"]) == 2
    assert "MASKLINE_PEER_PYTHON" in capfd.readouterr().err
