"""Label Studio's protocol, with requests as its own code writes them: `make_predictions`, `setup`, `train` and `health`
of label_studio/ml/api_connector.py in its release 1.23.2, where `predict_tasks` of label_studio/ml/models.py reads the
answers. tests/real_clients has Label Studio's SDK.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from pydantic import TypeAdapter

from server.app import create_app
from server.contract import rle
from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FAKE_CARD, FakeEngine
from server.models import Models
from server.protocols import brush_rle
from server.protocols.label_studio import Predictions
from tests.server.internet import LOOPBACK, Internet, connected, redirect, response
from tests.server.protocols.tools import BAD_BODIES, BLACK, JSON, PICTURE, pixels, predicted, refused, text
from tests.server.running import fake_server, png, running, server_with, settings

HEADERS = {"User-Agent": "heartex/1.23.2", "Accept-Encoding": "gzip, deflate", "Accept": "*/*", **JSON}
PROJECT = {"project": "7.1763990000"}
LABELS = '<Label value="Cell" predicted_values="something, something else" background="#FFA39E"/>'


def config(*controls: str) -> str:
    return f'<View><Image name="image" value="$image" zoom="true"/>{"".join(controls)}</View>'


def control(kind: str, labels: str = LABELS, attributes: str = "") -> str:
    return f'<{kind} name="{kind}-1" toName="image" {attributes}>{labels}</{kind}>'


def call(*images: object, label_config: str = config(control("BrushLabels"))) -> dict[str, object]:
    tasks = [
        {
            "id": index,
            "data": {"image": image, "name": "a picture"},
            "meta": {},
            "created_at": "2026-11-24T10:00:00.000000Z",
            "is_labeled": False,
            "project": 7,
            "annotations": [{"result": [{"value": {"rle": [0, 1, 2]}}]}],
        }
        for index, image in enumerate(images, start=1)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, **PROJECT, "label_config": label_config, "params": params}


def data_uri(picture: bytes = PICTURE) -> str:
    return f"data:image/png;base64,{text(picture)}"


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server(max_pictures=3) as client:
        yield client


async def results(
    client: httpx2.AsyncClient, *images: object, url: str = "/label-studio/predict", **values: Any
) -> Any:
    reply = await client.post(url, json=call(*images, **values), headers=HEADERS)
    assert reply.status_code == 200, reply.text
    TypeAdapter(Predictions).validate_json(reply.content)
    return reply.json()["results"]


# The brush


def decoded(stream: list[int]) -> npt.NDArray[np.uint8]:
    """The bytes of a brush stroke, read bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in stream)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


def masks() -> list[npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(7)
    random = [rng.random(rng.integers(1, 30, 2)) < share for share in (0.1, 0.5, 0.9) * 5]
    wide = np.zeros((130, 700), np.bool_)
    wide[10:120] = True  # runs of more than 65536 bytes
    wide[60:80, 300:400] = False
    return [np.ones((1, 1), np.bool_), np.ones((130, 140), np.bool_), wide, *(mask for mask in random if mask.any())]


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_a_brush_stroke_decodes_to_the_same_pixels(mask: npt.NDArray[np.bool_]) -> None:
    stream = brush_rle.encode(rle.from_mask(mask), mask.shape).tolist()
    channels = decoded(stream).reshape(*mask.shape, 4)
    assert (channels == 255 * mask[..., None]).all()


async def test_a_brush_region(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    ((prediction),) = await results(client, data_uri())
    (region,) = prediction["result"]
    assert region["id"]
    assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "BrushLabels-1", "image")
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (70, 50, 0)
    assert (region["value"]["brushlabels"], region["value"]["format"]) == (["Cell"], "rle")
    assert region["score"] == prediction["score"] == truth["score"]
    assert prediction["model_version"] == "fake/1"
    channels = decoded(region["value"]["rle"]).reshape(50, 70, 4)
    assert (channels == 255 * pixels(truth)[..., None]).all()


# Other controls


async def test_a_polygon_region_painted_again_is_the_mask(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    ((prediction),) = await results(client, data_uri(), label_config=config(control("PolygonLabels")))
    (region,) = prediction["result"]
    points = np.array(region["value"]["points"])
    assert region["type"] == "polygonlabels"
    assert (region["value"]["polygonlabels"], region["value"]["closed"]) == (["Cell"], True)
    assert points.min() >= 0
    assert points.max() <= 100
    canvas = Image.new("1", (700, 500))  # ten times as large, where Pillow's painting of lines counts for little
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in (points * (7, 5)).tolist()], fill=1)
    assert (np.asarray(canvas)[5::10, 5::10] == pixels(truth)).all()


