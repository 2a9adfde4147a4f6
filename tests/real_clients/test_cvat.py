"""CVAT's SDK reads the masks, with the function that docs/cvat.md has for its command line; Nuclio's handler there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.masks import decode_mask
from PIL import Image
from pycocotools import mask as coco_mask

from clients import Client
from clients.prediction import Prediction

PAGE = (Path(__file__).parents[2] / "docs" / "cvat.md").read_text()


def code(name: str) -> str:
    """A block of the page."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```\n<!-- end of {name} -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def truth(server_url: str, pictures: list[Path]) -> Iterator[Prediction]:
    with Client(server_url) as client:
        yield client.predict(pictures[0])


@pytest.fixture(scope="module")
def function(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As cvat-cli loads it."""
    path = tmp_path_factory.mktemp("cvat") / "maskline_cvat.py"
    path.write_text(code("function"))
    return FunctionLoader(None, path, {"url": server_url, "model": "demo"}).load()


def context(conf_threshold: float | None = None, conv_mask_to_poly: bool = False) -> SimpleNamespace:
    return SimpleNamespace(frame_name="a.png", conf_threshold=conf_threshold, conv_mask_to_poly=conv_mask_to_poly)


def test_its_masks_have_the_pixels_of_predict(function: Any, pictures: list[Path], truth: Prediction) -> None:
    image = Image.open(pictures[0])
    shapes = function.detect(context(), image)
    assert len(shapes) == len(truth) > 10
    for shape, found in zip(shapes, truth, strict=True):
        mask = decode_mask(shape.points, image_width=image.width, image_height=image.height)
        assert (mask == coco_mask.decode(found.encoded_mask).astype(bool)).all()
        assert (shape.type.value, shape.label_id) == ("mask", found.class_id)


def test_labels_thresholds_and_polygons(function: Any, pictures: list[Path], truth: Prediction) -> None:
    assert [(label.name, label.id, label.type) for label in function.spec.labels] == [("nucleus", 1, "mask")]
    image = Image.open(pictures[0])
    few = function.detect(context(0.95, conv_mask_to_poly=True), image)
    assert len(few) == sum(found.score >= 0.95 for found in truth) < len(truth)
    assert {shape.type.value for shape in few} == {"polygon"}


def test_what_cvat_stores_has_the_same_pixels(server_url: str, pictures: list[Path], truth: Prediction) -> None:
    """The server of CVAT makes run lengths of the pixels, zeros first, and keeps the box behind them."""
    body = {"image": base64.b64encode(pictures[0].read_bytes()).decode()}
    shapes = httpx2.post(f"{server_url}/cvat", json=body).json()
    for shape, found in zip(shapes, truth, strict=True):
        *pixels, left, top, right, bottom = shape["mask"]
        changes = np.flatnonzero(np.diff(pixels, prepend=0))
        runs = np.diff([0, *changes, len(pixels)]).tolist()
        stored = [*runs, left, top, right, bottom]
        mask = decode_mask(stored, image_width=truth.width, image_height=truth.height)
        assert (mask == coco_mask.decode(found.encoded_mask).astype(bool)).all()


def test_the_handler_for_nuclio(
    server_url: str, pictures: list[Path], truth: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: dict[str, Any] = {}
    exec(code("handler"), module)
    monkeypatch.setenv("MASKLINE_URL", f"{server_url}/cvat?model=demo")
    nuclio = SimpleNamespace(Response=lambda **values: SimpleNamespace(**values))
    body = {"image": base64.b64encode(pictures[0].read_bytes()).decode(), "threshold": 0.5}
    answer = module["handler"](nuclio, SimpleNamespace(body=body))
    assert answer.status_code == 200
    assert len(json.loads(answer.body)) == len(truth)
    refused = module["handler"](nuclio, SimpleNamespace(body={}))
    assert refused.status_code == 400
    assert b"image" in refused.body
