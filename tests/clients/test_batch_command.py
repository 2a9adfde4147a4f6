"""`maskline batch`: many pictures without a server, and runs that are ended in their middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from clients.batch import main
from clients.errors import MasklineError
from clients.on_ray import Workers, workers_of
from server.engines.fake import FakeEngine
from server.pipeline import Pipeline
from server.repository import load_bundle

BUNDLE = Path(__file__).parents[2] / "models" / "demo"


def make_picture(path: Path, k: int) -> Path:
    """Each gets an answer of its own from the fake engine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.random.default_rng(k).integers(40, 255, 3).astype(np.uint8)
    Image.fromarray(np.broadcast_to(colour, (60 + k % 9, 80 + k % 4 * 10, 3)).copy()).save(path)
    return path


def make_folder(folder: Path, count: int) -> Path:
    for k in range(count):
        make_picture(folder / f"{k:04d}.png", k)
    return folder


def options(source: str | Path, output: Path, *more: str) -> list[str]:
    return [str(source), "--model", str(BUNDLE), "--engine", "fake", "--output", str(output), *more]


def batch(source: str | Path, output: Path, *more: str) -> int:
    return main(options(source, output, *more))


def test_every_picture_gets_the_answer_that_it_has_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, output = make_folder(tmp_path / "in", 40), tmp_path / "out" / "results.json"
    assert batch(folder, output) == 0
    assert "40 of 40 pictures answered, 40 objects" in capsys.readouterr().err
    found = json.loads(output.read_text())
    assert [image["file_name"] for image in found["images"]] == sorted(path.name for path in folder.iterdir())
    pipeline = Pipeline(FakeEngine(load_bundle(BUNDLE).card))
    for image, annotation in zip(found["images"], found["annotations"], strict=True):
        (alone,) = pipeline.predict((folder / image["file_name"]).read_bytes()).detections
        x1, y1, x2, y2 = alone.box
        assert (annotation["image_id"], annotation["bbox"]) == (image["id"], [x1, y1, x2 - x1, y2 - y1])
        assert (annotation["score"], annotation["area"]) == (alone.score, alone.area)


def test_options_are_those_of_an_answer(tmp_path: Path):
    folder, output = make_folder(tmp_path / "in", 3), tmp_path / "results.json"
    assert batch(folder, output, "--score-threshold", "0.999") == 0
    assert json.loads(output.read_text())["annotations"] == []


def test_killed_at_any_time_and_resumed_the_file_is_the_same(tmp_path: Path):
    folder = make_folder(tmp_path / "in", 300)
    undisturbed, output = tmp_path / "undisturbed.json", tmp_path / "results.json"
    assert batch(folder, undisturbed) == 0
    ended = [end_after(lines, options(folder, output, "--resume")) for lines in (1, 90, 201)]
    assert all(status == -signal.SIGKILL for status in ended)
    assert not output.exists()
    assert batch(folder, output, "--resume") == 0
    assert output.read_bytes() == undisturbed.read_bytes()


def end_after(lines: int, arguments: Sequence[str]) -> int:
    """Kills the command when so many pictures are written; its exit status."""
    part = Path(arguments[arguments.index("--output") + 1] + ".part")
    command = [sys.executable, "-m", "clients", "batch", *arguments]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}) as process:
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        process.kill()
    return process.returncode


@pytest.mark.parametrize(
    ("lines", "cut", "is_there"),
    [
        pytest.param(7, 30, False, id="within a line"),
        pytest.param(0, 0, False, id="before the first line"),
        pytest.param(20, 0, False, id="after the last line"),
        pytest.param(20, 0, True, id="when the file has just been put in its place"),
    ],
)
def test_where_a_run_can_end(lines: int, cut: int, is_there: bool, tmp_path: Path):
    folder = make_folder(tmp_path / "in", 20)
    output, part = tmp_path / "results.json", tmp_path / "results.json.part"
    assert batch(folder, output) == 0
    whole = output.read_bytes()
    records = [json.dumps(record).encode() + b"\n" for record in records_of(output)]
    part.write_bytes(b"".join(records[:lines]) + (records[lines][:cut] if cut else b""))
    if not is_there:
        output.unlink()
    assert batch(folder, output, "--resume") == 0
    assert output.read_bytes() == whole
    assert not part.exists()