async def test_a_rectangle_region_is_the_box(client: httpx2.AsyncClient) -> None:
    (truth,) = await predicted(client)
    ((prediction),) = await results(client, data_uri(), label_config=config(control("RectangleLabels")))
    (region,) = prediction["result"]
    value = region["value"]
    assert (region["type"], value["rectanglelabels"], value["rotation"]) == ("rectanglelabels", ["Cell"], 0)
    box = np.array([value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]])
    assert np.allclose(box * (0.7, 0.5, 0.7, 0.5), truth["box"], atol=1e-4)


async def test_every_control_gets_regions(client: httpx2.AsyncClient) -> None:
    skipped = control("RectangleLabels", attributes='model_skip="true"')
    label_config = config(
        control("BrushLabels"), control("PolygonLabels"), skipped, "<Choices name='c' toName='image'/>"
    )
    ((prediction),) = await results(client, data_uri(), label_config=label_config)
    regions = prediction["result"]
    assert [region["type"] for region in regions] == ["brushlabels", "polygonlabels"]
    assert len({region["id"] for region in regions}) == 2


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        pytest.param('<Label value="SOMETHING"/>', "SOMETHING", id="in any case"),
        pytest.param('<Label value="A" predicted_values="x,Something"/>', "A", id="by predicted_values"),
        pytest.param('<View><Label value="x"/></View><Label value="something"/>', "something", id="among others"),
        pytest.param('<Label value="something else"/>', None, id="another class"),
    ],
)
async def test_labels_of_classes(client: httpx2.AsyncClient, labels: str, label: str | None) -> None:
    first_class = data_uri(png((200, 30, 10)))  # the fake engine's class follows the green channel
    ((prediction),) = await results(client, first_class, label_config=config(control("RectangleLabels", labels)))
    found = [region["value"]["rectanglelabels"] for region in prediction["result"]]
    assert found == ([] if label is None else [[label]])


async def test_the_only_label_is_for_the_only_class() -> None:
    engine = FakeEngine(FAKE_CARD.model_copy(update={"classes": ["background", "nucleus"]}))
    async with server_with(Models.of(settings(), [engine])) as client:
        others = control("RectangleLabels", '<Label value="Dirt"/><Label value="Dust"/>')
        one = config(control("BrushLabels", '<Label value="Cell"/>'), others)
        ((prediction),) = await results(client, data_uri(), label_config=one)
        assert [region["value"]["brushlabels"] for region in prediction["result"]] == [["Cell"]]
        two = config(control("BrushLabels", '<Label value="Cell"/><Label value="Dirt"/>'))
        reply = await client.post("/label-studio/predict", json=call(data_uri(), label_config=two))
        refused(reply, 400, 'predicted_values="nucleus"')


@pytest.mark.parametrize(("threshold", "count"), [("0.99", 0), ("0.01", 1)])
async def test_a_threshold_of_the_control(client: httpx2.AsyncClient, threshold: str, count: int) -> None:
    strict = control("BrushLabels", attributes=f'model_score_threshold="{threshold}"')
    ((prediction),) = await results(client, data_uri(), label_config=config(strict))
    assert len(prediction["result"]) == count
    ((both),) = await results(client, data_uri(), label_config=config(strict, control("RectangleLabels")))
    assert len(both["result"]) == count + 1


# Label configurations that are none


LAUGHS = "".join(f'<!ENTITY lol{i} "{f"&lol{i - 1};" * 10}">' for i in range(1, 10))
BOMB = f'<!DOCTYPE lolz [<!ENTITY lol0 "lol">{LAUGHS}]><View>&lol9;</View>'
FILE = '<!DOCTYPE r [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + config('<Label value="&f;"/>')


@pytest.mark.parametrize(
    ("xml", "word"),
    [
        pytest.param("", "not XML", id="nothing"),
        pytest.param("<View>", "not XML", id="cut off"),
        pytest.param("<View/>", "has none of", id="no control"),
        pytest.param(config(), "has none of", id="a picture alone"),
        pytest.param(f"<View>{control('BrushLabels')}</View>", "has none of", id="no picture"),
        pytest.param(config(control("BrushLabels")).replace("$image", "a.png"), "has none of", id="a fixed picture"),
        pytest.param(config("<Choices name='c' toName='image'/>"), "has none of", id="another control"),
        pytest.param(config(control("BrushLabels", '<Label value="Dog"/>')), "predicted_values", id="no label fits"),
        pytest.param(config(control("BrushLabels", attributes='model_score_threshold="x"')), "number", id="threshold"),
        pytest.param(config(control("BrushLabels", attributes='model_score_threshold="nan"')), "number", id="nan"),
        pytest.param(BOMB, "document type", id="billion laughs"),
        pytest.param(FILE, "document type", id="a file"),
        pytest.param("<a>" * 200_000, "not XML", id="deep"),
        pytest.param(config("<Label/>" * 200_000), "longer than", id="long"),
        pytest.param('<?xml version="1.0" encoding="utf-16"?><View/>', "label_config", id="another encoding"),
        pytest.param("<View>\x00</View>", "not XML", id="a zero byte"),
        pytest.param(config(control("BrushLabels", '<Label value="&undefined;"/>')), "not XML", id="an entity"),
    ],
)
async def test_label_configurations_that_are_none(client: httpx2.AsyncClient, xml: str, word: str) -> None:
    reply = await client.post("/label-studio/predict", json=call(data_uri(), label_config=xml), headers=HEADERS)
    refused(reply, 400, "label_config", word)


