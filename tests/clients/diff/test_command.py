"""`maskline diff`: between scripted servers whose differences are known, and between a bundle and itself."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clients.diff.sides
from clients.diff.__main__ import main
from clients.diff.drift import MOST_SHOWN
from clients.diff.sides import answers_of_both
from tests.clients.conftest import HEIGHT, WIDTH, Asked, FakeServer, Reply, answer, detections, problem

BUNDLE = Path(__file__).parents[3] / "models" / "demo"
NUCLEUS, SPECK = detections()


@pytest.fixture
def other() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "in", 3)


def make_pictures(folder: Path, count: int) -> Path:
    """Each with a colour of its own."""
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (WIDTH, HEIGHT), (k, 99, 99)).save(folder / f"{k:02d}.png")
    return folder


def finds(*found: dict[str, Any]) -> Reply:
    return Reply(content=answer(found=list(found)))


def run(a: str, b: str, pictures: Path, *more: str) -> int:
    return main([a, b, str(pictures), "--output", str(page_of(pictures)), *more])


def page_of(pictures: Path) -> Path:
    return pictures.parent / "out" / "diff.html"


def summary(pictures: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page_of(pictures).with_suffix(".json").read_text())
    return found


def sections(pictures: Path) -> list[str]:
    """The names of the pictures on the page, in its order."""
    return re.findall(r'<section class="pair"><h3>([^<]*)', page_of(pictures).read_text())


def test_a_bundle_and_itself_are_the_same(pictures: Path, capsys: pytest.CaptureFixture[str]):
    assert run(str(BUNDLE), str(BUNDLE), pictures) == 0
    assert "No difference" in capsys.readouterr().out
    found = summary(pictures)
    assert found["different"] is False
    assert found["pictures"] == {"compared": 3, "different": 0}
    assert (found["a"]["model"], found["a"]["source"]) == ("demo 1", str(BUNDLE))
    assert sections(pictures) == []


def test_each_kind_of_difference_is_counted(
    server: FakeServer, other: FakeServer, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    weaker = NUCLEUS | {"score": 0.8}
    dust = SPECK | {"class_name": "dust", "class_id": 3}
    by_picture(server, finds(NUCLEUS), finds(NUCLEUS, SPECK), finds(NUCLEUS, SPECK))
    by_picture(other, finds(weaker, SPECK), finds(weaker, SPECK | {"score": 0.4}), finds(weaker, dust))
    assert run(server.url, other.url, pictures) == 1
    found = summary(pictures)
    assert found["objects"] == {"kept": 3, "lost": 1, "gained": 1, "changed": 1}
    assert found["below_threshold_in_other"] == {"lost": 1, "gained": 0}
    assert found["mask_iou"] == {"mean": 1, "min": 1}
    assert found["score_change"] == {"mean": pytest.approx(-0.1), "largest": pytest.approx(0.1)}
    assert found["classes"]["nucleus"] == {"kept": 3, "lost": 0, "gained": 0, "changed": 0}
    assert found["classes"]["speck"] == {"kept": 0, "lost": 1, "gained": 1, "changed": 1}
    assert found["class_changes"] == [{"from": "speck", "to": "dust", "objects": 1}]
    assert [one["change"] for one in found["by_picture"]] == [1, 1, 1]
    text = capsys.readouterr().out
    assert "3 objects in both; 1 lost (1 fell below the threshold); 1 gained (0 rose above it); 1 of another" in text
    assert sections(pictures) == ["00.png", "01.png", "02.png"]


def by_picture(server: FakeServer, *replies: Reply) -> None:
    server.script = lambda asked: replies[colour_of(asked)]


def colour_of(asked: Asked) -> int:
    with Image.open(io.BytesIO(asked.body)) as image:
        pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def test_the_page_needs_nothing_else(server: FakeServer, other: FakeServer, pictures: Path):
    server.replies(finds(NUCLEUS))
    other.replies(finds(SPECK))
    assert run(server.url, other.url, pictures) == 1
    page = page_of(pictures).read_text()
    links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', page)
    assert all(link.startswith(("data:image/webp;base64,", "#")) for pair in links for link in pair if link)
    assert page.count("data:image/webp") == 3  # once for both sides
    assert page.count("<title>lost: nucleus 0.90</title>") == page.count("<title>gained: speck 0.60</title>") == 3


def test_the_page_shows_the_worst_first_and_not_all(server: FakeServer, other: FakeServer, tmp_path: Path):
    folder = make_pictures(tmp_path / "in", MOST_SHOWN + 5)
    server.replies(finds(NUCLEUS, SPECK))
    other.script = lambda asked: finds() if colour_of(asked) == 20 else finds(NUCLEUS)
    assert run(server.url, other.url, folder) == 1
    names = sections(folder)
    assert len(names) == MOST_SHOWN
    assert names[:2] == ["20.png", "00.png"]
    assert "The other 5 that changed are in the JSON file." in page_of(folder).read_text()
    assert len(summary(folder)["by_picture"]) == MOST_SHOWN + 5


def test_scores_alone_make_no_difference_but_are_told(
    server: FakeServer, other: FakeServer, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    server.replies(finds(NUCLEUS))
    other.replies(finds(NUCLEUS | {"score": 0.875}))
    assert run(server.url, other.url, pictures) == 0
    assert "IoU of 1.000 or more, scores that differ by 0.025 or less" in capsys.readouterr().out


def test_pictures_without_an_answer_are_named_and_the_others_compared(
    server: FakeServer, other: FakeServer, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    server.replies(finds(NUCLEUS))
    other.script = lambda asked: problem(413, "Too large", "Too many.") if colour_of(asked) == 1 else finds(NUCLEUS)
    assert run(server.url, other.url, pictures) == 2
    assert "Not answered by both: 01.png" in capsys.readouterr().err
    assert summary(pictures)["failed"] == [{"file_name": "01.png", "why": "Too many."}]
    assert summary(pictures)["objects"]["kept"] == 2
    assert "01.png: Too many." in page_of(pictures).read_text()


def test_a_server_that_refuses_all_is_asked_once(
    server: FakeServer, other: FakeServer, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    other.replies(problem(401, "Unauthorized", "No key."))
    assert run(server.url, other.url, pictures) == 2
    said = capsys.readouterr().err
    assert said.count("No key.") == 1
    assert "No picture was compared, and nothing is written." in said
    assert not page_of(pictures).exists()


def test_the_key_is_sent_to_both(server: FakeServer, other: FakeServer, pictures: Path):
    assert run(server.url, other.url, pictures, "--api-key", "secret") == 0
    sent = [asked.headers["Authorization"] for asked in server.asked + other.asked]
    assert sent == ["Bearer secret"] * 6


def test_ctrl_c_shows_what_was_compared(
    server: FakeServer,
    other: FakeServer,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def interrupted(*given: Any) -> Iterator[Any]:
        yield next(answers_of_both(*given))
        raise KeyboardInterrupt

    monkeypatch.setattr(clients.diff.sides, "answers_of_both", interrupted)
    assert run(server.url, other.url, pictures) == 130
    assert "Not compared: 2 of 3 pictures." in capsys.readouterr().err
    assert summary(pictures)["not_compared"] == 2
    assert "Not compared, because the run was ended: 2 pictures." in page_of(pictures).read_text()


def test_ctrl_c_before_the_first_picture_writes_nothing(
    server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(clients.diff.sides, "answers_of_both", interrupted)
    assert run(server.url, server.url, pictures) == 130
    assert "No picture was compared, and nothing is written." in capsys.readouterr().err
    assert not page_of(pictures).exists()


def annotate(pictures: Path, *names: str) -> Path:
    """A nucleus and a speck in each."""
    records, images = [], []
    for image_id, name in enumerate(names, start=1):
        images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category_id, one in enumerate((NUCLEUS, SPECK), start=5):
            x1, y1, x2, y2 = one["box"]
            found = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": one["mask"], "area": one["area"], "iscrowd": 0}
            records.append({**found, "id": len(records) + 1, "image_id": image_id, "category_id": category_id})
    categories = [{"id": 5, "name": "nucleus"}, {"id": 6, "name": "speck"}]
    path = pictures.parent / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": records, "categories": categories}))
    return path


def test_average_precision_of_both(
    server: FakeServer, other: FakeServer, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    """A finds all, also below the threshold; B one of two classes, and something else."""
    server.replies(finds(NUCLEUS, SPECK | {"score": 0.1}))
    other.replies(finds(NUCLEUS, SPECK | {"class_name": "dust", "score": 0.1}))
    annotations = annotate(pictures, "00.png", "02.png", "elsewhere.png")
    assert run(server.url, other.url, pictures, "--annotations", str(annotations)) == 0
    found = summary(pictures)["average_precision"]
    for kind in ("box", "mask"):
        assert found[kind]["ap"] == pytest.approx([1, 0.5])
        assert found[kind]["ap_large"] == [None, None]
    assert (found["pictures"], found["classes_not_annotated"]) == (2, ["dust"])
    assert "mask AP 1.0000 -> 0.5000 (-0.5000)" in capsys.readouterr().out
    page = page_of(pictures).read_text()
    assert "<td>-0.5000</td>" in page
    assert "Not annotated, so left out: dust." in page


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "No such file", id="no file"),
        pytest.param("[1", "is not a COCO file", id="no JSON"),
        pytest.param('{"images": [], "annotations": [], "categories": []}', "has none of the pictures", id="others"),
    ],
)
def test_annotations_of_no_use(content: str | None, says: str, pictures: Path, capsys: pytest.CaptureFixture[str]):
    path = pictures.parent / "instances.json"
    if content is not None:
        path.write_text(content)
    assert run("http://127.0.0.1:9", "http://127.0.0.1:9", pictures, "--annotations", str(path)) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "more", "says"),
    [
        pytest.param("in", ("--output", "diff.txt"), "give a file.html", id="another output"),
        pytest.param("in", ("--score-threshold", "7"), "give a score from 0 to 1", id="no such score"),
    ],
)
def test_bad_usage(images: str, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["http://127.0.0.1:9", "http://127.0.0.1:9", images, *more])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("a", "images", "says"),
    [
        pytest.param("http://127.0.0.1:9", "nowhere", "no such file or folder", id="no folder"),
        pytest.param("http://127.0.0.1:9", "", "no pictures there", id="empty folder"),
        pytest.param("nowhere", "in", "nowhere", id="no bundle"),
        pytest.param("http://127.0.0.1:9", "in", "No answer from http://127.0.0.1:9", id="no server"),
    ],
)
def test_trouble_is_one_sentence(
    a: str, images: str, says: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / images if images else tmp_path / "empty"
    (tmp_path / "empty").mkdir()
    assert main([a, "http://127.0.0.1:9", str(place), "--output", str(tmp_path / "diff.html")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "diff.html").exists()
