"""benchmarks/plan.py at loads of half a second: its rows and its verdict, not how near it comes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks.overhead import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_row_measured_and_one_predicted_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FITTED", (0.3, 0.7))
    monkeypatch.setattr(plan, "SHARES", (0.5,))
    report, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    status = plan.main(["--windows", "1", "--seconds", "0.6", "--json", str(report), "--plot", str(picture)])
    rows = json.loads(report.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["measured", "predicted"] * 2
    assert [row["case"].split(", ")[1] for row in rows[::2]] == ["1 replica", "2 replicas"]
    assert all(row["median"] >= 20 for row in rows)  # the fake engine's batch
    assert picture.stat().st_size > 0
    off = [
        abs(predicted["median"] / found["median"] - 1) for found, predicted in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert status == (max(off) > 0.2)


def test_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(plan.OPTIONS, "fake", ["--engine", "none"])
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 20)
    assert plan.main([]) == 2
    assert "plan: " in capsys.readouterr().err
