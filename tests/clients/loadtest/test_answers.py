"""Answers under load are held against those of a first pass."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.loadtest.__main__ import main
from clients.loadtest.answers import Answers
from tests.clients.conftest import Asked, FakeServer, Reply, answer, detections


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


def changed(**detection: Any) -> dict[str, Any]:
    content = copy.deepcopy(answer())
    content["images"][0]["detections"][0].update(detection)
    return content


def judged(expected: Any, got: Any, adapter: str = "maskline") -> dict[str, Any]:
    bodies = [content if isinstance(content, bytes) else encoded(content) for content in (expected, got)]
    answers = Answers({0: bodies[0]}, adapter).fresh()
    answers.note(0, bodies[1])
    answers.note(1, bodies[1])  # a picture that the first pass did not reach
    summary = answers.summary()
    assert summary["checked"] == 1
    return summary


def test_what_belongs_to_the_request_is_not_the_answer():
    other = {**answer(), "request_id": "r-2", "batch_size": 8, "timings_ms": {"decode": 9.0, "total": 99.0}}
    assert judged(answer(), other)["identical"] == 1


@pytest.mark.parametrize(
    "detection",
    [
        pytest.param({"score": 0.895}, id="score"),
        pytest.param({"box": [6.5, 4.0, 20.0, 12.5]}, id="box"),
        pytest.param({"area": 103}, id="mask"),
    ],
)
def test_rounding_is_close(detection: dict[str, Any]):
    summary = judged(answer(), changed(**detection))
    assert (summary["close"], summary["different"], summary["example"]) == (1, 0, None)


@pytest.mark.parametrize(
    "detection",
    [
        pytest.param({"score": 0.8}, id="score"),
        pytest.param({"box": [9.0, 4.0, 20.0, 12.0]}, id="box"),
        pytest.param({"area": 50}, id="mask"),
        pytest.param({"class_id": 2}, id="class"),
    ],
)
def test_another_object_is_different(detection: dict[str, Any]):
    summary = judged(answer(), changed(**detection))
    assert summary["different"] == 1
    assert summary["example"].startswith("picture 1: lost: nucleus 0.900 at [6.0, 4.0, 20.0, 12.0]")


def test_an_object_at_the_threshold_may_come_and_go():
    faint = {**detections()[1], "score": 0.501, "box": [0.0, 0.0, 3.0, 3.0]}
    with_it = answer(found=[*detections(), faint])
    assert judged(answer(), with_it)["close"] == 1
    assert judged(with_it, answer())["close"] == 1
    bright = answer(found=[{**faint, "score": 0.95}, *detections()])
    assert judged(answer(), bright)["example"] == "picture 1: new: speck 0.950 at [0.0, 0.0, 3.0, 3.0]"
    assert judged(answer(), answer(found=[]))["different"] == 1


@pytest.mark.parametrize(
    ("expected", "got", "example"),
    [
        pytest.param({"boxes": [1.0, 2.0], "time": 3}, {"boxes": [1.001, 2.0], "time": 5}, None, id="close"),
        pytest.param({"boxes": [1.0, 2.0]}, {"boxes": [1.0, 2.5]}, "$.boxes[1]: 2.0, then 2.5", id="a number"),
        pytest.param({"boxes": [1.0]}, {"boxes": []}, "$.boxes: [1.0], then []", id="length"),
        pytest.param({"a": 1}, {"b": 1}, '$: {"a": 1}, then {"b": 1}', id="keys"),
        pytest.param(b"abc", b"abcd", "3 bytes, then 4 other bytes", id="not JSON"),
    ],
)
def test_answers_of_other_servers(expected: Any, got: Any, example: str | None):
    summary = judged(expected, got, "raw")
    assert summary["example"] == (example and f"picture 1: {example}")


def v2(scores: list[float], names: bytes = b"x") -> bytes:
    numbers = np.array(scores, "<f4").tobytes()
    sizes = [{"binary_data_size": len(data)} for data in (names, numbers)]
    outputs = [{"name": "rle", "datatype": "BYTES", "shape": [1], "parameters": sizes[0]}]
    outputs += [{"name": "scores", "datatype": "FP32", "shape": [len(scores)], "parameters": sizes[1]}]
    return encoded({"model_name": "m", "outputs": outputs}) + names + numbers


@pytest.mark.parametrize(
    ("got", "example"),
    [
        pytest.param(v2([0.9, 0.5001], b"other"), None, id="close"),
        pytest.param(v2([0.9, 0.7]), "scores: up to 0.2 apart", id="a number"),
        pytest.param(v2([0.9]), "scores: 2 values, then 1", id="fewer"),
        pytest.param(encoded({"outputs": []}), "outputs ['scores'], then []", id="no outputs"),
        pytest.param(b"\xff", "other bytes", id="rubbish"),
    ],
)
def test_answers_of_the_open_inference_protocol(got: bytes, example: str | None):
    found = judged(v2([0.9, 0.5]), got, "v2")["example"]
    assert found is None if example is None else found.endswith(example)


def test_a_server_whose_answers_change_under_load_is_found_out(server: FakeServer, picture: Path):
    turns = itertools.count()

    def script(_: Asked) -> Reply:
        return Reply(content=changed(score=0.5) if next(turns) % 4 == 3 else answer())

    server.script = script
    folder = picture.parent / "report"
    assert main([server.url, str(picture), "--concurrency", "2", "--duration", "0.3", "--output", str(folder)]) == 0
    (run,) = json.loads((folder / "report.json").read_text())["runs"]
    found = run["answers"]
    assert found["checked"] == run["ok"] == found["identical"] + found["different"]
    assert found["different"] == pytest.approx(run["ok"] / 4, abs=2)
    assert "not those of the first pass" in " ".join(run["notes"])
    assert "lost: nucleus 0.900" in (folder / "report.html").read_text()
