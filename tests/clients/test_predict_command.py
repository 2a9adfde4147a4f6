"""`maskline predict`: pictures in, a table, a drawing, JSON out."""

from __future__ import annotations

import json
import socket
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clients.predict import main
from server.contract import wire
from server.contract.errors import BundleError, UndecodablePicture
from tests.clients.conftest import HEIGHT, WIDTH, FakeServer, Reply, answer, detections, problem


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return make_picture(tmp_path / "cells.png")


def make_picture(path: Path) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(path)
    return path


def test_a_table_of_what_was_found(server: FakeServer, picture: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(picture), "--url", server.url]) == 0
    text = capsys.readouterr().out
    assert "cells.png: 2 found" in text
    assert "nucleus" in text
    assert "0.900" in text
    assert "31.0" in text


def test_a_long_table_is_cut_and_says_so(server: FakeServer, picture: Path, capsys: pytest.CaptureFixture[str]):
    server.replies(Reply(content=answer(1, [detections()[0]] * 40)))
    assert main([str(picture), "--url", server.url]) == 0
    text = capsys.readouterr().out
    assert "and 15 more" in text
    assert text.count("nucleus") == 25


def test_options_reach_the_server(server: FakeServer, picture: Path):
    query = {"score_threshold": "0.2", "max_detections": "5", "classes": "a,b", "tile": "512", "overlap": "64"}
    query |= {"timeout_ms": "90000", "priority": "low"}
    options = [word for name, value in query.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert main([str(picture), "--url", server.url, "--api-key", "k", *options]) == 0
    assert server.asked[0].query == query
    assert server.asked[0].headers["Authorization"] == "Bearer k"


def test_a_picture_is_drawn(server: FakeServer, picture: Path, tmp_path: Path):
    drawn = tmp_path / "new" / "out.png"
    assert main([str(picture), "--url", server.url, "--draw", str(drawn)]) == 0
    assert is_drawn_on(drawn)


def is_drawn_on(path: Path) -> bool:
    with Image.open(path) as image:
        assert image.size == (WIDTH, HEIGHT)
        return bool(np.any(np.asarray(image) != 90))


def test_several_pictures_have_a_line_each(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pictures = [str(make_picture(tmp_path / f"{name}.png")) for name in "abc"]
    assert main([*pictures, "--url", server.url]) == 0
    assert capsys.readouterr() == ("a.png: 2 found\nb.png: 2 found\nc.png: 2 found\n", "")


def test_a_refused_picture_is_named_and_the_others_are_answered(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pictures = [make_picture(tmp_path / "good.png"), tmp_path / "bad.png", make_picture(tmp_path / "fine.png")]
    pictures[1].write_bytes(b"text")
    refusal = problem(400, "Bad Request", "Not a picture.")
    server.script = lambda asked: refusal if asked.body == b"text" else Reply(content=answer())
    assert main([*map(str, pictures), "--url", server.url]) == 1
    output = capsys.readouterr()
    assert output.err == f"{pictures[1]}: Not a picture.\n"
    assert "good.png: 2 found" in output.out
    assert "fine.png: 2 found" in output.out


@contextmanager
def nobody_there() -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_no_server_says_how_to_start_one(picture: Path, capsys: pytest.CaptureFixture[str]):
    with nobody_there() as url:
        assert main([str(picture), "--url", url]) == 1
    text = capsys.readouterr().err
    assert url in text
    assert "maskline serve" in text
    assert "--model BUNDLE" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["no-such.png"], "no-such.png: no such file or folder", id="missing file"),
        pytest.param(["empty"], "empty: no pictures there (.bmp, ", id="empty folder"),
        pytest.param([], "required: PICTURE", id="nothing"),
        pytest.param(["a.png", "b.png", "--draw", "out.png"], "overlays/", id="several pictures, one drawing"),
        pytest.param(["a.png", "--output", "out"], "masks or overlays", id="an output of no kind"),
        pytest.param(["a.png", "a.jpg", "--output", "masks"], "would have one name", id="same name twice"),
        pytest.param(["a.png", "./a.png", "--output", "masks"], "would have one name", id="same picture twice"),
        pytest.param(["a.png", "--resume"], "--output", id="nothing to resume"),
        pytest.param(["a.png", "--priority", "high"], "invalid choice", id="no priority"),
        pytest.param(["a.png", "--url", "http://x", "--model", "m"], "not allowed", id="url and model"),
        pytest.param(["a.png", "--score-threshold", "high"], "float", id="no number"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "b.png", "a.jpg"):
        make_picture(tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_an_unknown_ending_of_the_drawing_is_said(
    server: FakeServer, picture: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(picture), "--url", server.url, "--draw", str(picture.with_suffix(".what"))]) == 1
    assert "unknown file extension: .what" in capsys.readouterr().err


class StandInPipeline:
    """What the server package offers to `--model`; remembers what it was asked."""

    asked: list[Any]

    def __init__(self) -> None:
        self.card = types.SimpleNamespace(name="demo", version="1")
        self.engine = types.SimpleNamespace(close=lambda: self.asked.append("closed"))

    @classmethod
    def open(cls, bundle: Path) -> StandInPipeline:
        cls.asked = [bundle]
        if bundle.name == "broken":
            raise BundleError("model.onnx does not have the hash that model.json gives.")
        return cls()

    def predict(self, image: bytes, options: wire.PredictOptions) -> wire.ImageResult:
        self.asked.append(options)
        if image == b"text":
            raise UndecodablePicture("This is not a picture.")
        first = detections()[0]
        mask = wire.RleMask((HEIGHT, WIDTH), first.pop("mask")["counts"])
        return wire.ImageResult(WIDTH, HEIGHT, [wire.Detection(**{**first, "box": tuple(first["box"])}, mask=mask)])


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> type[StandInPipeline]:
    module = types.ModuleType("server.pipeline")
    vars(module)["Pipeline"] = StandInPipeline
    monkeypatch.setitem(sys.modules, "server.pipeline", module)
    return StandInPipeline


def test_a_bundle_answers_in_process(pipeline: type[StandInPipeline], picture: Path, tmp_path: Path):
    drawn, found = tmp_path / "out.png", tmp_path / "out.json"
    outputs = ["--draw", str(drawn), "--output", str(found)]
    assert main([str(picture), "--model", "bundle", "--score-threshold", "0.3", "--classes", "a,2", *outputs]) == 0
    bundle, options, closed = pipeline.asked
    assert closed == "closed"
    assert bundle == Path("bundle")
    assert (options.score_threshold, options.classes) == (0.3, ("a", "2"))
    assert [one["score"] for one in json.loads(found.read_text())["annotations"]] == [detections()[0]["score"]]
    assert drawn.stat().st_size > 0


@pytest.mark.usefixtures("pipeline")
def test_a_bundle_that_does_not_load_is_one_sentence(picture: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(picture), "--model", "broken"]) == 1
    assert capsys.readouterr().err == "model.onnx does not have the hash that model.json gives.\n"


@pytest.mark.usefixtures("pipeline")
def test_in_process_a_bad_picture_or_option_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"text")
    assert main([str(bad), "--model", "bundle"]) == 1
    assert capsys.readouterr().err == f"{bad}: This is not a picture.\n"
    assert main([str(bad), "--model", "bundle", "--score-threshold", "7"]) == 1
    assert "score_threshold" in capsys.readouterr().err


def test_in_process_a_missing_runtime_is_named(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "server.pipeline", None)
    assert main([str(picture), "--model", "bundle"]) == 1
    assert "pip install -e '.[server,cpu]'" in capsys.readouterr().err
