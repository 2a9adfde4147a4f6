"""A bundle that ONNX Runtime runs, in process and over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from server.app import create_app
from server.contract.errors import BadParameter, BundleError, UndecodablePicture
from server.contract.wire import PredictOptions
from server.pipeline import Pipeline
from tests.server.running import PNG_HEADERS, as_png, noise, running, settings, write_bundle
from tests.server.tiny_onnx import tiny_onnx


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny", tiny_onnx(), name="tiny")


@pytest.fixture
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline.open(bundle, threads=1)


def test_array_and_file_agree(pipeline: Pipeline) -> None:
    picture = noise(0)
    found = pipeline.predict(picture)
    assert found == pipeline.predict(as_png(picture))
    assert (found.width, found.height) == (70, 50)
    (detection,) = found.detections
    np.testing.assert_allclose(detection.box, (0, 0, 70, 50), atol=1e-3)
    assert 70 * 50 - 4 <= detection.area <= 70 * 50  # the paste rounds the corners off


def test_options_and_errors(pipeline: Pipeline) -> None:
    (detection,) = pipeline.predict(noise(0), PredictOptions(mask="none")).detections
    assert detection.mask is None
    assert pipeline.predict(noise(0), PredictOptions(score_threshold=1)).detections == []
    with pytest.raises(BadParameter, match="zebra"):
        pipeline.predict(noise(0), PredictOptions(classes=("zebra",)))
    with pytest.raises(UndecodablePicture):
        pipeline.predict(b"no picture")


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Pipeline.open(tmp_path)


async def test_http_says_what_the_pipeline_says_for_every_batch(bundle: Path, pipeline: Pipeline) -> None:
    pictures = [noise(i) // (i + 1) for i in range(12)]
    expected = [pipeline.predict(picture) for picture in pictures]
    app = create_app(settings(engine="auto", models=(str(bundle),), threads=1))
    async with running(app) as client:
        posts = [client.post("/predict", content=as_png(picture), headers=PNG_HEADERS) for picture in pictures]
        replies = [reply.json() for reply in await asyncio.gather(*posts)]
        parts = [("image", (str(i), as_png(picture), "image/png")) for i, picture in enumerate(pictures)]
        several = (await client.post("/predict", files=parts)).json()
    assert max(reply["batch_size"] for reply in [*replies, several]) > 1
    for found in ([reply["images"][0] for reply in replies], several["images"]):
        for image, wanted in zip(found, expected, strict=True):
            (detection,), (own,) = image["detections"], wanted.detections
            np.testing.assert_allclose(detection["box"], own.box, atol=0.01)
            assert detection["score"] == pytest.approx(own.score, abs=1e-4)
            assert detection["mask"]["counts"] == own.mask.counts  # type: ignore[union-attr]