# Tasks


async def test_several_tasks_keep_their_order(client: httpx2.AsyncClient) -> None:
    found = await results(client, data_uri(BLACK), data_uri(), data_uri(BLACK))
    assert [len(one["result"]) for one in found] == [0, 1, 0]
    assert found[0]["score"] == 0


async def test_a_task_that_fails_among_others_is_empty(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "server.label_studio"):
        found = await results(client, data_uri(b"no picture"), data_uri(), None)
    assert [len(one) if isinstance(one, list) else len(one["result"]) for one in found] == [0, 1, 0]
    assert "task 1 " in caplog.text
    assert "no text 'image'" in caplog.text


@pytest.mark.parametrize(
    ("images", "word"),
    [
        pytest.param([data_uri(b"no picture")], "picture", id="no picture"),
        pytest.param([None], "no text 'image'", id="nothing"),
        pytest.param([5, {}], "no text 'image'", id="other things, twice"),
        pytest.param(["https://pictures.example/a.png"], "url_inputs", id="an address"),
        pytest.param(["/data/upload/7/a.png"], "--label-studio-url", id="a file of Label Studio"),
        pytest.param(["s3://bucket/a.png"], "--label-studio-url", id="a file of a bucket"),
        pytest.param(["file:///etc/passwd"], "base64", id="a file"),
    ],
)
async def test_tasks_that_all_fail_are_an_error(client: httpx2.AsyncClient, images: list[object], word: str) -> None:
    refused(await client.post("/label-studio/predict", json=call(*images), headers=HEADERS), 400, word)


async def test_of_too_many_tasks_one_is_answered(client: httpx2.AsyncClient) -> None:
    """Label Studio takes this for a backend that knows no batches, and asks for one task at a time."""
    assert len(await results(client, *[data_uri()] * 4)) == 1


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bodies_that_are_none(client: httpx2.AsyncClient, name: str) -> None:
    content, status = BAD_BODIES[name]
    refused(await client.post("/label-studio/predict", content=content, headers=JSON), status)


