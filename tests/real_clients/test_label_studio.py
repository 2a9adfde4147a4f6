"""Label Studio's SDK checks the predictions against the label configuration and decodes the brush strokes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_from_annotation, decode_rle
from label_studio_sdk.label_interface import LabelInterface
from pycocotools import mask as coco_mask

from clients import Client
from clients.prediction import Prediction

CONTROLS = "".join(
    f'<{kind} name="{kind}" toName="image"><Label value="Cell nucleus" predicted_values="nucleus"/></{kind}>'
    for kind in ("BrushLabels", "PolygonLabels", "RectangleLabels")
)
CONFIG = f'<View><Image name="image" value="$image"/>{CONTROLS}</View>'


@pytest.fixture(scope="module")
def regions(server_url: str, pictures: list[Path]) -> list[dict[str, Any]]:
    """Of the first picture, once the SDK has accepted them."""
    picture = base64.b64encode(pictures[0].read_bytes()).decode()
    task = {"id": 1, "data": {"image": f"data:image/png;base64,{picture}"}}
    body = {"tasks": [task], "label_config": CONFIG, "project": "1.1", "params": {"context": None}}
    (prediction,) = httpx2.post(f"{server_url}/label-studio/predict", json=body).json()["results"]
    assert LabelInterface(CONFIG).validate_prediction(prediction, return_errors=True) == []
    found: list[dict[str, Any]] = prediction["result"]
    return found


@pytest.fixture(scope="module")
def truth(server_url: str, pictures: list[Path]) -> Iterator[Prediction]:
    with Client(server_url) as client:
        yield client.predict(pictures[0])


def of_kind(regions: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [region for region in regions if region["type"] == kind.lower()]


def test_brush_strokes_have_the_pixels_of_predict(regions: list[dict[str, Any]], truth: Prediction) -> None:
    strokes = of_kind(regions, "BrushLabels")
    assert len(strokes) == len(truth) > 10
    for stroke, found in zip(strokes, truth, strict=True):
        expected = coco_mask.decode(found.encoded_mask)
        channels = decode_rle(stroke["value"]["rle"]).reshape(*expected.shape, 4)
        assert (channels == 255 * expected[..., None]).all()
        assert stroke["score"] == found.score


def test_the_converter_exports_them(regions: list[dict[str, Any]], truth: Prediction) -> None:
    """As an export of brush strokes to PNG and numpy does."""
    names = ("original_width", "original_height", "type")
    results = [
        {**region["value"], **{name: region[name] for name in names}} for region in of_kind(regions, "BrushLabels")[:5]
    ]
    layers = decode_from_annotation("BrushLabels", results)
    assert [int((layer > 0).sum()) for layer in layers.values()] == [found.area for found in truth][:5]
    assert all(name.startswith("BrushLabels-Cell nucleus-") for name in layers)


def test_polygons_and_rectangles_are_where_the_objects_are(regions: list[dict[str, Any]], truth: Prediction) -> None:
    sides = np.array([truth.width, truth.height]) / 100
    for polygon, rectangle, found in zip(
        of_kind(regions, "PolygonLabels"), of_kind(regions, "RectangleLabels"), truth, strict=True
    ):
        x1, y1, x2, y2 = found.box
        corners = np.round(np.array(polygon["value"]["points"]) * sides, 3)
        assert (corners.min(axis=0) >= np.floor((x1, y1))).all()
        assert (corners.max(axis=0) <= np.ceil((x2, y2))).all()
        value = rectangle["value"]
        assert np.allclose(np.array([value["x"], value["y"]]) * sides, (x1, y1), atol=1e-3)
        assert np.allclose(np.array([value["width"], value["height"]]) * sides, (x2 - x1, y2 - y1), atol=1e-3)
