"""supervision takes what the client makes of an answer, and draws it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from clients import Client, Prediction
from tests.real_clients.conftest import ROOT

sv = pytest.importorskip("supervision")


@pytest.fixture(scope="module")
def found(server_url: str, pictures: list[Path]) -> dict[Path, Prediction]:
    with Client(server_url) as client:
        return {path: client.predict(path) for path in pictures}


def test_every_field_is_that_of_the_answer(found: dict[Path, Prediction]) -> None:
    for prediction in found.values():
        detections = prediction.to_supervision()
        assert len(detections) == len(prediction) > 10
        np.testing.assert_array_equal(detections.xyxy, prediction.boxes)
        np.testing.assert_array_equal(detections.confidence, prediction.scores)
        assert set(detections.class_id) == {1}
        assert set(detections["class_name"]) == {"nucleus"}
        decoded = [coco_mask.decode(one["segmentation"]) for one in prediction.to_coco(1)]
        np.testing.assert_array_equal(detections.mask, np.array(decoded, bool))
        np.testing.assert_array_equal(detections.area, [one.area for one in prediction])


def test_annotators_draw_masks_boxes_and_labels(found: dict[Path, Prediction]) -> None:
    path, prediction = next(iter(found.items()))
    detections = prediction.to_supervision()
    before = np.asarray(Image.open(path).convert("RGB"))
    annotators = sv.MaskAnnotator(), sv.BoxAnnotator(), sv.LabelAnnotator()
    for annotator in annotators:
        after = annotator.annotate(before.copy(), detections)
        assert np.any(after != before)
    masked = annotators[0].annotate(before.copy(), detections)
    outside = ~prediction.masks().any(axis=0)
    np.testing.assert_array_equal(masked[outside], before[outside])
    assert np.mean(np.any(masked != before, axis=2)[~outside]) > 0.99


def test_detections_filter_and_merge(found: dict[Path, Prediction]) -> None:
    detections = next(iter(found.values())).to_supervision()
    sure = detections[detections.confidence > 0.9]
    assert 0 < len(sure) < len(detections)
    assert len(sv.Detections.merge([sure, detections])) == len(sure) + len(detections)
    assert len(detections.with_nms(threshold=0.5)) > 0


def test_without_masks_and_without_objects(server_url: str, pictures: list[Path]) -> None:
    with Client(server_url) as client:
        boxes = client.predict(pictures[0], mask="none").to_supervision()
        nothing = client.predict(np.zeros((64, 64, 3), np.uint8)).to_supervision()
    assert len(boxes) > 10
    assert boxes.mask is None
    assert len(nothing) == 0
    assert len(sv.Detections.merge([boxes[:0], nothing])) == 0


def test_the_script_of_the_page_runs(
    server_url: str, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    (script,) = (one for one in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "supervision" in one)
    shutil.copy(pictures[0], tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    with Client(server_url) as client:
        exec(script, {"client": client})
    before, after = (np.asarray(Image.open(name).convert("RGB")) for name in ("picture.png", "annotated.png"))
    assert before.shape == after.shape
    assert np.any(before != after)
