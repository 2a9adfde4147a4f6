"""Roboflow's protocol, with the requests that inference-sdk 1.8.3 sends; tests/real_clients has the client itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import TypeAdapter

from server.contract import rle
from server.protocols.objects import outline, through_pixels
from server.protocols.roboflow_documents import Segmentation
from tests.server.protocols.tools import BAD_BODIES, BLACK, JSON, PICTURE, WIDE, pixels, predicted, refused, text
from tests.server.running import fake_server

URL = "/infer/instance_segmentation"


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server(max_pictures=3) as client:
        yield client


def body(image: object = None, **values: object) -> dict[str, object]:
    """As the client of v1 writes it."""
    return {
        "api_key": "any",
        "model_id": "fake/1",
        "visualize_predictions": False,
        "disable_active_learning": False,
        "allow_reduced_mask_resolution": False,
        "image": {"type": "base64", "value": text()} if image is None else image,
        **values,
    }


async def segmented(client: httpx2.AsyncClient, **values: Any) -> dict[str, Any]:
    reply = await client.post(URL, json=body(**values))
    assert reply.status_code == 200, reply.text
    TypeAdapter(Segmentation).validate_json(reply.content)
    answer: dict[str, Any] = reply.json()
    return answer


async def test_a_prediction_is_that_of_predict(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    answer = await segmented(client, response_mask_format="rle")
    (found,) = answer["predictions"]
    x1, y1, x2, y2 = truth["box"]
    assert answer["image"] == {"width": 70, "height": 50}
    assert answer["time"] > 0
    assert answer["inference_id"]
    assert (found["x"], found["y"]) == ((x1 + x2) / 2, (y1 + y2) / 2)
    assert (found["width"], found["height"]) == pytest.approx((x2 - x1, y2 - y1), abs=1e-4)
    assert (found["confidence"], found["class"]) == (truth["score"], truth["class_name"])
    assert (found["class_id"], found["rle"], found["mask_format"]) == (truth["class_id"], truth["mask"], "rle")
    assert found["detection_id"]
    assert "points" not in found


async def test_a_polygon_painted_again_is_the_mask(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    (found,) = (await segmented(client))["predictions"]
    assert found["mask_format"] == "polygon"
    canvas = Image.new("1", (70, 50))
    ImageDraw.Draw(canvas).polygon([(point["x"], point["y"]) for point in found["points"]], fill=1, outline=1)
    assert (np.asarray(canvas) == pixels(truth)).all()


async def test_a_large_picture_in_tiles(client: httpx2.AsyncClient) -> None:
    truth = await predicted(client, WIDE, "?tile=64&overlap=8")
    image = {"type": "base64", "value": text(WIDE)}
    reply = await client.post(f"{URL}?tile=64&overlap=8", json=body(image, response_mask_format="rle"))
    assert len(truth) > 1
    assert [found["rle"] for found in reply.json()["predictions"]] == [found["mask"] for found in truth]


async def test_several_pictures_are_a_list(client: httpx2.AsyncClient) -> None:
    image = [{"type": "base64", "value": text(picture)} for picture in (PICTURE, BLACK)]
    reply = await client.post(URL, json=body(image))
    assert [len(one["predictions"]) for one in reply.json()] == [1, 0]
    assert [one["image"]["width"] for one in reply.json()] == [70, 30]
    assert len((await client.post(URL, json=body(image[:1]))).json()) == 1


@pytest.mark.parametrize(
    ("values", "count"),
    [
        pytest.param({"confidence": 0.99}, 0, id="confidence"),
        pytest.param({"confidence": 0}, 1, id="no confidence"),
        pytest.param({"confidence": "best"}, 1, id="Roboflow's words for one"),
        pytest.param({"iou_threshold": 0.1, "max_detections": 1}, 1, id="one detection"),
        pytest.param({"class_filter": ["something", "something else"]}, 1, id="all classes"),
        pytest.param({"class_filter": []}, 1, id="an empty filter"),
        pytest.param({"model_id": "fake"}, 1, id="name alone"),
        pytest.param({"model_id": None}, 1, id="the only model"),
        pytest.param({"image": {"type": "base64", "value": f"data:image/png;base64,{text()}"}}, 1, id="data URI"),
    ],
)
async def test_wishes(client: httpx2.AsyncClient, values: dict[str, Any], count: int) -> None:
    assert len((await segmented(client, **values))["predictions"]) == count


@pytest.mark.parametrize(
    ("values", "status", "word"),
    [
        pytest.param({"model_id": "other/1"}, 404, "no model 'other'", id="model"),
        pytest.param({"model_id": "fake/9"}, 404, "no version '9'", id="version"),
        pytest.param({"class_filter": ["unicorn"]}, 400, "unicorn", id="class"),
        pytest.param({"confidence": 1.5}, 400, "confidence", id="confidence"),
        pytest.param({"max_detections": 0}, 400, "max_detections", id="no detections"),
        pytest.param({"response_mask_format": "png"}, 400, "response_mask_format", id="mask"),
        pytest.param({"visualize_predictions": True}, 400, "/predict draws", id="a drawing"),
        pytest.param({"image": {"type": "base64", "value": "?"}}, 400, "base64", id="no base64"),
        pytest.param({"image": {"type": "numpy_object", "value": "gASV"}}, 400, "'base64' or 'url'", id="a pickle"),
        pytest.param({"image": {"type": "url", "value": "https://a.example/a.png"}}, 400, "url_inputs", id="address"),
        pytest.param({"image": {"type": "url", "value": "file:///etc/passwd"}}, 400, "http", id="file"),
        pytest.param({"image": []}, 400, "image", id="no picture"),
        pytest.param({"image": [{"type": "base64", "value": ""}] * 4}, 413, "at most 3", id="too many"),
        pytest.param(
            {"image": [{"type": "base64", "value": text()}, {"type": "base64", "value": text(b"no")}]},
            422,
            "Picture 1",
            id="the second is bad",
        ),
    ],
)
async def test_refusals(client: httpx2.AsyncClient, values: dict[str, Any], status: int, word: str) -> None:
    refused(await client.post(URL, json=body(**values)), status, word)


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bodies_that_are_none(client: httpx2.AsyncClient, name: str) -> None:
    content, status = BAD_BODIES[name]
    for url in (URL, "/model/add"):
        refused(await client.post(url, content=content, headers=JSON), status)
    refused(await client.post(URL, content=b"x", headers={"Content-Type": "text/plain"}), 415, "application/json")


async def test_the_older_api(client: httpx2.AsyncClient) -> None:
    query = "api_key=any&confidence=0.5&allow_reduced_mask_resolution=False&max_detections=10&overlap=0.3"
    url = f"/infer/fake/1?{query}&disable_active_learning=False&response_mask_format=rle"
    (truth,) = await predicted(client)
    (found,) = (await client.post(url, content=text(), headers=JSON)).json()["predictions"]
    assert found["rle"] == truth["mask"]
    for wish, count in (("confidence=99", 0), ("confidence=10", 1), ("classes=something,something else", 1)):
        reply = await client.post(f"/infer/fake/1?{wish}", content=text(), headers=JSON)
        assert len(reply.json()["predictions"]) == count
    refused(await client.post("/infer/fake/2", content=text(), headers=JSON), 404, "no version '2'")
    refused(await client.post("/infer/fake/1?confidence=101", content=text(), headers=JSON), 400, "confidence")
    refused(await client.post("/infer/fake/1?format=image", content=text(), headers=JSON), 400, "format")
    refused(await client.post("/infer/fake/1", content=b"\xff\xfe", headers=JSON), 400, "base64")


async def test_models_and_server(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/model/registry?api_key=any")).json()
    assert [model["model_id"] for model in listed["models"]] == ["fake", "fake/1"]
    assert {model["task_type"] for model in listed["models"]} == {"instance-segmentation"}
    assert (await client.post("/model/add", json={"model_id": "fake/1", "api_key": None})).json() == listed
    refused(await client.post("/model/add", json={"model_id": "other/1"}), 404, "other")
    assert (await client.get("/info")).json()["name"] == "Maskline"


async def test_a_key_is_a_header() -> None:
    async with fake_server(api_keys="k") as client:
        refused(await client.post(URL, json=body(api_key="k")), 401, "Bearer")
        reply = await client.post(URL, json=body(), headers={"Authorization": "Bearer k"})
    assert reply.status_code == 200


MASKS = {
    "one pixel": ["#"],
    "a line": ["####"],
    "a slope": ["##...", ".##..", "..##.", "...##"],
    "a hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "two parts, the larger second": ["##...", "##...", "..###", "..###"],
    "a notch": ["###.###", "###.###", "#######"],
}


@pytest.mark.parametrize("name", MASKS)
def test_the_outline_through_pixels_paints_the_largest_part(name: str) -> None:
    mask = np.array([[pixel == "#" for pixel in row] for row in MASKS[name]])
    expected = mask.copy()
    if name == "a hole":
        expected[:] = True
    if name.startswith("two parts"):
        expected[:2] = False
    ring = through_pixels(outline(rle.from_mask(mask), mask.shape))
    canvas = Image.new("1", mask.shape[::-1])
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in ring.tolist()], fill=1, outline=1)
    assert (np.asarray(canvas) == expected).all()
