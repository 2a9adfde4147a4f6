"""benchmarks/end_to_end.py without torchvision: turns, rows, agreement, pictures, refusals."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import end_to_end, model
from benchmarks.model import DifferentAnswersError
from benchmarks.overhead import load
from benchmarks.whole_service import contestants, pictures
from benchmarks.whole_service.contestants import BASELINE, ENGINES, Contestant
from tests.server.running import png, server_process, write_bundle
from tests.server.tiny_onnx import tiny_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FAKE = [sys.executable, "-m", "server", "--engine", "fake", "--port"]


def fake(name: str, **changes: Any) -> Contestant:
    return Contestant(
        name,
        lambda port: [*FAKE, str(port)],
        "/health/ready",
        lambda picture: (picture, "application/octet-stream"),
        **changes,
    )


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers with the fake engine, and a model of a few nodes in the loop."""
    bundle = write_bundle(tmp_path / "tiny", tiny_onnx())
    engines = {"ONNX Runtime fp32": ("onnxruntime", "fp32")}
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    monkeypatch.setattr(end_to_end, "ENGINES", engines)
    monkeypatch.setattr(end_to_end, "contestants", lambda *_: [fake(BASELINE), *map(fake, engines)])
    monkeypatch.setattr(end_to_end, "_models", lambda *_: (Path("weights.pth"), {"fp32": bundle}))


@pytest.mark.usefixtures("small")
def test_servers_take_turns_and_stand_beside_their_engines(tmp_path: Path) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    options = ["--rounds", "2", "--seconds", "0.1", "--json", str(report), "--plot", str(plot)]
    assert end_to_end.main(options) == 0
    rows = json.loads(report.read_text())["rows"]
    saturated = "ONNX Runtime fp32, saturated"
    assert [(row["case"], row["variant"]) for row in rows] == [
        *((case, name) for case in ("1 connection", "4 connections") for name in (BASELINE, "ONNX Runtime fp32")),
        (saturated, "engine in a loop"),
        (saturated, "maskline serve"),
    ]
    for row in rows:
        assert row["unit"] == "requests/s"
        assert 0 < row["low"] <= row["median"] <= row["high"]
    for row in rows[:4]:
        assert row["requests"] >= 10
        assert row["requests"] % 5 == 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert rows[0]["speedup"] == rows[4]["speedup"] == 1.0
    assert rows[5]["median"] == rows[3]["median"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_a_server_with_another_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = fake("ONNX Runtime fp32", document=lambda _: {"images": [{"detections": []}]})
    monkeypatch.setattr(end_to_end, "contestants", lambda *_: [fake(BASELINE), without])
    assert end_to_end.main(["--rounds", "1", "--seconds", "0"]) == 1
    assert "agree on 0%" in capsys.readouterr().err


def one(class_id: int = 1, score: float = 0.9, x: float = 0.0, mask: object = "counts") -> dict[str, Any]:
    return {"class_id": class_id, "score": score, "box": [x, 0.0, 90.0, 90.0], "mask": mask}


def answers(changes: Mapping[str, list[list[dict[str, Any]]]]) -> dict[str, list[list[dict[str, Any]]]]:
    return {BASELINE: [[one()], []], **{name: [[one(x=0.1)], []] for name in ENGINES}} | changes


def test_fp32_answers_as_the_baseline_does_and_int8_answers_something() -> None:
    end_to_end.check(answers({"OpenVINO int8": [[one(3)], []]}))
    for other in (
        [[one(2)], []],
        [[one(score=0.5)], []],
        [[one(x=40)], []],
        [[one(mask=None)], []],
        [[one()], [one()]],
    ):
        with pytest.raises(DifferentAnswersError, match="OpenVINO fp32 and"):
            end_to_end.check(answers({"OpenVINO fp32": other}))
    with pytest.raises(DifferentAnswersError, match="int8 finds nothing"):
        end_to_end.check(answers({"OpenVINO int8": [[], []]}))
    end_to_end.check({name: [[], []] for name in (BASELINE, *ENGINES)})


def test_every_request_is_answered_once_and_what_fails_is_told() -> None:
    with server_process("--fake-batch-ms", "5") as server:
        request = load.request(f"{server.url}/predict?mask=none", png(), "image/png")
        found = asyncio.run(load.run_all(server.url, iter([request] * 7), 3))
        assert len(found.latencies_s) == 7
        assert len(asyncio.run(load.run_all(server.url, iter([request]), 3)).latencies_s) == 1
        bad = load.request(f"{server.url}/nothing", png(), "image/png")
        with pytest.raises(load.LoadError, match="404"):
            asyncio.run(load.run_all(server.url, iter([request, bad, bad, request]), 2))


def test_pictures_are_spread_over_a_folder_or_made(tmp_path: Path) -> None:
    for i in range(7):
        Image.new("RGB", (40 + i, 30)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in pictures.chosen(tmp_path, 3, tmp_path)] == ["0.png", "2.png", "4.png"]
    assert len(pictures.chosen(tmp_path, 9, tmp_path)) == 7
    assert pictures.at_network_size(tmp_path / "0.png").shape == (800, 1066, 3)
    made = pictures.chosen(None, 3, tmp_path / "made")
    assert len(made) == 3
    assert all(path.is_file() for path in made)


def test_a_folder_without_pictures_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    assert end_to_end.main(["--pictures", str(tmp_path)]) == 2
    assert "no JPEG or PNG" in capsys.readouterr().err


def test_servers_are_started_as_modules_that_exist() -> None:
    root = Path(end_to_end.__file__).parents[1]
    bundles = {"fp32": Path("fp32"), "int8": Path("int8")}
    entered = contestants.contestants(Path("weights.pth"), bundles, "python")
    assert [contestant.name for contestant in entered] == [BASELINE, *ENGINES]
    for contestant in entered:
        command = contestant.command(8000)
        named = [part for part in command if part.startswith("benchmarks.")]
        assert all((root / f"{name.replace('.', '/')}.py").is_file() for name in named)
        assert command[-1] == "8000"


def test_the_weights_are_made_of_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(model, "_run", lambda command, _: commands.append(command))
    model.make_weights("python", tmp_path / "weights.pth", [np.zeros((8, 9, 3), np.uint8)] * 2)
    kind, out, statistics, _ = commands[0][2:]
    assert (kind, out) == ("weights", str(tmp_path / "weights.pth"))
    with np.load(statistics) as arrays:
        assert [array.shape for array in arrays.values()] == [(8, 9, 3)] * 2


def test_help_needs_no_heavy_import() -> None:
    result = subprocess.run(
        [sys.executable, str(Path(end_to_end.__file__)), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "closed loop" in result.stdout
