"""The TensorRT engine on a fake device (see `fake_cuda`, `fake_tensorrt`), which ONNX Runtime answers for."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from server.app import create_app
from server.contract.errors import EngineFailed, EngineLost, EngineUnavailable
from server.engines.base import Canvases, Detections, Float32
from server.engines.onnxruntime_ import OnnxRuntimeEngine
from server.engines.tensorrt_ import TensorRtEngine
from server.pipeline import Pipeline
from server.repository import Bundle
from tests.server import fake_cuda, fake_tensorrt
from tests.server.plan_bundle import CANVASES, MAX_BATCH
from tests.server.running import PNG_HEADERS, as_png, noise, running, settings

ILLEGAL_ADDRESS = fake_cuda.cudaError_t.cudaErrorIllegalAddress


@pytest.fixture
def engine(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> TensorRtEngine:
    return TensorRtEngine(plan_bundle)


def batch(seed: int, count: int, canvas: tuple[int, int]) -> tuple[Canvases, Float32]:
    """Every second picture is black, so that nothing is found on it."""
    images = np.stack([noise(seed + i, canvas) * (i % 2 == 0) // (i + 1) for i in range(count)])
    windows = np.random.default_rng(seed).uniform(0, 100, (count, 4)).astype(np.float32)
    return images, windows


def assert_same(found: Detections, expected: Detections, count: int) -> None:
    for i in range(count):
        np.testing.assert_array_equal(found.of_image(i).detections, expected.of_image(i).detections)
        np.testing.assert_array_equal(found.of_image(i).masks, expected.of_image(i).masks)


# Answers


def test_every_batch_of_every_canvas_is_answered_as_onnxruntime_does(
    engine: TensorRtEngine, plan_bundle: Bundle
) -> None:
    assert engine.description == "TensorRT 11.1.0.106 fp16 on NVIDIA H100 80GB HBM3 (9.0)"
    assert engine.max_batch == MAX_BATCH
    oracle = OnnxRuntimeEngine(plan_bundle, threads=1)
    first_plain_then_replayed = range(3)
    for turn, count, canvas in itertools.product(first_plain_then_replayed, (1, 3, 2), CANVASES):
        inputs = batch(turn, count, canvas)
        found = engine.infer(*inputs)
        assert len(found.detections) == (count + 1) // 2, "padding is not copied"
        assert_same(found, oracle.infer(*inputs), count)


def test_answers_do_not_change_with_the_next_batch(engine: TensorRtEngine) -> None:
    first = engine.infer(*batch(0, 3, CANVASES[0]))
    kept = (first.detections.copy(), first.masks.copy())
    engine.infer(*batch(7, 3, CANVASES[0]))
    np.testing.assert_array_equal(first.detections, kept[0])
    np.testing.assert_array_equal(first.masks, kept[1])


async def test_http_answers_are_those_of_onnxruntime(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> None:
    pictures = [noise(i, (50 + 9 * (i % 4), 70)) // (i + 1) for i in range(8)]
    oracle = Pipeline(OnnxRuntimeEngine(plan_bundle, threads=1))
    expected = [oracle.predict(picture) for picture in pictures]
    app = create_app(settings(engine="tensorrt", models=(str(plan_bundle.path),), max_batch_size=64))
    async with running(app) as client:
        assert "TensorRT" in (await client.get("/models")).json()["models"][0]["engine"]
        posts = [client.post("/predict", content=as_png(picture), headers=PNG_HEADERS) for picture in pictures]
        replies = [reply.json() for reply in await asyncio.gather(*posts)]
    assert 1 < max(reply["batch_size"] for reply in replies) <= MAX_BATCH
    for reply, wanted in zip(replies, expected, strict=True):
        (image,), (own,) = reply["images"], wanted.detections
        (detection,) = image["detections"]
        np.testing.assert_allclose(detection["box"], own.box, atol=0.01)
        assert detection["score"] == pytest.approx(own.score, abs=1e-4)
        assert detection["mask"]["counts"] == own.mask.counts  # type: ignore[union-attr]
    assert tensorrt.cuda.held() == []


# Memory and graphs


ALLOCATIONS = ("cudaMalloc", "cudaHostAlloc", "cudaFree", "cudaFreeHost", "cudaStreamCreateWithFlags")


def test_warm_up_leaves_nothing_to_allocate_or_capture(
    engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt
) -> None:
    Pipeline(engine).warm_up(64)
    shapes, calls = len(CANVASES) * MAX_BATCH, tensorrt.cuda.calls
    assert calls["cudaGraphInstantiate"] == shapes
    assert tensorrt.contexts == shapes
    before = calls.copy()
    for seed, count, canvas in itertools.product((1, 2), (1, 2, 3), CANVASES):
        engine.infer(*batch(seed, count, canvas))
    assert set(calls - before) == {"cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"}
    assert calls["cudaGraphLaunch"] == 2 * shapes
    assert tensorrt.executions == 2 * shapes, "once plain and once captured"


def test_warm_up_stays_within_the_servers_own_batches(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    Pipeline(engine).warm_up(2)
    assert tensorrt.contexts == 2 * len(CANVASES)


@pytest.mark.parametrize(
    "function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "TensorRT"]
)
def test_without_graphs_it_goes_on_and_says_so_once(
    engine: TensorRtEngine,
    plan_bundle: Bundle,
    tensorrt: fake_tensorrt.TensorRt,
    caplog: pytest.LogCaptureFixture,
    function: str,
) -> None:
    if function == "TensorRT":
        tensorrt.can_be_captured = False
    else:
        tensorrt.cuda.failures[function] = fake_cuda.cudaError_t.cudaErrorStreamCaptureInvalidated
    oracle = OnnxRuntimeEngine(plan_bundle, threads=1)
    for seed, canvas in itertools.product(range(3), CANVASES):
        inputs = batch(seed, 2, canvas)
        assert_same(engine.infer(*inputs), oracle.infer(*inputs), 2)
    assert tensorrt.cuda.calls["cudaGraphLaunch"] == 0
    assert [record.name for record in caplog.records if "CUDA graphs" in record.message] == ["server.engines"]
    engine.close()
    assert tensorrt.cuda.held() == []


def test_close_frees_everything_once(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    engine.infer(*batch(0, 2, CANVASES[1]))
    assert sorted(set(tensorrt.cuda.held())) == ["device", "launchable graph", "pinned", "stream"]
    engine.close()
    engine.close()
    assert tensorrt.cuda.held() == []
    with pytest.raises(EngineFailed, match="closed"):
        engine.infer(*batch(0, 1, CANVASES[0]))


def test_close_waits_for_the_batch_that_runs(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    running, go_on, answers = threading.Event(), threading.Event(), []

    def hold() -> None:
        running.set()
        assert go_on.wait(30)

    engine.infer(*batch(0, 1, CANVASES[0]))
    tensorrt.cuda.before_work = hold
    inference = threading.Thread(target=lambda: answers.append(engine.infer(*batch(0, 1, CANVASES[0]))))
    inference.start()
    assert running.wait(30)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert "launchable graph" in tensorrt.cuda.held()
    go_on.set()
    inference.join(30)
    closing.join(30)
    assert len(answers) == 1
    assert tensorrt.cuda.held() == []


# Several devices


def test_each_engine_stays_on_its_device_whichever_thread_calls(
    plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt
) -> None:
    tensorrt.cuda.devices = 2
    oracle = OnnxRuntimeEngine(plan_bundle, threads=1)
    engines = [TensorRtEngine(plan_bundle, device=device) for device in range(2)]
    with ThreadPoolExecutor(1) as elsewhere:
        for seed, engine in itertools.product(range(3), engines):
            inputs = batch(seed, 2, CANVASES[0])
            assert_same(engine.infer(*inputs), oracle.infer(*inputs), 2)
            assert_same(elsewhere.submit(engine.infer, *inputs).result(), oracle.infer(*inputs), 2)
        engines[0].close()
        elsewhere.submit(engines[1].close).result()
    assert tensorrt.cuda.held() == []


def test_an_engine_without_a_gpu_of_its_own(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> None:
    with pytest.raises(EngineUnavailable, match=r"no GPU for engine 2: this process sees 1. Give --engines 1 at most"):
        TensorRtEngine(plan_bundle, device=1)
    assert tensorrt.cuda.held() == []


async def test_a_model_on_two_gpus(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> None:
    tensorrt.cuda.devices = 2
    app = create_app(settings(engine="tensorrt", models=(str(plan_bundle.path),), engines=2))
    async with running(app) as client:
        (described,) = (await client.get("/models")).json()["models"]
        assert described["engine"] == "2 x TensorRT 11.1.0.106 fp16 on NVIDIA H100 80GB HBM3 (9.0)"
        bodies = [as_png(noise(seed)) for seed in range(8)]
        posts = [client.post("/predict", content=body, headers=PNG_HEADERS) for body in bodies]
        assert {reply.status_code for reply in await asyncio.gather(*posts)} == {200}
    assert tensorrt.cuda.held() == []


# What it refuses


@pytest.mark.parametrize(
    ("count", "canvas", "words"),
    [
        pytest.param(1, (128, 128), "128x256, 256x128, 256x256, not of 128x128", id="canvas"),
        pytest.param(4, CANVASES[0], "batches of 1 to 3, not of 4", id="batch"),
    ],
)
def test_what_the_plan_does_not_take(engine: TensorRtEngine, count: int, canvas: tuple[int, int], words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        engine.infer(*batch(0, count, canvas))
    engine.infer(*batch(0, 1, CANVASES[0]))


def test_a_failure_ends_one_batch(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    tensorrt.refuses = True
    with pytest.raises(EngineFailed, match=r"TensorRT could not run the batch: the context is not ready\.$"):
        engine.infer(*batch(0, 1, CANVASES[0]))
    tensorrt.refuses = False
    tensorrt.cuda.failures["cudaMemcpyAsync"] = fake_cuda.cudaError_t.cudaErrorInvalidValue
    with pytest.raises(EngineFailed, match=r"cudaMemcpyAsync.*cudaErrorInvalidValue"):
        engine.infer(*batch(0, 1, CANVASES[1]))
    assert len(engine.infer(*batch(0, 1, CANVASES[0])).detections) == 1


def test_a_profile_that_cannot_be_chosen(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    tensorrt.refuses_profiles = True
    with pytest.raises(EngineFailed, match="cannot prepare a canvas"):
        engine.infer(*batch(0, 1, CANVASES[0]))
    tensorrt.refuses_profiles = False
    assert len(engine.infer(*batch(0, 1, CANVASES[0])).detections) == 1


# A lost device


def test_a_lost_device_is_not_asked_again(engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt) -> None:
    engine.infer(*batch(0, 2, CANVASES[0]))
    tensorrt.cuda.sticky = ILLEGAL_ADDRESS
    with pytest.raises(EngineLost, match=r"illegal memory access.*cudaErrorIllegalAddress.*started anew"):
        engine.infer(*batch(0, 2, CANVASES[0]))
    calls = tensorrt.cuda.calls.copy()
    with pytest.raises(EngineLost, match="illegal memory access"):
        engine.infer(*batch(0, 1, CANVASES[1]))
    assert tensorrt.cuda.calls == calls
    engine.close()


def test_tensorrts_failure_on_a_lost_device_is_told_as_such(
    engine: TensorRtEngine, tensorrt: fake_tensorrt.TensorRt
) -> None:
    engine.infer(*batch(0, 1, CANVASES[0]))
    tensorrt.refuses = True
    tensorrt.cuda.failures["cudaStreamSynchronize"] = ILLEGAL_ADDRESS
    with pytest.raises(EngineLost):
        engine.infer(*batch(0, 2, CANVASES[0]))


async def test_a_lost_device_fails_liveness(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> None:
    app = create_app(settings(engine="tensorrt", models=(str(plan_bundle.path),)))
    async with running(app) as client:
        assert (await client.get("/health/live")).status_code == 200
        tensorrt.cuda.sticky = ILLEGAL_ADDRESS
        parts = [("image", (str(i), as_png(noise(i)), "image/png")) for i in range(3)]
        assert (await client.post("/predict", files=parts)).status_code == 503
        for path in ("/health/live", "/health/ready"):
            reply = await client.get(path)
            assert reply.status_code == 503
            assert "cudaErrorIllegalAddress" in reply.json()["detail"]
