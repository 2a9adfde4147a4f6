"""Evaluation, judged by answers whose average precision is known by hand."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from export.average_precision import average_precision, read_truth
from export.evaluate import main
from export.remote import RemoteModel
from tests.server.running import server_process

NUCLEUS, CELL = 7, 3
"""Category ids with gaps, not in the order of the names."""

Box = tuple[int, int, int, int]


def rle(box: Box, size_hw: tuple[int, int]) -> dict[str, Any]:
    mask = np.zeros(size_hw, np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return {"size": list(size_hw), "counts": coco_mask.encode(mask)["counts"].decode()}


@dataclass
class Data:
    """A COCO data set in a folder that grows picture by picture; each picture has its own colour."""

    root: Path
    size_hw: tuple[int, int] = (100, 400)
    objects: dict[int, list[tuple[Box, int]]] = field(default_factory=dict)

    def add(self, objects: list[tuple[Box, int]]) -> None:
        self.objects[100 + len(self.objects)] = objects

    def write(self) -> str:
        (self.root / "val").mkdir(parents=True)
        (self.root / "annotations").mkdir()
        height, width = self.size_hw
        images, annotations = [], []
        for image_id, objects in self.objects.items():
            name = f"{image_id}.png"
            Image.new("RGB", (width, height), (image_id, 0, 0)).save(self.root / "val" / name)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for (x1, y1, x2, y2), category in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "segmentation": rle((x1, y1, x2, y2), self.size_hw),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": NUCLEUS, "name": "nucleus"}, {"id": CELL, "name": "cell"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (self.root / "annotations" / "instances_val.json").write_text(json.dumps(document))
        return f"coco:{self.root}"

    def answer(self, image_id: int, skip: int = 0) -> list[dict[str, Any]]:
        """Every object of a picture but the last `skip`, as the server would say it."""
        objects = self.objects[image_id]
        names = {NUCLEUS: (1, "nucleus"), CELL: (2, "cell")}
        return [
            {
                "box": [float(v) for v in box],
                "class_id": names[category][0],
                "class_name": names[category][1],
                "score": round(0.99 - i / 1000, 3),
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "mask": rle(box, self.size_hw),
            }
            for i, (box, category) in enumerate(objects[: len(objects) - skip])
        ]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


@dataclass
class Served:
    url: str = ""
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)


Answer = Callable[[int], tuple[int, Any]]
"""From a picture's red value to a status and a list of detections, or the text of a refusal."""


