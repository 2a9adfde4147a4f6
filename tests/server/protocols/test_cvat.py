"""CVAT's protocol, with requests as its own code writes them: `LambdaGateway` of cvat/apps/lambda_manager/views.py,
read at commits 024777ef (2023) and e4c12a27 (2025). tests/real_clients has CVAT's SDK.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from pydantic import TypeAdapter

from server.contract import rle
from server.contract.errors import PictureTooLarge
from server.contract.wire import Detection, ImageResult, UncompressedRleMask
from server.engines.fake import FAKE_CARD, FakeEngine
from server.models import Models
from server.protocols import cvat
from server.protocols.cvat import CvatMask
from server.protocols.objects import crop
from tests.server.protocols.tools import BAD_BODIES, BLACK, JSON, WIDE, pixels, predicted, refused, text
from tests.server.running import fake_server, server_with, settings

HEADERS = {"User-Agent": "python-requests/2.32.3", "Accept-Encoding": "gzip, deflate", "Accept": "*/*", **JSON}
NUCLIO = {
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
    "X-Nuclio-Invoke-Timeout": "120s",
    **HEADERS,
}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server() as client:
        yield client


async def detected(client: httpx2.AsyncClient, query: str = "", **values: object) -> list[dict[str, Any]]:
    reply = await client.post(f"/cvat{query}", json={"image": text(), **values}, headers=HEADERS)
    assert reply.status_code == 200, reply.text
    TypeAdapter(list[CvatMask]).validate_json(reply.content)
    shapes: list[dict[str, Any]] = reply.json()
    return shapes


def painted(mask: list[int], size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The picture with a shape's pixels, as CVAT's page draws them."""
    *values, left, top, right, bottom = mask
    picture = np.zeros(size_hw, np.bool_)
    assert set(values) <= {0, 1}
    picture[top : bottom + 1, left : right + 1] = np.reshape(values, (bottom - top + 1, right - left + 1))
    return picture


