"""What an answer holds, against pycocotools and arrays drawn by hand."""

from __future__ import annotations

import base64
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import clients
from clients import Prediction
from clients.prediction import parse_answer
from tests.clients.conftest import HEIGHT, WIDTH, answer, detections, masks

# pycocotools 2.0.11 on numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def predicted(found: list[dict[str, Any]] | None = None) -> Prediction:
    return parse_answer(answer(1, found))[0]


def grey(level: int = 128) -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), (level, level, level))


def test_arrays_have_their_shapes_and_values():
    prediction = predicted()
    np.testing.assert_array_equal(prediction.boxes, [[6, 4, 20, 12], [31, 23, 32, 24]])
    np.testing.assert_allclose(prediction.scores, [0.9, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(prediction.class_ids, [1, 2])
    assert prediction.boxes.dtype == prediction.scores.dtype == np.float32
    assert prediction.labels == ["nucleus", "speck"]
    assert (prediction.width, prediction.height) == (WIDTH, HEIGHT)
    assert (prediction.model, prediction.version, prediction.request_id) == ("demo", "1", "r-1")
    assert prediction.timings_ms["inference"] == 3.0
    assert [one.area for one in prediction] == [int(drawn.sum()) for drawn in masks()]


def test_masks_are_the_drawn_ones():
    found = predicted().masks()
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, masks())


def test_random_masks_decode_as_pycocotools_decodes_them():
    rng = np.random.default_rng(3)
    drawn = (rng.random((20, HEIGHT, WIDTH)) < rng.random((20, 1, 1))).astype(np.uint8)
    records = [{**detections()[0], "mask": _encoded(one)} for one in drawn]
    expected = [coco_mask.decode(record["mask"]).astype(bool) for record in records]
    np.testing.assert_array_equal(predicted(records).masks(), expected)


def _encoded(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}


def test_uncompressed_masks_decode_too():
    # Column-major: 2 columns of zeros, one of ones, the rest zeros.
    counts = [2 * HEIGHT, HEIGHT, (WIDTH - 3) * HEIGHT]
    prediction = predicted([{**detections()[0], "mask": {"size": [HEIGHT, WIDTH], "counts": counts}}])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[:, 2] = True
    np.testing.assert_array_equal(prediction.masks()[0], expected)
    np.testing.assert_array_equal(coco_mask.decode(prediction.to_coco(1)[0]["segmentation"]), expected)


def test_nothing_found_keeps_its_shapes():
    prediction = predicted([])
    assert len(prediction) == 0
    assert prediction.boxes.shape == (0, 4)
    assert prediction.masks().shape == (0, HEIGHT, WIDTH)
    assert prediction.to_coco(1) == []
    np.testing.assert_array_equal(np.asarray(prediction.draw(grey())), np.asarray(grey()))


def as_png(drawn: np.ndarray[Any, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(drawn.astype(bool)).save(buffer, "PNG")
    return {"size": list(drawn.shape), "png": base64.b64encode(buffer.getvalue()).decode()}


def as_polygons(*parts: list[list[list[int]]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"type": "MultiPolygon", "size": list(size), "coordinates": list(parts)}


def rectangle(x1: int, y1: int, x2: int, y2: int) -> list[list[int]]:
    """A closed ring."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]


def in_form(form: str) -> list[dict[str, Any]]:
    """The detections of `detections()` with their masks in another form."""
    forms = {
        "png": [as_png(drawn) for drawn in masks()],
        "polygon": [
            as_polygons([rectangle(6, 4, 20, 12), rectangle(10, 7, 14, 9)[::-1]]),
            as_polygons([rectangle(31, 23, 32, 24)]),
        ],
    }
    return [{**record, "mask": mask} for record, mask in zip(detections(), forms[form], strict=True)]


@pytest.mark.parametrize("form", ["png", "polygon"])
def test_masks_of_every_form_are_the_drawn_ones(form: str):
    prediction = predicted(in_form(form))
    np.testing.assert_array_equal(prediction.masks(), masks())
    segmentations = [coco_mask.decode(one["segmentation"]) for one in prediction.to_coco(1)]
    np.testing.assert_array_equal(segmentations, masks())
    np.testing.assert_array_equal(np.asarray(prediction.draw(grey())), np.asarray(predicted().draw(grey())))


def test_a_mask_of_several_parts_is_one_mask():
    mask = as_polygons([rectangle(0, 0, 2, 1)], [rectangle(5, 5, 6, 8)])
    found = predicted([{**detections()[0], "mask": mask}]).masks()[0]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[0, :2] = expected[5:8, 5] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mask", [None, {"size": [HEIGHT, WIDTH]}, [[1, 2, 3, 4]]])
def test_without_masks_there_are_none(mask: Any):
    with pytest.raises(clients.MaskFormatError, match="none"):
        predicted([{**detections()[0], "mask": mask}]).masks()


def test_without_masks_boxes_are_drawn_and_written():
    prediction = predicted([{**detections()[0], "mask": None}])
    assert "segmentation" not in prediction.to_coco(1)[0]
    assert np.any(np.asarray(prediction.draw(grey())) != 128)


SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    "mask",
    [
        *({"size": SIZE, "counts": counts} for counts in ("0", "\u00e9", [1, 2], [-1], None)),
        {"size": [2, 3], "counts": [6]},
        {"counts": "0"},
        {"size": "large", "counts": "0"},
        {"size": SIZE, "png": "aGVsbG8="},
        {"size": SIZE, "png": "no base64"},
        {"size": SIZE, "png": as_png(np.ones((2, 3)))["png"]},
        {"size": SIZE, "coordinates": [[[[1, 2, 3]]]]},
        {"size": SIZE, "coordinates": 7},
        {"size": SIZE, "coordinates": [[[["a", "b"], ["c", "d"]]]]},
    ],
    ids=lambda mask: str(mask)[:60],
)
def test_a_broken_mask_is_an_invalid_answer(mask: Any):
    with pytest.raises(clients.InvalidAnswerError, match="mask"):
        predicted([{**detections()[0], "mask": mask}]).masks()


@pytest.mark.parametrize(("library", "call"), [("supervision", "to_supervision"), ("fiftyone", "to_fiftyone")])
def test_a_library_that_is_not_installed_is_named(library: str, call: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        clients.MissingExtraError, match=f"^to_{library}\\(\\) needs {library}, .*pip install {library}$"
    ):
        getattr(predicted(), call)()


class Recorded(types.SimpleNamespace):
    """In the place of another library's class: what it was given. The real ones are in tests/real_clients."""


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(Detection=Recorded, Detections=Recorded))


def test_supervision_gets_boxes_masks_scores_and_names(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "supervision")
    found: Any = predicted().to_supervision()
    np.testing.assert_array_equal(found.xyxy, [[6, 4, 20, 12], [31, 23, 32, 24]])
    np.testing.assert_array_equal(found.mask, masks())
    np.testing.assert_allclose(found.confidence, [0.9, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(found.class_id, [1, 2])
    np.testing.assert_array_equal(found.data["class_name"], ["nucleus", "speck"])
    without: Any = predicted([{**detections()[0], "mask": None}]).to_supervision()
    assert without.mask is None
    nothing: Any = predicted([]).to_supervision()
    assert (nothing.xyxy.shape, nothing.mask.shape) == ((0, 4), (0, HEIGHT, WIDTH))


def test_fiftyone_gets_relative_boxes_of_whole_pixels_around_the_masks(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "fiftyone")
    between = {**detections()[0], "box": [6.4, 3.2, 19.5, 12.0]}  # the mask reaches from 6 to 20, and from 4 to 12
    found: Any = predicted([between, detections()[1]]).to_fiftyone()
    first, second = found.detections
    assert (first.label, first.confidence, second.label) == ("nucleus", 0.9, "speck")
    np.testing.assert_allclose(first.bounding_box, [6 / WIDTH, 3 / HEIGHT, 14 / WIDTH, 9 / HEIGHT], atol=1e-6)
    np.testing.assert_array_equal(first.mask, masks()[0][3:12, 6:20])
    np.testing.assert_allclose(second.bounding_box, [31 / WIDTH, 23 / HEIGHT, 1 / WIDTH, 1 / HEIGHT], atol=1e-6)
    np.testing.assert_array_equal(second.mask, [[True]])


def test_fiftyone_gets_a_box_that_holds_a_mask_which_leaves_the_answers(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "fiftyone")
    found: Any = predicted([{**detections()[0], "box": [8.0, 5.0, 12.0, 9.0]}]).to_fiftyone()
    np.testing.assert_array_equal(found.detections[0].mask, masks()[0][4:12, 6:20])


def test_fiftyone_gets_exact_boxes_without_masks(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "fiftyone")
    found: Any = predicted([{**detections()[0], "box": [6.5, 3.0, 20.0, 12.0], "mask": None}]).to_fiftyone()
    box = found.detections[0].bounding_box
    np.testing.assert_allclose(box, [6.5 / WIDTH, 3 / HEIGHT, 13.5 / WIDTH, 9 / HEIGHT], atol=1e-6)
    assert not hasattr(found.detections[0], "mask")


def test_coco_results_load_in_pycocotools(capsys: pytest.CaptureFixture[str]):
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 42, "width": WIDTH, "height": HEIGHT}],
        "annotations": [],
        "categories": [{"id": 17, "name": "nucleus"}, {"id": 90, "name": "speck"}],
    }
    truth.createIndex()
    results = predicted().to_coco(42, {"nucleus": 17, "speck": 90})
    loaded = truth.loadRes(results)
    loaded = loaded.loadAnns(loaded.getAnnIds())
    assert [one["category_id"] for one in loaded] == [17, 90]
    assert [one["bbox"] for one in results] == [[6, 4, 14, 8], [31, 23, 1, 1]]
    np.testing.assert_array_equal([truth.annToMask(one) for one in loaded], masks())
    capsys.readouterr()  # pycocotools prints


def test_without_a_map_the_class_ids_are_the_categories():
    assert [one["category_id"] for one in predicted().to_coco(1)] == [1, 2]


SIDE = 200


def drawn_on_grey(boxes: list[tuple[int, int, int, int]], class_ids: list[int], filled: bool = True) -> Any:
    """Pixels [SIDE, SIDE, 3] of a grey picture with detections whose masks fill their boxes but for the last row."""
    records = []
    for (x1, y1, x2, y2), class_id in zip(boxes, class_ids, strict=True):
        inside = np.zeros((SIDE, SIDE), np.uint8)
        inside[y1 : y2 - 1, x1:x2] = 1
        mask = {"size": [SIDE, SIDE], "counts": coco_mask.encode(np.asfortranarray(inside))["counts"].decode()}
        names = {"class_id": class_id, "class_name": f"class {class_id}", "area": int(inside.sum())}
        records.append({"box": [x1, y1, x2, y2], "score": 0.5, "mask": mask if filled else None, **names})
    whole = answer(1, records)
    whole["images"][0].update(width=SIDE, height=SIDE)
    rows = np.arange(SIDE, dtype=np.uint8)[:, None, None]
    return np.asarray(parse_answer(whole)[0].draw(np.tile(rows, (1, SIDE, 3)))).astype(int)


def test_drawing_changes_masks_boxes_and_a_label_and_nothing_else():
    after = drawn_on_grey([(60, 80, 140, 150)], [1])
    changed = np.any(after != np.arange(SIDE)[:, None, None], axis=2)
    assert changed[80:150, 60:140].sum() >= 69 * 80
    assert changed[149, 60:140].all()  # the box below the mask
    assert changed[55:80, 60:140].any()  # the label above it
    assert not changed[150:].any()
    assert not changed[:55].any()
    assert not changed[:, :59].any()
    assert not changed[80:, 140:].any()


def test_a_mask_is_tinted_so_that_the_picture_shows_through():
    after = drawn_on_grey([(60, 80, 140, 150)], [1])
    assert np.all(np.diff(after[90:140, 100].sum(axis=1)) >= 0)
    assert after[139, 100].sum() > after[91, 100].sum() + 50
    assert np.ptp(after[100, 100]) > 20  # a colour, not grey


def test_boxes_without_masks_are_frames():
    after = drawn_on_grey([(60, 80, 140, 150)], [1], filled=False)
    assert (after[90:140, 70:130] == np.arange(90, 140)[:, None, None]).all()
    assert np.ptp(after[110, 60]) > 20
    assert np.ptp(after[110, 139]) > 20


def test_one_class_is_coloured_by_object_and_several_by_class():
    boxes = [(10, 40, 60, 90), (10, 120, 60, 180), (120, 40, 180, 90)]
    one_class = drawn_on_grey(boxes, [1, 1, 1], filled=False)
    two_classes = drawn_on_grey(boxes, [1, 1, 2], filled=False)
    edges = (60, 10), (150, 10), (60, 120)
    assert len({tuple(one_class[at]) for at in edges}) == 3
    first, second, other = (tuple(two_classes[at]) for at in edges)
    assert first == second != other


def test_drawing_takes_each_form_and_turns_files_upright(tmp_path: Path):
    upright = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    turned = Image.fromarray(np.rot90(upright).copy())  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    expected = np.asarray(predicted().draw(upright))
    for form in (path, str(path), path.read_bytes(), Image.fromarray(upright)):
        np.testing.assert_array_equal(np.asarray(predicted().draw(form)), expected)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_is_drawn_scaled_not_clipped(mode: str):
    deep = Image.fromarray(np.full((HEIGHT, WIDTH), 25700, np.uint16)).convert(mode)
    np.testing.assert_array_equal(np.asarray(predicted([]).draw(deep)), np.full((HEIGHT, WIDTH, 3), 100))


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(clients.InvalidPictureError, match="10 x 10 pixels, the answer is for 32 x 24"):
        predicted().draw(Image.new("RGB", (10, 10)))


def test_what_cannot_be_opened_is_refused():
    with pytest.raises(clients.InvalidPictureError, match="cannot be opened"):
        predicted().draw(b"not a picture")


def test_in_a_crowd_small_objects_have_no_label():
    boxes = [(5 + 18 * (k % 10), 40 + 40 * (k // 10), 15 + 18 * (k % 10), 50 + 40 * (k // 10)) for k in range(30)]
    crowd = drawn_on_grey(boxes, [1] * 30, filled=False)
    assert (crowd[60:75] == np.arange(60, 75)[:, None, None]).all()
    few = drawn_on_grey(boxes[10:12], [1] * 2, filled=False)
    assert (few[60:75] != np.arange(60, 75)[:, None, None]).any()
