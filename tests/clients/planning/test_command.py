"""`maskline plan` on reports: one that the load tester wrote of a real server, and such as are no use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clients import __main__ as maskline
from clients.loadtest.__main__ import main as loadtest
from clients.planning.__main__ import main
from tests.server.running import server_process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of a fake engine that takes 10 ms for a batch of at most 4, on pictures of two shapes."""
    place = tmp_path_factory.mktemp("plan")
    for name, size in (("a.png", (60, 40)), ("b.png", (40, 60))):
        Image.new("RGB", size, "gray").save(place / name)
    with server_process("--fake-batch-ms", "10", "--max-batch-size", "4") as server:
        pictures = [str(place / "a.png"), str(place / "b.png")]
        options = ["--concurrency", "1,8", "--duration", "1s", "--output", str(place / "report")]
        assert loadtest([server.url, *pictures, *options]) == 0
    return place / "report"


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_report_has_what_a_plan_needs(folder: Path) -> None:
    found = report(folder)
    server = found["server"]
    assert (server["engines"], server["max_batch_size"], server["max_queue_delay_s"]) == (1, 4, 0)
    assert (server["max_queue_size"], server["max_queue_wait_s"]) == (1024, 15)
    assert 0 < server["startup_s"] < 60
    for run in found["runs"]:
        assert [entry["canvas"] for entry in run["service"]] == ["128x192", "192x128"]
        assert sum(entry["requests"] for entry in run["service"]) == run["ok"]
        for entry in run["service"]:
            assert len(entry["rest_ms"]) == min(100, entry["requests"])
            assert entry["rest_ms"] == sorted(entry["rest_ms"])
            assert sum(batch["requests"] for batch in entry["batches"]) == entry["requests"]
            assert all(batch["inference_ms"][0] >= 10 for batch in entry["batches"])
    assert {batch["size"] for entry in found["runs"][0]["service"] for batch in entry["batches"]} == {1}
    assert {batch["size"] for entry in found["runs"][1]["service"] for batch in entry["batches"]} - {1}


def test_a_plan_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert maskline.main(["plan", "--rate", "1000", "--p99", "2s", "--startup", "5s", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "1000 requests a second with p99 within 2000 ms: " in shown
    assert " replicas, with room for " in shown
    assert shown.count("dies, replaced after 5 s: about") == 2
    assert "holds" in shown


def test_without_another_start_the_one_of_the_report_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rate", "5", "--p99", "1m", "--arrivals", "constant", str(folder / "report.json")]) == 0
    startup_s = report(folder)["server"]["startup_s"]
    assert f"The only one dies, replaced after {startup_s:g} s: nothing is answered" in capsys.readouterr().out


def test_a_goal_that_one_request_misses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rate", "5", "--p99", "5ms", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("No number of replicas holds a p99 of 5 ms: requests that meet no other")


def test_a_report_that_is_no_use(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    whole = report(folder)
    refused = [{**run, "throughput": 0.0, "service": None} for run in whole["runs"]]
    server = {key: value for key, value in whole["server"].items() if key != "startup_s"}
    for content, said in (
        ("not JSON", "is no report of a load test"),
        (json.dumps({"runs": [{}]}), "is no report of a load test"),
        (json.dumps({**whole, "runs": refused}), "Nothing was answered in it."),
        (json.dumps({**whole, "server": None}), "whose /metrics can be read"),
        (json.dumps({**whole, "server": server}), "give --startup"),
        (json.dumps({**whole, "server": {"engines": 1}}), "has no max_batch_size"),
    ):
        file.write_text(content)
        assert main(["--rate", "5", "--p99", "1s", str(file)]) == 2
        assert said in capsys.readouterr().err
    assert main(["--rate", "5", "--p99", "1s", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--rate", "0", "--p99", "1s"], ["--rate", "1", "--p99", "soon"], ["--rate", "1"]])
def test_bad_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*options, "report.json"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err