async def test_a_shape_is_a_detection_of_predict(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    (shape,) = await detected(client)
    assert (shape["type"], shape["label"]) == ("mask", truth["class_name"])
    assert isinstance(shape["confidence"], str)
    assert float(shape["confidence"]) == truth["score"]
    assert (painted(shape["mask"], (50, 70)) == pixels(truth)).all()


async def test_a_large_picture_in_tiles(client: httpx2.AsyncClient) -> None:
    truth = await predicted(client, WIDE, "?tile=64&overlap=8")
    shapes = await detected(client, "?tile=64&overlap=8", image=text(WIDE))
    assert len(shapes) == len(truth) > 1
    for shape, found in zip(shapes, truth, strict=True):
        assert (painted(shape["mask"], (64, 300)) == pixels(found)).all()


async def test_its_polygon_painted_again_is_the_mask(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    (shape,) = await detected(client)
    points = np.reshape(shape["points"], (-1, 2)) * 10
    canvas = Image.new("1", (700, 500))  # ten times as large, where Pillow's painting of lines counts for little
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1)
    assert (np.asarray(canvas)[5::10, 5::10] == pixels(truth)).all()


@pytest.mark.parametrize(
    ("query", "values", "count"),
    [
        pytest.param("", {"threshold": 0.99}, 0, id="threshold"),
        pytest.param("", {"threshold": None}, 1, id="no threshold"),
        pytest.param("?model=fake&version=1&max_detections=1&timeout_ms=20000", {}, 1, id="query"),
        pytest.param("?score_threshold=0.99", {"threshold": 0.1}, 1, id="the call's own threshold wins"),
        pytest.param("/", {}, 1, id="slash"),
        pytest.param("", {"image": text(BLACK)}, 0, id="nothing found"),
    ],
)
async def test_wishes(client: httpx2.AsyncClient, query: str, values: dict[str, object], count: int) -> None:
    assert len(await detected(client, query, **values)) == count


@pytest.mark.parametrize(
    ("query", "values", "status", "word"),
    [
        pytest.param("", {"image": "?"}, 400, "base64", id="no base64"),
        pytest.param("", {"image": ["a"]}, 400, "image", id="wrong type"),
        pytest.param("", {"image": None}, 400, "image", id="no picture"),
        pytest.param("", {"image": "http://127.0.0.1/a.png"}, 400, "url_inputs", id="address"),
        pytest.param("", {"image": text(b"no picture")}, 400, "not a picture", id="not a picture"),
        pytest.param("", {"threshold": 2}, 400, "threshold", id="threshold"),
        pytest.param("?model=other", {}, 404, "other", id="model"),
        pytest.param("?colour=red", {}, 400, "colour", id="query"),
    ],
)
async def test_refusals(client: httpx2.AsyncClient, query: str, values: Any, status: int, word: str) -> None:
    refused(await client.post(f"/cvat{query}", json={"image": text(), **values}, headers=HEADERS), status, word)


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bodies_that_are_none(client: httpx2.AsyncClient, name: str) -> None:
    content, status = BAD_BODIES[name]
    refused(await client.post("/cvat", content=content, headers=JSON), status)


async def test_a_body_that_is_too_large() -> None:
    async with fake_server(max_body_mib=1) as client:
        refused(await client.post("/cvat", content=bytes(2 << 20), headers=JSON), 413, "larger")


async def test_every_model_is_a_detector() -> None:
    """As CVAT lists them, reads their labels, and invokes one through what it takes for Nuclio's dashboard."""
    engines = [FakeEngine(FAKE_CARD.model_copy(update={"name": name})) for name in ("one", "other")]
    async with server_with(Models.of(settings(), engines)) as client:
        listed = (await client.get("/api/functions", headers=NUCLIO)).json()
        assert list(listed) == ["one", "other"]
        assert (await client.get("/api/functions/one", headers=NUCLIO)).json() == listed["one"]
        annotations = listed["one"]["metadata"]["annotations"]
        assert (listed["one"]["metadata"]["name"], annotations["type"]) == ("one", "detector")
        assert listed["one"]["spec"]["description"]
        assert listed["one"]["status"]["state"] == "ready"
        labels = json.loads(annotations["spec"])
        assert [(label["name"], label["type"]) for label in labels] == [
            ("something", "mask"),
            ("something else", "mask"),
        ]
        invoked = {**NUCLIO, "x-nuclio-function-name": "other", "x-nuclio-path": "/"}
        reply = await client.post("/api/function_invocations", json={"image": text()}, headers=invoked)
        assert len(reply.json()) == 1
        refused(await client.post("/api/function_invocations", json={"image": text()}, headers=NUCLIO), 400, "header")
        refused(await client.get("/api/functions/third", headers=NUCLIO), 404, "third")
        refused(await client.post("/cvat", json={"image": text()}), 400, "one, other")


def image_of(*masks: npt.NDArray[np.bool_]) -> ImageResult:
    h, w = masks[0].shape
    found = [
        Detection(
            (0, 0, w, h), 1, "cell", 0.5, int(mask.sum()), UncompressedRleMask((h, w), rle.from_mask(mask).tolist())
        )
        for mask in masks
    ]
    return ImageResult(w, h, found)


def test_objects_without_pixels_are_left_out() -> None:
    """CVAT has no shape for them."""
    one = np.zeros((4, 5), np.bool_)
    one[1, 2:4] = True
    (shape,) = json.loads(cvat.shapes(image_of(np.zeros((4, 5), np.bool_), one)).body)
    assert shape["mask"] == [1, 1, 2, 1, 3, 1]
    assert shape["points"] == [2, 1, 4, 1, 4, 2, 2, 2]


def test_masks_that_would_make_an_enormous_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cvat, "MAX_MASK_PIXELS", 50)
    whole = np.ones((5, 8), np.bool_)
    assert len(json.loads(cvat.shapes(image_of(whole)).body)) == 1
    with pytest.raises(PictureTooLarge, match="threshold"):
        cvat.shapes(image_of(whole, whole))


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_is_tight_and_holds_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((30, 40), np.bool_)
    y, x = rng.integers(0, 25, 2)
    mask[y : y + 5, x : x + 15] = rng.random(mask[y : y + 5, x : x + 15].shape) < 0.4
    (left, top, w, h), inside = crop(rle.from_mask(mask), mask.shape)
    picture = np.zeros_like(mask)
    picture[top : top + h, left : left + w] = inside
    assert (picture == mask).all()
    assert inside[[0, -1]].any(axis=1).all()
    assert inside[:, [0, -1]].any(axis=0).all()
