"""`maskline predict FOLDER --output ...`: what is written, what outlives an ended run, what is left out of the next."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from clients.predict import main
from tests.clients.conftest import HEIGHT, WIDTH, Asked, FakeServer, Reply, answer, detections, masks, problem

GREY = 90


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder below, and what is no picture."""
    root = tmp_path / "pictures"
    (root / "below").mkdir(parents=True)
    for name in ("a.png", "below/a.PNG", "b.jpeg"):
        Image.new("RGB", (WIDTH, HEIGHT), (GREY, GREY, GREY)).save(root / name)
    (root / "notes.txt").write_text("no picture")
    (root / "._a.png").write_bytes(b"what a Mac leaves behind")
    return root


def run(server: FakeServer, *arguments: object) -> int:
    return main([*map(str, arguments), "--url", server.url])


def test_a_folder_gives_all_outputs_at_once(server: FakeServer, folder: Path, tmp_path: Path):
    kinds = tmp_path / "new" / "results.json", tmp_path / "masks", tmp_path / "overlays"
    outputs = [word for kind in kinds for word in ("--output", kind)]
    assert run(server, folder, *outputs) == 0
    found = json.loads(kinds[0].read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png", "b.jpeg", "below/a.PNG"]
    for kind in kinds[1:]:
        written = sorted(str(path.relative_to(kind)) for path in kind.rglob("*") if path.is_file())
        assert written == ["a.png", "b.png", "below/a.png"]
    assert len(server.asked) == 3
    assert not list(tmp_path.rglob("*.part"))


def test_results_are_a_coco_dataset(
    server: FakeServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(server, folder, "--output", tmp_path / "results.json") == 0
    found = COCO(str(tmp_path / "results.json"))
    capsys.readouterr()  # pycocotools prints
    assert [one["name"] for one in found.loadCats(found.getCatIds())] == ["nucleus", "speck"]
    assert [(one["width"], one["height"]) for one in found.loadImgs(found.getImgIds())] == [(WIDTH, HEIGHT)] * 3
    assert sorted(found.anns) == [1, 2, 3, 4, 5, 6]
    for image_id in found.getImgIds():
        annotations = found.loadAnns(found.getAnnIds(imgIds=image_id))
        assert [one["score"] for one in annotations] == [one["score"] for one in detections()]
        assert [one["bbox"] for one in annotations] == [[6, 4, 14, 8], [31, 23, 1, 1]]
        assert [one["area"] for one in annotations] == [int(drawn.sum()) for drawn in masks()]
        np.testing.assert_array_equal([found.annToMask(one) for one in annotations], masks())


def test_a_picture_without_objects_is_in_the_results(server: FakeServer, folder: Path, tmp_path: Path):
    server.replies(Reply(content=answer(1, [])))
    assert run(server, folder, "--output", tmp_path / "results.json", "--output", tmp_path / "masks") == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert (len(found["images"]), found["annotations"], found["categories"]) == (3, [], [])
    assert not np.asarray(Image.open(tmp_path / "masks" / "a.png")).any()


def test_results_tell_pictures_apart_by_their_endings(server: FakeServer, folder: Path, tmp_path: Path):
    shutil.copy(folder / "b.jpeg", folder / "a.jpeg")
    assert run(server, folder, "--output", tmp_path / "results.json") == 0
    names = [image["file_name"] for image in json.loads((tmp_path / "results.json").read_text())["images"]]
    assert names == ["a.jpeg", "a.png", "b.jpeg", "below/a.PNG"]


def test_results_on_standard_output(server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(server, folder / "a.png", "--output", "-") == 0
    assert len(json.loads(capsys.readouterr().out)["annotations"]) == 2


def test_masks_are_labels_and_the_better_object_lies_on_top(server: FakeServer, folder: Path, tmp_path: Path):
    inside = {**detections()[0], "score": 0.95}
    whole = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    below = {**detections()[0], "score": 0.2, "mask": whole, "area": HEIGHT * WIDTH}
    server.replies(Reply(content=answer(1, [inside, detections()[1], below])))
    assert run(server, folder / "a.png", "--output", tmp_path / "masks") == 0
    with Image.open(tmp_path / "masks" / "a.png") as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    expected = np.full((HEIGHT, WIDTH), 3)
    expected[masks()[1]] = 2
    expected[masks()[0]] = 1
    np.testing.assert_array_equal(labels, expected)


def test_overlays_are_drawn(server: FakeServer, folder: Path, tmp_path: Path):
    assert run(server, folder, "--output", tmp_path / "overlays") == 0
    with Image.open(tmp_path / "overlays" / "b.png") as image:
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
        assert np.ptp(np.asarray(image).astype(int)[4:12, 6:20], axis=2).max() > 20  # a colour on grey


def test_outputs_of_an_earlier_run_are_no_pictures(server: FakeServer, folder: Path):
    outputs = "--output", folder / "masks", "--output", folder / "below" / "overlays"
    assert run(server, folder, *outputs) == 0
    assert run(server, folder, *outputs) == 0
    assert len(server.asked) == 6


def refusing(which: bytes) -> Any:
    """All but the picture of these bytes are answered."""
    refusal = problem(400, "Bad Request", "Not a picture.")
    return lambda asked: refusal if asked.body == which else Reply(content=answer())


def test_a_bad_picture_is_named_and_left_out(
    server: FakeServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "b.jpeg").write_bytes(b"text")
    server.script = refusing(b"text")
    assert run(server, folder, "--output", tmp_path / "results.json", "--output", tmp_path / "masks") == 1
    assert capsys.readouterr().err == (
        f"{folder / 'b.jpeg'}: Not a picture.\n"
        f"2 of 3 pictures answered, 4 objects: {tmp_path / 'results.json'}, {tmp_path / 'masks'}\n"
    )
    images = json.loads((tmp_path / "results.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png", "below/a.PNG"]
    assert not (tmp_path / "masks" / "b.png").exists()


def test_resume_asks_for_what_is_missing_only(server: FakeServer, folder: Path, tmp_path: Path):
    outputs = "--output", tmp_path / "results.json", "--output", tmp_path / "masks", "--resume"
    (folder / "b.jpeg").write_bytes(b"text")
    server.script = refusing(b"text")
    assert run(server, folder, *outputs) == 1
    server.asked.clear()
    server.replies(Reply(content=answer()))
    assert run(server, folder, *outputs) == 0
    assert [asked.body for asked in server.asked] == [b"text"]
    found = json.loads((tmp_path / "results.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png", "below/a.PNG", "b.jpeg"]
    assert [one["id"] for one in found["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [one["image_id"] for one in found["annotations"]] == [1, 1, 2, 2, 3, 3]
    assert (tmp_path / "masks" / "b.png").exists()
    server.asked.clear()
    assert run(server, folder, *outputs) == 0
    assert server.asked == []
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_without_resume_everything_is_asked_again(server: FakeServer, folder: Path, tmp_path: Path):
    for _ in range(2):
        assert run(server, folder, "--output", tmp_path / "results.json") == 0
    assert len(server.asked) == 6
    assert len(json.loads((tmp_path / "results.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        pytest.param(problem(401, "Unauthorized", "No key."), "No key.", id="no key"),
        pytest.param(problem(404, "Not Found", "No such model."), "No such model.", id="no model"),
        pytest.param(problem(400, "Bad Request", "classes: no class 'x'."), "no class 'x'", id="a wrong option"),
        pytest.param(Reply(content=b"<html>"), "is this a Maskline server?", id="another program"),
        pytest.param(problem(503, "Service Unavailable", "Draining."), "Draining.", id="draining"),
    ],
)
def test_what_would_meet_every_picture_is_said_once_and_keeps_what_is_done(
    refusal: Reply, says: str, server: FakeServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "b.jpeg").write_bytes(b"second")
    server.script = lambda asked: Reply(content=answer()) if asked.body != b"second" else refusal
    assert run(server, folder, "--output", tmp_path / "results.json") == 1
    text = capsys.readouterr().err
    assert text.count(says) == 1
    assert text.startswith("1 of 3 pictures answered")
    images = json.loads((tmp_path / "results.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png"]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_where_nothing_is_answered_an_earlier_file_stays(
    resume: list[str], server: FakeServer, folder: Path, tmp_path: Path
):
    results = tmp_path / "results.json"
    server.replies(Reply(status=0))
    assert run(server, folder, "--output", results, *resume) == 1
    assert not results.exists()
    server.replies(Reply(content=answer()))
    assert run(server, folder / "below", "--output", results) == 0
    before = results.read_bytes()
    server.replies(Reply(status=0))
    assert run(server, folder, "--output", results, *resume) == 1
    assert json.loads(results.read_bytes()) == json.loads(before)


def test_an_answer_that_takes_too_long_is_its_pictures_matter(
    server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The client gives up at its `timeout`; the other pictures are answered."""
    import clients.client

    monkeypatch.setattr(clients.client.Client.__init__, "__defaults__", (None, 0.3, 2))
    (folder / "b.jpeg").write_bytes(b"slow")

    def script(asked: Asked) -> Reply:
        time.sleep(1.0 if asked.body == b"slow" else 0)
        return Reply(content=answer())

    server.script = script
    assert run(server, folder, "--output", tmp_path / "results.json") == 1
    assert len(json.loads((tmp_path / "results.json").read_text())["images"]) == 2


def command(server: FakeServer, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "clients", "predict", *map(str, arguments), "--url", server.url]


def hold_back(server: FakeServer, folder: Path) -> None:
    """The last picture waits for as long as a test takes."""
    (folder / "below" / "a.PNG").write_bytes(b"last")

    def script(asked: Asked) -> Reply:
        time.sleep(3.0 if asked.body == b"last" else 0)
        return Reply(content=answer())

    server.script = script


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_is_answered_outlives_the_end_of_the_run(
    how: signal.Signals, status: int, server: FakeServer, folder: Path, tmp_path: Path
):
    hold_back(server, folder)
    outputs = "--output", tmp_path / "results.json", "--output", tmp_path / "overlays"
    (folder / "b.jpeg").unlink()
    shutil.copy(folder / "a.png", folder / "b.png")
    with subprocess.Popen(command(server, folder, *outputs), stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "overlays" / "b.png")
        process.send_signal(how)
        _, text = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in text
    if how is signal.SIGINT:
        assert len(json.loads((tmp_path / "results.json").read_text())["images"]) == 2
    server.asked.clear()
    server.replies(Reply(content=answer()))
    (folder / "below" / "a.PNG").write_bytes((folder / "a.png").read_bytes())
    assert run(server, folder, *outputs, "--resume") == 0
    assert len(server.asked) == 1
    assert len(json.loads((tmp_path / "results.json").read_text())["images"]) == 3


def test_a_line_that_was_cut_is_asked_again(server: FakeServer, folder: Path, tmp_path: Path):
    assert run(server, folder / "a.png", "--output", tmp_path / "results.json") == 0
    whole = {"file_name": "a.png", "width": WIDTH, "height": HEIGHT, "categories": {}, "annotations": []}
    (tmp_path / "results.json.part").write_text(json.dumps(whole) + '\n{"file_name": "b.jp')
    assert run(server, folder, "--output", tmp_path / "results.json", "--resume") == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a.png", "b.jpeg", "below/a.PNG"]


def test_a_full_disk_is_one_sentence_and_costs_no_file(server: FakeServer, folder: Path, tmp_path: Path):
    """A limit on the size of files, in a process of its own, stands in for the disk."""
    outputs = "--output", tmp_path / "results.json", "--output", tmp_path / "masks"
    assert run(server, folder / "a.png", *outputs) == 0
    before = (tmp_path / "results.json").read_bytes(), (tmp_path / "masks" / "a.png").read_bytes()
    noise = [{**one, "mask": {"size": [HEIGHT, WIDTH], "counts": [1] * (HEIGHT * WIDTH)}} for one in detections()]
    server.replies(Reply(content=answer(1, noise * 20)))
    result = subprocess.run(
        command(server, folder, *outputs),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=_no_large_files,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    assert str(tmp_path) in result.stderr
    assert (tmp_path / "results.json").read_bytes() == before[0]
    assert (tmp_path / "masks" / "a.png").read_bytes() == before[1]
    assert not list(tmp_path.rglob("*.unfinished"))


def _no_large_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_asked(
    server: FakeServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file" / "results.json", tmp_path / "file" / "masks"):
        assert run(server, folder, "--output", target) == 1
        text = capsys.readouterr().err
        assert text.startswith(str(tmp_path / "file"))
        assert text.endswith(("File exists\n", "Not a directory\n"))
    assert server.asked == []


def test_there_is_a_bar_on_a_terminal_and_none_elsewhere(server: FakeServer, folder: Path, tmp_path: Path):
    reader, terminal = pty.openpty()
    line = command(server, folder, "--output", tmp_path / "results.json")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=terminal, timeout=60, check=False, env=environment)
    os.close(terminal)
    seen = os.read(reader, 100_000).decode()
    os.close(reader)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "3/3" in seen
    piped = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert piped.stdout == ""
    assert piped.stderr == f"3 of 3 pictures answered, 6 objects: {tmp_path / 'results.json'}\n"