@contextmanager
def server(answer: Answer) -> Iterator[Served]:
    """A model server that knows a picture by its colour."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            picture = self.rfile.read(int(self.headers["Content-Length"]))
            image = Image.open(io.BytesIO(picture))
            served.queries.append(parse_qs(urlsplit(self.path).query))
            served.authorizations.add(self.headers["Authorization"])
            status, found = answer(image.getpixel((0, 0))[0])
            limit = int(served.queries[-1]["max_detections"][0])
            body: Any = found
            if status == 200:
                result = {"width": image.width, "height": image.height, "detections": found[:limit]}
                timings = dict.fromkeys(["decode", "queue", "inference", "postprocess", "total"], 0.1)
                body = {"model": {"name": "m", "version": "1"}, "request_id": "r", "images": [result]}
                body |= {"timings_ms": timings, "batch_size": 1}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            http.shutdown()
            thread.join()


def figures(text: str) -> dict[str, tuple[str, str]]:
    """The printed table: name -> (box, mask)."""
    rows = [line.strip("│ ").split("│") for line in text.splitlines() if line.startswith("│")]
    return {name.strip(): (box.strip(), mask.strip()) for name, box, mask in rows}


def run(url: str, place: str, output: Path, *options: str) -> int:
    return main(["--model", url, "--data", place, "--output", str(output), *options])


def test_a_perfect_model_has_average_precision_one(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 30, 30), NUCLEUS), ((50, 10, 90, 60), CELL)])
    data.add([((5, 5, 25, 45), CELL)])
    data.add([])
    with server(lambda red: (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "results.json") == 0
    table = figures(capsys.readouterr().out)
    assert table["AP"] == table["AP50"] == table["AP75"] == table["recall"] == ("1.0000", "1.0000")
    assert table["AP large"] == ("-", "-")
    assert {q["score_threshold"][0] for q in served.queries} == {"0.0"}
    assert {q["max_detections"][0] for q in served.queries} == {"100"}


def test_results_are_in_coco_s_format_with_the_data_s_own_ids(data: Data, tmp_path: Path) -> None:
    data.add([((10, 10, 30, 30), NUCLEUS), ((50, 10, 90, 60), CELL)])
    place = data.write()
    with server(lambda red: (200, data.answer(red))) as served:
        run(served.url, place, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in results] == [
        (100, NUCLEUS, [10, 10, 20, 20]),
        (100, CELL, [50, 10, 40, 50]),
    ]
    loaded = COCO(place.removeprefix("coco:") + "/annotations/instances_val.json").loadRes(
        str(tmp_path / "results.json")
    )
    assert loaded.annToMask(loaded.anns[1]).sum() == 400


def test_half_of_the_objects_found_is_half_of_the_recall_points(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS), ((60, 10, 100, 50), NUCLEUS)])
    with server(lambda red: (200, data.answer(red, skip=1))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    table = figures(capsys.readouterr().out)
    expected = f"{51 / 101:.4f}"  # precision 1 at the recalls 0.00, 0.01 ... 0.50
    assert table["AP"] == table["AP medium"] == (expected, expected)
    assert table["recall"] == ("0.5000", "0.5000")


def test_a_mask_of_half_the_object_counts_below_iou_one_half_only_as_a_box(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])

    def answer(red: int) -> tuple[int, Any]:
        (detection,) = data.answer(red)
        return 200, [detection | {"mask": rle((10, 10, 50, 38), data.size_hw)}]  # IoU 28 / 40 = 0.7

    with server(answer) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    table = figures(capsys.readouterr().out)
    assert table["AP"] == ("1.0000", "0.5000")  # at 0.50, 0.55, 0.60, 0.65 and 0.70 of ten thresholds
    assert table["AP50"] == ("1.0000", "1.0000")
    assert table["AP75"] == ("1.0000", "0.0000")


@pytest.mark.parametrize(("limit", "expected"), [(100, 84 / 101), (120, 1.0), (60, 51 / 101)])
def test_dense_pictures_count_to_the_given_limit(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int, expected: float
) -> None:
    data.add([((x, y, x + 8, y + 8), NUCLEUS) for y in range(0, 30, 10) for x in range(0, 400, 10)])  # 120 objects
    with server(lambda red: (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json", "--max-detections", str(limit)) == 0
    assert figures(capsys.readouterr().out)["AP"] == (f"{expected:.4f}", f"{expected:.4f}")


def test_a_model_that_finds_nothing_has_average_precision_zero(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (200, [])) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    assert figures(capsys.readouterr().out)["AP"] == ("0.0000", "0.0000")
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_classes_that_the_data_does_not_know_are_left_out(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])

    def answer(red: int) -> tuple[int, Any]:
        (nucleus,) = data.answer(red)
        return 200, [nucleus | {"class_name": "dust", "score": 1.0}, nucleus]

    with server(answer) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    said = capsys.readouterr()
    assert figures(said.out)["AP"] == ("1.0000", "1.0000")
    assert "Not in the data, so left out: dust." in said.err


def test_annotated_classes_that_the_model_never_finds_are_named(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS), ((60, 10, 90, 50), CELL)])
    with server(lambda red: (200, data.answer(red, skip=1))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    assert "In the data, but never found: cell." in capsys.readouterr().err


def test_the_key_is_sent(data: Data, tmp_path: Path) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json", "--api-key", "secret") == 0
    assert served.authorizations == {"Bearer secret"}


def test_a_model_of_other_things_is_an_error(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (200, [data.answer(red)[0] | {"class_name": "dust"}])) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 2
    assert "The model finds dust, but the data is about cell, nucleus." in capsys.readouterr().err


def test_a_busy_server_is_asked_again(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    statuses = iter([429, 503])

    def answer(red: int) -> tuple[int, Any]:
        status = next(statuses, 200)
        return status, data.answer(red) if status == 200 else {"detail": "busy"}

    with server(answer) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 0
    assert figures(capsys.readouterr().out)["AP"] == ("1.0000", "1.0000")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        pytest.param(500, {"detail": "It broke."}, "500 Internal Server Error: It broke.", id="error"),
        pytest.param(200, [{"box": "left"}], "not an answer of a Maskline server", id="another service"),
    ],
)
def test_a_server_that_does_not_answer(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, body: Any, sentence: str
) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (status, body)) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "r.json").exists()


def test_pictures_without_an_answer_are_named_and_the_figures_are_of_the_others(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (413, {"detail": "Too large."}) if red == 101 else (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 1
    said = capsys.readouterr()
    assert figures(said.out)["AP"] == ("1.0000", "1.0000")
    assert "No answer for 101.png: 413 Request Entity Too Large: Too large." in said.err
    assert "r.json holds the detections of 2 of 3 pictures." in " ".join(said.err.split())
    assert [r["image_id"] for r in json.loads((tmp_path / "r.json").read_text())] == [100, 102]


def test_a_server_that_goes_away_is_not_asked_for_all_the_rest(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(40):
        data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (401, {"detail": "Expired."}) if red > 104 else (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "No answer for 105.png: 401 Unauthorized: Expired." in said
    assert "The 34 pictures after it were not asked for." in said
    assert len(json.loads((tmp_path / "r.json").read_text())) == 5
    assert len(served.queries) < 40


def test_ctrl_c_keeps_what_was_found(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        data.add([((10, 10, 50, 50), NUCLEUS)])

    def interrupted(self: RemoteModel, pictures: Iterable[Path]) -> Iterator[Any]:
        yield next(iter(answered(self, pictures)))
        raise KeyboardInterrupt

    answered = RemoteModel.predict_many
    monkeypatch.setattr(RemoteModel, "predict_many", interrupted)
    with server(lambda red: (200, data.answer(red))) as served:
        assert run(served.url, data.write(), tmp_path / "r.json") == 130
    said = capsys.readouterr()
    assert "Stopped: there are no figures." in said.err
    assert "AP" not in said.out
    assert [r["image_id"] for r in json.loads((tmp_path / "r.json").read_text())] == [100]


def test_no_server_at_all(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    with server(lambda red: (200, [])) as served:
        pass
    assert run(served.url, data.write(), tmp_path / "r.json") == 2
    assert f"No answer from {served.url}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"--data": "shapes"}, "--data shapes is not coco:DIR.", id="not coco"),
        pytest.param({"--data": "coco:absent"}, "absent", id="no data"),
        pytest.param({"--model": "absent.pt"}, "There is no weights file absent.pt.", id="no checkpoint"),
        pytest.param({"--model": "."}, "model.json", id="a folder that is no bundle"),
        pytest.param({"--max-detections": "0"}, "--max-detections 0 cannot be used", id="no detections"),
        pytest.param({"--score-threshold": "2"}, "--score-threshold 2.0 cannot be used", id="score above 1"),
        pytest.param({"--output": "absent/r.json"}, "there is no such folder", id="no place for the results"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_sentence(
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data.add([((10, 10, 50, 50), NUCLEUS)])
    options = {"--model": "http://127.0.0.1:9", "--data": data.write(), "--output": "r.json"} | changes
    assert main([part for option in options.items() for part in option]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_broken_polygon_is_named(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    place = data.write()
    path = data.root / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = [[1, 2, 3]]
    path.write_text(json.dumps(document))
    assert run("http://127.0.0.1:9", place, tmp_path / "r.json") == 2
    assert "annotation 1" in " ".join(capsys.readouterr().err.split())


def shapes(data: Data) -> str:
    """Two pictures with what the tiny model's classes are called."""
    data.add([((10, 10, 90, 90), NUCLEUS)])
    data.add([((200, 10, 290, 90), CELL)])
    place = data.write()
    path = data.root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("nucleus", "circle").replace("cell", "square"))
    return place