def records_of(path: Path) -> list[dict[str, object]]:
    from clients.outputs import read_coco

    return list(read_coco(json.loads(path.read_text())))


def test_what_is_finished_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, output = make_folder(tmp_path / "in", 5), tmp_path / "results.json"
    assert batch(folder, output) == 0
    before = output.read_bytes()
    assert batch(folder, output, "--resume") == 0
    assert output.read_bytes() == before
    assert "0 of 0 pictures answered (5 were there already)" in capsys.readouterr().err


def test_a_bad_picture_is_named_and_the_others_are_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, output = make_folder(tmp_path / "in", 5), tmp_path / "results.json"
    (folder / "0002.png").write_bytes(b"text")
    (folder / "0003.png").write_bytes(b"")
    assert batch(folder, output) == 1
    errors = capsys.readouterr().err
    assert "0002.png: This is not a picture" in errors
    assert "0003.png: The picture is empty" in errors
    assert [image["file_name"] for image in json.loads(output.read_text())["images"]] == [
        "0000.png",
        "0001.png",
        "0004.png",
    ]


def test_images_of_a_coco_dataset_keep_their_ids(tmp_path: Path):
    make_folder(tmp_path / "data" / "val", 6)
    images = [{"id": 900 - k, "file_name": f"{k:04d}.png", "height": 1, "width": 1} for k in (4, 1, 5)]
    annotations = tmp_path / "data" / "annotations" / "instances_val.json"
    annotations.parent.mkdir()
    annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    output = tmp_path / "results.json"
    for more in ((), ("--resume",)):
        assert batch(f"coco:{tmp_path / 'data'}", output, *more) == 0
        found = COCO(output)
        assert {key: image["file_name"] for key, image in found.imgs.items()} == {
            896: "0004.png",
            899: "0001.png",
            895: "0005.png",
        }
        assert {one["image_id"] for one in found.anns.values()} == {896, 899, 895}


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        pytest.param("nowhere", (), "give a folder of pictures, coco:DIR, or a file.parquet", id="no source"),
        pytest.param("empty", (), "no pictures there", id="empty folder"),
        pytest.param("empty", ("--output", "masks"), "give a file.json", id="another output"),
        pytest.param("empty", ("--engine", "abacus"), "invalid choice", id="no engine"),
    ],
)
def test_bad_usage(source: str, more: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        batch(tmp_path / source, tmp_path / "results.json", *more)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(("--classes", "unicorn"), "unicorn", id="no such class"),
        pytest.param(("--score-threshold", "7"), "score_threshold", id="no such score"),
        pytest.param(("--model", "nowhere"), "nowhere", id="no bundle"),
    ],
)
def test_what_no_picture_could_be_answered_with_is_one_sentence(
    more: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = make_folder(tmp_path / "in", 2)
    assert batch(folder, tmp_path / "results.json", *more) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("module", "source", "more", "says"),
    [
        pytest.param("pyarrow", "cells.parquet", (), "pip install -e '.[parquet]'", id="parquet"),
        pytest.param("ray", "in", ("--ray",), "pip install -e '.[ray]'", id="ray"),
    ],
)
def test_what_is_not_installed_is_named(
    module: str,
    source: str,
    more: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_folder(tmp_path / "in", 1)
    monkeypatch.setitem(sys.modules, module, None)
    assert batch(tmp_path / source, tmp_path / "results.json", *more) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "workers"),
    [
        pytest.param([{"CPU": 4.0}], Workers(1, 4, 0), id="one machine"),
        pytest.param([{"CPU": 16.0}, {"CPU": 4.0}, {"CPU": 0.0}], Workers(5, 4, 0), id="uneven machines"),
        pytest.param([{"CPU": 32.0}, {"CPU": 16.0, "GPU": 4.0}], Workers(4, 4, 1), id="only the GPUs work"),
    ],
)
def test_workers_are_one_a_gpu_or_one_a_machine(nodes: list[dict[str, float]], workers: Workers):
    assert workers_of(nodes) == workers


def test_a_cluster_of_nothing_has_no_workers():
    with pytest.raises(MasklineError, match="neither GPUs nor CPUs"):
        workers_of([{"CPU": 0.0}])
