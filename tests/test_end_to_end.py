"""The demo bundle behind the real command: what a newcomer does after `make serve`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from clients import Client
from clients.samples import write_samples
from server.pipeline import Pipeline
from tests.server.running import PNG_HEADERS, ServerProcess, as_png, server_process

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("--engine", "auto", str(MODELS)) as process:
        yield process


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples"))


def detections(reply: httpx2.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["images"][0]["detections"]
    return found


def nuclei(size_hw: tuple[int, int] = (256, 320)) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A fluorescence-like picture and its masks [n, h, w]: bright noisy ellipses on a dark noisy ground, apart."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    masks = []
    for y in range(40, size_hw[0] - 20, 60):
        for x in range(40, size_hw[1] - 20, 60):
            ry, rx = rng.uniform(11, 17, 2)
            masks.append(((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1)
    light = 12 + sum(m * rng.uniform(70, 130) for m in masks) + rng.normal(0, 4, size_hw)
    return np.repeat(np.clip(light, 0, 255).astype(np.uint8)[..., None], 3, 2), np.stack(masks)


def test_every_nucleus_of_a_plain_picture_is_found(server: ServerProcess) -> None:
    picture, truth = nuclei()
    found = [coco_mask.decode(d["mask"]).astype(bool) for d in detections(server.predict(as_png(picture)))]
    overlap = [max((t & f).sum() / (t | f).sum() for f in found) for t in truth]
    assert min(overlap) > 0.7
    assert len(found) <= len(truth) + 2


def test_three_input_forms_answer_the_same(server: ServerProcess, samples: list[Path]) -> None:
    data = samples[1].read_bytes()
    url = f"{server.url}/predict"
    raw = detections(httpx2.post(url, content=data, headers=PNG_HEADERS, timeout=60))
    form = detections(httpx2.post(url, files={"image": ("a.png", data, "image/png")}, timeout=60))
    json = detections(httpx2.post(url, json={"image": base64.b64encode(data).decode()}, timeout=60))
    assert raw == form == json
    assert len(raw) > 10


def test_answers_keep_the_contract(server: ServerProcess, samples: list[Path]) -> None:
    for path in samples:
        answer = server.predict(path.read_bytes()).json()["images"][0]
        scores = [d["score"] for d in answer["detections"]]
        assert scores == sorted(scores, reverse=True)
        for d in answer["detections"]:
            x1, y1, x2, y2 = d["box"]
            assert 0 <= x1 < x2 <= answer["width"]
            assert 0 <= y1 < y2 <= answer["height"]
            mask = coco_mask.decode(d["mask"])
            assert mask.shape == (answer["height"], answer["width"])
            assert mask.sum() == d["area"]


def test_http_answers_what_the_pipeline_answers_in_process(server: ServerProcess, samples: list[Path]) -> None:
    pipeline = Pipeline.open(next(p.parent for p in MODELS.glob("*/model.json")))
    data = samples[0].read_bytes()
    with Client(server.url) as client:
        there = client.predict(data)
    here = pipeline.predict(data)
    np.testing.assert_allclose(there.boxes, [d.box for d in here.detections], atol=0.01)
    np.testing.assert_allclose(there.scores, [d.score for d in here.detections], atol=1e-4)
    pipeline.engine.close()


def test_pictures_together_are_answered_as_alone(server: ServerProcess, samples: list[Path]) -> None:
    """Equal sizes, so that they share a batch; every picture a different one."""
    picture = nuclei()[0]
    pictures = [picture, picture[::-1], picture[:, ::-1], np.roll(picture, 30, 1)]
    alone = [detections(server.predict(as_png(p))) for p in pictures]
    files = [("image", (f"{i}.png", as_png(p), "image/png")) for i, p in enumerate(pictures)]
    reply = httpx2.post(f"{server.url}/predict", files=files, timeout=60).json()
    assert reply["batch_size"] > 1
    for single, together in zip(alone, reply["images"], strict=True):
        assert_same_objects(single, together["detections"])


def assert_same_objects(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose([d["box"] for d in left], [d["box"] for d in right], atol=0.01)
    np.testing.assert_allclose([d["score"] for d in left], [d["score"] for d in right], atol=1e-4)
    for a, b in zip(left, right, strict=True):
        differing = coco_mask.decode(a["mask"]) != coco_mask.decode(b["mask"])
        assert differing.sum() <= 1  # a pixel within 1e-5 of the threshold may fall either way


def test_many_at_once_each_get_their_own_answer(server: ServerProcess) -> None:
    picture = nuclei((128, 128))[0]
    pictures = [as_png(np.roll(picture, 8 * i, axis=1)) for i in range(8)]
    alone = [detections(server.predict(p)) for p in pictures]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda i: detections(server.predict(pictures[i % 8])), range(24)))
    for i, found in enumerate(together):
        assert_same_objects(alone[i % 8], found)