def test_a_live_server_and_its_bundle_have_the_same_figures(data: Data, tmp_path: Path, tiny_bundle: Path) -> None:
    """To the last bit where pictures run alone: a larger batch may round differently."""
    place = shapes(data)
    with server_process("--engine", "auto", "--max-batch-size", "1", str(tiny_bundle)) as live:
        for model, name in ((live.url, "live.json"), (str(tiny_bundle), "offline.json")):
            assert run(model, place, tmp_path / name, "--max-detections", "20") == 0
    results = [json.loads((tmp_path / name).read_text()) for name in ("live.json", "offline.json")]
    assert results[0] == results[1] != []


def test_checkpoint_and_bundle_find_the_same(data: Data, tmp_path: Path, checkpoint: Path, tiny_bundle: Path) -> None:
    place = shapes(data)
    results = []
    for model in (checkpoint, tiny_bundle):
        assert run(str(model), place, tmp_path / "r.json", "--max-detections", "20") == 0
        results.append(json.loads((tmp_path / "r.json").read_text()))
    assert len(results[0]) == len(results[1]) > 0
    for a, b in zip(*results, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=0.01)


def test_sizes_go_by_the_mask_s_area_where_masks_are_judged(data: Data) -> None:
    data.add([((10, 10, 50, 50), NUCLEUS)])
    data.write()
    truth = read_truth(str(data.root / "annotations" / "instances_val.json"))
    # A box of a medium object, a mask of a small one elsewhere: it must not count against the medium ones.
    wrong = {"image_id": 100, "category_id": NUCLEUS, "bbox": [200, 10, 60, 60], "score": 0.99}
    wrong["segmentation"] = rle((200, 10, 220, 30), data.size_hw)
    right = {"image_id": 100, "category_id": NUCLEUS, "bbox": [10, 10, 40, 40], "score": 0.5}
    right["segmentation"] = rle((10, 10, 50, 50), data.size_hw)
    masks = average_precision(truth, [wrong, right], "segm", 100)
    assert (masks.ap_medium, masks.ap) == (pytest.approx(1.0), pytest.approx(0.5))
    assert math.isnan(masks.ap_small)
    assert average_precision(truth, [wrong, right], "bbox", 100).ap_medium == pytest.approx(0.5)
