"""benchmarks/decode.py without its peers: turns, rows, agreement, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import decode

OURS, PILLOW, DRAFT = "maskline, trained here", "Pillow", "Pillow, draft"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    monkeypatch.setattr(decode, "CASES", {"wide": (800, 3000), "tiny": (30, 40)})
    monkeypatch.setattr(decode, "RULES", dict.fromkeys((OURS, PILLOW, DRAFT), "native"))
    monkeypatch.setattr(decode, "TURN_S", 0.01)


@pytest.mark.usefixtures("small")
def test_contestants_take_turns_and_get_a_row_a_case(tmp_path: Path) -> None:
    report, plot = tmp_path / "decode.json", tmp_path / "decode.png"

    assert decode.main(["--rounds", "2", "--json", str(report), "--plot", str(plot)]) == 0

    rows = json.loads(report.read_text())["rows"]
    names = [(case, variant) for case in ("wide", "tiny") for variant in (OURS, PILLOW, DRAFT)]
    assert [(row["case"], row["variant"]) for row in rows] == names
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)
    assert [row["speedup"] for row in rows if row["variant"] == PILLOW] == [1, 1]
    assert [row["difference"] for row in rows if row["variant"] != DRAFT] == [0, 0, 0, 0]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_another_canvas_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(decode, "CASES", {"large": (3000, 3000)})
    monkeypatch.setattr(decode, "MOST_DIFFERENT", 0.01)

    assert decode.main(["--rounds", "1"]) == 1
    assert "at large." in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_a_photograph_in_its_place(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 50), "teal").save(photo)

    assert decode.main(["--rounds", "1", "--picture", str(photo)]) == 0
    assert decode.main(["--rounds", "1", "--picture", str(tmp_path / "none.jpg")]) == 2


def test_an_interpreter_without_the_peers_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    monkeypatch.setattr(decode, "CASES", {"tiny": (30, 40)})
    monkeypatch.setattr(decode, "RULES", {"OpenCV, INTER_AREA": "native"})

    assert decode.main(["--rounds", "1"]) == 2
    assert "MASKLINE_PEER_PYTHON" in capfd.readouterr().err
