"""pycocotools loads what the client makes of an answer."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO

from clients import Client


def test_results_load_beside_their_annotations(server_url: str, pictures: list[Path]) -> None:
    truth = COCO()
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}
    results, areas = [], []
    with Client(server_url) as client:
        for image_id, path in enumerate(pictures, start=1):
            width, height = Image.open(path).size
            truth.dataset["images"].append({"id": image_id, "width": width, "height": height})
            prediction = client.predict(path)
            results += prediction.to_coco(image_id)
            areas += [one.area for one in prediction]
    truth.createIndex()
    loaded = truth.loadRes(results)
    assert len(areas) > 20
    assert [loaded.annToMask(annotation).sum() for annotation in loaded.dataset["annotations"]] == areas
