"""FiftyOne takes what the client makes of an answer, and reads the dataset that `maskline predict` writes.

Its labels, evaluation and file formats; not its database and App, which need a MongoDB server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import Client, Prediction
from tests.real_clients.conftest import COMMAND

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
fo = pytest.importorskip("fiftyone", reason="FiftyOne is not installed (requirements-fiftyone.txt)")


@pytest.fixture(scope="module")
def found(server_url: str, pictures: list[Path]) -> list[Prediction]:
    with Client(server_url) as client:
        return [client.predict(path) for path in pictures]


def test_boxes_are_relative_and_labels_and_scores_those_of_the_answer(found: list[Prediction]) -> None:
    for prediction in found:
        detections = prediction.to_fiftyone().detections
        assert len(detections) == len(prediction) > 10
        assert {one.label for one in detections} == {"nucleus"}
        np.testing.assert_allclose([one.confidence for one in detections], prediction.scores, rtol=1e-6)
        x, y, w, h = np.array([one.bounding_box for one in detections]).T
        scale = [prediction.width, prediction.height] * 2
        boxes_xyxy = np.stack([x, y, x + w, y + h], axis=1) * scale
        assert np.all((boxes_xyxy >= 0) & (boxes_xyxy < np.array(scale) + 1e-5))
        # Moved out to whole pixels, and over masks that reach a pixel beyond their box.
        moved = (boxes_xyxy - prediction.boxes) * [-1, -1, 1, 1]
        assert np.all((moved > -0.01) & (moved <= 2))


def test_fiftyone_draws_the_same_pixels(found: list[Prediction]) -> None:
    for prediction in found:
        size_wh = prediction.width, prediction.height
        for one, mask in zip(prediction.to_fiftyone().detections, prediction.masks(), strict=True):
            segmentation = one.to_segmentation(frame_size=size_wh, target=255)
            np.testing.assert_array_equal(segmentation.mask == 255, mask)


def test_a_label_survives_fiftyones_own_json(found: list[Prediction]) -> None:
    detections = found[0].to_fiftyone()
    again = fo.Detections.from_json(detections.to_json())
    for one, other in zip(detections.detections, again.detections, strict=True):
        assert one.bounding_box == other.bounding_box
        np.testing.assert_array_equal(one.mask, other.mask)


def test_without_masks_the_boxes_are_the_answers(server_url: str, pictures: list[Path]) -> None:
    with Client(server_url) as client:
        prediction = client.predict(pictures[0], mask="none")
        nothing = client.predict(np.zeros((64, 64, 3), np.uint8))
    x, y, w, h = np.array([one.bounding_box for one in prediction.to_fiftyone().detections]).T
    boxes_xyxy = np.stack([x, y, x + w, y + h], axis=1) * ([prediction.width, prediction.height] * 2)
    np.testing.assert_allclose(boxes_xyxy, prediction.boxes, atol=1e-3)
    assert nothing.to_fiftyone().detections == []


def test_its_coco_importer_reads_the_results_of_a_folder(
    server_url: str, pictures: list[Path], found: list[Prediction], tmp_path: Path
) -> None:
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    results = tmp_path / "results.json"
    command = [COMMAND, "predict", pictures[0].parent, "--url", server_url, "--output", results]
    subprocess.run(command, check=True, capture_output=True)
    importer = COCODetectionDatasetImporter(
        data_path=str(pictures[0].parent), labels_path=str(results), label_types=["segmentations"], shuffle=False
    )
    with importer:
        read = {Path(path).name: labels for path, _, labels in importer}
    assert sorted(read) == [path.name for path in pictures]
    for path, prediction in zip(pictures, found, strict=True):
        labels = read[path.name].detections
        assert [one.label for one in labels] == prediction.labels
        np.testing.assert_allclose([one.confidence for one in labels], prediction.scores, rtol=1e-6)
        areas = [one.mask.sum() for one in labels]
        assert sum(areas) == pytest.approx(sum(one.area for one in prediction), rel=0.02)
    assert len(json.loads(results.read_text())["annotations"]) == sum(map(len, found))


class Samples:
    """What `add_coco_labels` asks of a dataset, which would need the database."""

    def __init__(self, images: list[dict[str, Any]]) -> None:
        self._images = {str(image["id"]): image for image in images}
        self.labels: dict[str, list[Any]] = {}

    def values(self, names: list[str]) -> list[list[Any]]:
        keys = {"coco_id": "id", "metadata.width": "width", "metadata.height": "height"}
        return [
            list(self._images) if name == "id" else [image[keys[name]] for image in self._images.values()]
            for name in names
        ]

    def select(self, ids: list[str], ordered: bool) -> Samples:
        self._images = {key: self._images[key] for key in ids}
        return self

    def compute_metadata(self) -> None:
        """It is in `values`."""

    def set_values(self, field: str, labels: list[Any]) -> None:
        self.labels[field] = labels


def test_it_reads_the_results_of_an_evaluation(
    server_url: str, pictures: list[Path], found: list[Prediction], tmp_path: Path
) -> None:
    """As docs/continuity.md does it; the categories' ids are not the model's."""
    import fiftyone.utils.coco as fouc

    images, annotations = [], []
    (tmp_path / "val").mkdir()
    for image_id, (path, prediction) in enumerate(zip(pictures, found, strict=True), start=40):
        shutil.copy(path, tmp_path / "val")
        size = {"width": prediction.width, "height": prediction.height}
        images.append({"id": image_id, "file_name": path.name, **size})
        for one in prediction.to_coco(image_id, {"nucleus": 17}):
            annotations.append({**one, "id": len(annotations) + 1, "area": 1, "iscrowd": 0})
    categories = [{"id": 17, "name": "nucleus"}]
    (tmp_path / "annotations").mkdir()
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(document))
    results = tmp_path / "results.json"
    command = [COMMAND, "evaluate", "--model", server_url, "--data", f"coco:{tmp_path}", "--score-threshold", "0.5"]
    subprocess.run([*command, "--output", results], check=True, capture_output=True)
    samples = Samples(images)
    options = {"label_type": "segmentations", "coco_id_field": "coco_id"}
    fouc.add_coco_labels(samples, "maskline", str(results), categories, **options)
    for labels, prediction in zip(samples.labels["maskline"], found, strict=True):
        assert [one.label for one in labels.detections] == prediction.labels
        np.testing.assert_allclose([one.confidence for one in labels.detections], prediction.scores, atol=1e-5)
        assert sum(one.mask.sum() for one in labels.detections) == pytest.approx(
            sum(one.area for one in prediction), rel=0.02
        )
