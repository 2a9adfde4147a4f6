"""pycocotools loads, and measures, what the client makes of an answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clients import Client, Prediction
from tests.real_clients.conftest import COMMAND

NUCLEUS = 17
"""Its id in these annotations; in the model's it is 1."""


@pytest.fixture(scope="module")
def found(server_url: str, pictures: list[Path]) -> dict[int, Prediction]:
    """By image id."""
    with Client(server_url) as client:
        return {image_id: client.predict(path) for image_id, path in enumerate(pictures, start=1)}


@pytest.fixture(scope="module")
def truth(found: dict[int, Prediction]) -> COCO:
    """Annotations that pycocotools makes of the decoded masks."""
    annotations: list[dict[str, Any]] = []
    for image_id, prediction in found.items():
        for box, mask in zip(prediction.boxes.astype(float), prediction.masks(), strict=True):
            segmentation = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            names = {"id": len(annotations) + 1, "image_id": image_id, "category_id": NUCLEUS, "iscrowd": 0}
            bbox = [*box[:2], *(box[2:] - box[:2])]
            annotations.append({**names, "area": int(mask.sum()), "bbox": bbox, "segmentation": segmentation})
    images = [{"id": key, "width": one.width, "height": one.height} for key, one in found.items()]
    return dataset(images, annotations, [{"id": NUCLEUS, "name": "nucleus"}])


def dataset(images: list[Any], annotations: list[Any], categories: list[Any]) -> COCO:
    made = COCO()
    made.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    made.createIndex()
    return made


def results(found: dict[int, Prediction]) -> list[dict[str, Any]]:
    return [one for key, prediction in found.items() for one in prediction.to_coco(key, {"nucleus": NUCLEUS})]


def measured(truth: COCO, results: list[dict[str, Any]], kind: str) -> tuple[float, float]:
    """AP and AR of at most 100 objects a picture."""
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[8]


def test_results_load_beside_their_annotations(truth: COCO, found: dict[int, Prediction]) -> None:
    loaded = truth.loadRes(results(found)).dataset["annotations"]
    areas = [one.area for prediction in found.values() for one in prediction]
    assert len(areas) > 20
    assert [truth.annToMask(annotation).sum() for annotation in loaded] == areas


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_of_the_truth_found_is_an_ap_of_one(kind: str, truth: COCO, found: dict[int, Prediction]) -> None:
    assert measured(truth, results(found), kind) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_half_of_the_truth_found_is_a_recall_of_a_half(kind: str, truth: COCO, found: dict[int, Prediction]) -> None:
    every_other = results(found)[::2]
    recall = len(every_other) / len(truth.dataset["annotations"])
    assert measured(truth, every_other, kind)[1] == pytest.approx(recall)


def test_the_results_of_a_folder_load_as_a_dataset_and_as_results(
    server_url: str, pictures: list[Path], truth: COCO, tmp_path: Path
) -> None:
    target = tmp_path / "results.json"
    command = [COMMAND, "predict", pictures[0].parent, "--url", server_url, "--output", target]
    subprocess.run(command, check=True, capture_output=True)
    alone = COCO(str(target))
    assert [image["file_name"] for image in alone.loadImgs(alone.getImgIds())] == [path.name for path in pictures]
    assert len(alone.anns) == len(truth.anns)
    # The ids of both run through the pictures in the order of their names.
    same_category = [{**one, "category_id": NUCLEUS} for one in json.loads(target.read_text())["annotations"]]
    assert measured(truth, same_category, "segm") == pytest.approx((1.0, 1.0))