@pytest.mark.parametrize("body", [{}, {"tasks": 5, "label_config": ""}, {"tasks": [{"data": []}], "label_config": ""}])
async def test_wrong_types(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    refused(await client.post("/label-studio/predict", json=body, headers=HEADERS), 400, "JSON body")


# Connecting


async def test_connecting(client: httpx2.AsyncClient) -> None:
    for path in ("", "/", "/health", "/fake/health"):
        up = await client.get(f"/label-studio{path}", headers=HEADERS)
        assert up.json() == {"status": "UP", "model_class": "Maskline"}
    setup = {**PROJECT, "schema": "<View></View>", "hostname": "http://localhost:8080", "access_token": "a"}
    for path in ("setup", "fake/setup"):
        reply = await client.post(f"/label-studio/{path}", json={**setup, "extra_params": None}, headers=HEADERS)
        assert reply.json() == {"model_version": "fake/1"}
    event = {"action": "START_TRAINING", "project": {"id": 7, "label_config": "<View/>"}}
    heard = await client.post("/label-studio/webhook", json=event, headers=HEADERS)
    assert (heard.status_code, heard.json()) == (201, {"status": "ok"})
    refused(await client.post("/label-studio/other/setup", json=setup, headers=HEADERS), 404, "no model 'other'")


async def test_a_key_is_the_password() -> None:
    """Label Studio's only way to send one."""
    async with fake_server(api_keys="secret") as client:
        refused(await client.get("/label-studio/health", auth=("maskline", "other")), 401)
        assert (await client.get("/label-studio/health", auth=("maskline", "secret"))).status_code == 200
        refused(await client.get("/label-studio/health", headers={"Authorization": "Basic ???"}), 401)


async def test_one_of_several_models_is_named_in_the_path() -> None:
    engines = [FakeEngine(FAKE_CARD.model_copy(update={"name": name})) for name in ("one", "other")]
    async with server_with(Models.of(settings(), engines)) as client:
        refused(await client.post("/label-studio/predict", json=call(data_uri()), headers=HEADERS), 400, "one, other")
        ((prediction),) = await results(client, data_uri(), url="/label-studio/other/predict")
        assert prediction["model_version"] == "other/1"


class Unready(FakeEngine):
    """Warms up when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_run = threading.Event()

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        assert self.may_run.wait(30)
        return super().infer(images, windows)


async def test_health_waits_for_the_models() -> None:
    engine = Unready()
    app = create_app(settings(), Models.of(settings(), [engine]))
    async with running(app, wait=False) as client:
        refused(await client.get("/label-studio/health"), 503, "warming up")
        engine.may_run.set()


# Pictures in Label Studio


@pytest.fixture
async def label_studio() -> AsyncIterator[Internet]:
    async with connected() as internet:
        internet.answer = response(PICTURE)
        yield internet


@pytest.mark.parametrize(
    ("picture", "path"),
    [
        ("/data/upload/7/a%20b.png", "/data/upload/7/a%20b.png"),
        ("/data/local-files/?d=folder/Zelle ä.png", "/data/local-files/?d=folder/Zelle%20%C3%A4.png"),
        ("upload/7/a.png", "/data/upload/7/a.png"),
        ("s3://bucket/a.png", "/tasks/1/presign/?fileuri=" + base64.urlsafe_b64encode(b"s3://bucket/a.png").decode()),
    ],
)
async def test_pictures_of_label_studio(label_studio: Internet, picture: str, path: str) -> None:
    url = f"http://{LOOPBACK}:{label_studio.port}/"
    async with fake_server(label_studio_url=url, label_studio_key="abc") as client:
        ((prediction),) = await results(client, picture)
    assert len(prediction["result"]) == 1
    (head,) = label_studio.asked
    assert head.startswith(f"GET {path} HTTP/1.1\r\n")
    assert "authorization: token abc" in head.lower()


async def test_label_studio_gives_pictures_to_who_takes_anything(label_studio: Internet) -> None:
    """Its framework knows no pictures: it answers 406 where it finds no form of its own in Accept."""
    refusal = response(b"", "406 Not Acceptable")
    label_studio.answer = lambda head: response(PICTURE) if "*/*" in head.lower().partition("accept:")[2] else refusal
    async with fake_server(label_studio_url=f"http://{LOOPBACK}:{label_studio.port}") as client:
        ((prediction),) = await results(client, "/data/upload/7/a.png")
    assert len(prediction["result"]) == 1


async def test_its_full_address_is_the_same(label_studio: Internet) -> None:
    url = f"http://{LOOPBACK}:{label_studio.port}"
    async with fake_server(label_studio_url=url, label_studio_key="abc") as client:
        await results(client, f"{url}/data/upload/7/a.png")
    assert "authorization: token abc" in label_studio.asked[0].lower()


@pytest.mark.parametrize(
    "picture",
    [
        "/api/projects",
        "/data/../api/projects",
        "/data/%2e%2e/api/projects",
        "/data/..%2fapi/projects",
        "//169.254.169.254/latest",
        "http://127.0.0.1:{port}/api/projects",
        "http://127.0.0.1:{other}/data/upload/a.png",
        "http://localhost:{port}/data/upload/a.png",
        "https://127.0.0.1:{port}/data/upload/a.png",
        "http://127.0.0.1:{port}@8.8.8.8/data/a.png",
        "http://10.0.0.1/data/upload/a.png",
    ],
)
@pytest.mark.parametrize("url_inputs", [False, True])
async def test_nothing_else_is_asked_for(label_studio: Internet, picture: str, url_inputs: bool) -> None:
    port = label_studio.port
    picture = picture.format(port=port, other=port + 1) if picture.startswith("http") else picture
    url = f"http://{LOOPBACK}:{port}"
    async with fake_server(label_studio_url=url, label_studio_key="abc", url_inputs=url_inputs) as client:
        reply = await client.post("/label-studio/predict", json=call(picture), headers=HEADERS)
        refused(reply, 400)
        refused(await client.post("/predict", json={"image": f"{url}/data/upload/a.png"}), 400)
    assert not label_studio.asked


async def test_the_key_does_not_follow_a_redirect_elsewhere(label_studio: Internet) -> None:
    label_studio.answer = redirect("http://10.0.0.1/bucket/a.png")
    url = f"http://{LOOPBACK}:{label_studio.port}"
    async with fake_server(label_studio_url=url, label_studio_key="abc", url_inputs=True) as client:
        reply = await client.post("/label-studio/predict", json=call("s3://bucket/a.png"), headers=HEADERS)
    refused(reply, 400, "10.0.0.1", "public")
