"""benchmarks/engines.py with short turns: every variant of every case has a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import engines


def test_every_variant_gets_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "WARM_UP_S", 0.1)
    report, plot = tmp_path / "engines.json", tmp_path / "engines.png"
    assert engines.main(["--rounds", "1", "--seconds", "0.4", "--json", str(report), "--plot", str(plot)]) == 0
    rows = json.loads(report.read_text())["rows"]
    named = [(case, variant) for case, variants in engines.CASES.items() for variant in variants]
    assert [(row["case"], row["variant"]) for row in rows] == named
    assert all(row["median"] > 0 and row["predicted"] >= 0 and row["unit"] == "pictures/s" for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "one three times slower" in capsys.readouterr().out
