"""Triton's client for HTTP, as it comes: every call that a server of models can answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.http import aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.real_clients.conftest import ADMIN_KEY

MODEL = "demo"
OUTPUTS = ("num_detections", "boxes", "scores", "class_ids", "rle_counts", "sizes")


@pytest.fixture
def client(server_url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server_url.removeprefix("http://"), concurrency=4) as client:
        yield client


def image_input(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def predicted(server_url: str, file: bytes, **query: object) -> dict[str, list[object]]:
    """What `/predict` answers for the picture, by field."""
    reply = httpx2.post(f"{server_url}/predict", params=query, content=file, headers={"Content-Type": "image/png"})
    (image,) = reply.json()["images"]
    found = image["detections"]
    return {
        "sizes": [image["height"], image["width"]],
        "boxes": [one["box"] for one in found],
        "scores": [one["score"] for one in found],
        "class_ids": [one["class_id"] for one in found],
        "rle_counts": [one["mask"]["counts"].encode() for one in found],
    }


def check_picture(result: triton.InferResult, index: int, expected: dict[str, list[object]]) -> None:
    count = result.as_numpy("num_detections")[index]
    assert count == len(expected["scores"]) > 0
    assert result.as_numpy("sizes")[index].tolist() == expected["sizes"]
    for name in ("boxes", "scores", "class_ids", "rle_counts"):
        tensor: npt.NDArray[np.generic] = result.as_numpy(name)[index]
        np.testing.assert_array_equal(tensor[:count], np.array(expected[name], tensor.dtype), err_msg=name)
        assert not tensor[count:].any(), name


def test_server_and_model_are_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert server["name"] == "maskline"
    assert {"binary_tensor_data", "model_repository", "schedule_policy", "statistics"} <= set(server["extensions"])
    metadata = client.get_model_metadata(MODEL)
    assert metadata == client.get_model_metadata(MODEL, "1")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "pixels"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == list(OUTPUTS)
    config = client.get_model_config(MODEL)
    assert {tensor["data_type"] for tensor in config["input"]} == {"TYPE_STRING", "TYPE_UINT8"}
    assert json.loads(config["parameters"]["classes"]["string_value"]) == ["background", "nucleus"]
    assert client.get_model_repository_index() == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]


def test_several_pictures_get_what_predict_answers(
    client: triton.InferenceServerClient, server_url: str, pictures: list[Path]
) -> None:
    files = [path.read_bytes() for path in pictures[:3]]
    result = client.infer(MODEL, [image_input(*files)], request_id="mine")
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1"
    for index, file in enumerate(files):
        check_picture(result, index, predicted(server_url, file))


@pytest.mark.parametrize("binary", [True, False])
def test_pixels(client: triton.InferenceServerClient, server_url: str, pictures: list[Path], binary: bool) -> None:
    pixels = np.asarray(Image.open(pictures[0]).convert("RGB"))[None]
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    check_picture(client.infer(MODEL, [tensor]), 0, predicted(server_url, pictures[0].read_bytes()))


def test_json_tensors(client: triton.InferenceServerClient, server_url: str, pictures: list[Path]) -> None:
    file = pictures[0].read_bytes()
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([base64.b64encode(file)], dtype=object), binary_data=False)
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
    result = client.infer(MODEL, [tensor], outputs=outputs)
    count = result.as_numpy("num_detections")[0]
    expected = predicted(server_url, file)
    np.testing.assert_array_equal(result.as_numpy("boxes")[0], np.array(expected["boxes"], np.float32))
    assert [text.encode() for text in result.as_numpy("rle_counts")[0]] == expected["rle_counts"]
    assert count == len(expected["scores"])


@pytest.mark.parametrize("there", [None, "gzip", "deflate"])
@pytest.mark.parametrize("back", [None, "gzip", "deflate"])
def test_compression(
    client: triton.InferenceServerClient, server_url: str, pictures: list[Path], there: str | None, back: str | None
) -> None:
    file = pictures[0].read_bytes()
    result = client.infer(
        MODEL, [image_input(file)], request_compression_algorithm=there, response_compression_algorithm=back
    )
    check_picture(result, 0, predicted(server_url, file))


def test_outputs_and_parameters(client: triton.InferenceServerClient, server_url: str, pictures: list[Path]) -> None:
    outputs = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("num_detections", binary_data=False)]
    file = pictures[0].read_bytes()
    result = client.infer(
        MODEL,
        [image_input(file)],
        outputs=outputs,
        priority=2,
        timeout=10_000_000,
        parameters={"score_threshold": 0.8, "max_detections": 3, "classes": "nucleus"},
    )
    assert [tensor["name"] for tensor in result.get_response()["outputs"]] == ["scores", "num_detections"]
    expected = predicted(server_url, file, score_threshold=0.8, max_detections=3)["scores"]
    np.testing.assert_array_equal(result.as_numpy("scores")[0], np.array(expected, np.float32))
    assert result.as_numpy("num_detections").tolist() == [len(expected)]


def test_nothing_found(client: triton.InferenceServerClient, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    result = client.infer(MODEL, [image_input((tmp_path / "black.png").read_bytes())])
    assert result.as_numpy("num_detections").tolist() == [0]
    assert result.as_numpy("boxes").shape == (1, 0, 4)
    assert result.as_numpy("rle_counts").shape == (1, 0)
    assert result.as_numpy("sizes").tolist() == [[48, 64]]


def test_many_at_once(client: triton.InferenceServerClient, server_url: str, pictures: list[Path]) -> None:
    files = [path.read_bytes() for path in pictures[:4]]
    pending = [client.async_infer(MODEL, [image_input(file)]) for file in files]
    for file, one in zip(files, pending, strict=True):
        check_picture(one.get_result(), 0, predicted(server_url, file))


def test_asyncio_client(server_url: str, pictures: list[Path]) -> None:
    """It accepts compressed answers always, and undoes only those to inferences."""
    file = pictures[0].read_bytes()

    async def talk() -> None:
        async with triton_aio.InferenceServerClient(server_url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(MODEL))["name"] == MODEL
            assert (await client.get_model_config(MODEL))["name"] == MODEL
            assert (await client.get_inference_statistics(MODEL))["model_stats"][0]["name"] == MODEL
            assert (await client.get_model_repository_index())[0]["name"] == MODEL
            check_picture(await client.infer(MODEL, [image_input(file)]), 0, predicted(server_url, file))
            with pytest.raises(InferenceServerException, match="not a picture"):
                await client.infer(MODEL, [image_input(b"no picture")])
            with pytest.raises(InferenceServerException, match="There is no model"):
                await client.get_model_metadata("long-name-" * 50)

    asyncio.run(talk())


def refusal(call: object, *arguments: object, **options: object) -> tuple[str, str]:
    """Status and sentence."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return caught.value.status(), caught.value.message()


def test_refusals_say_what_is_wrong(client: triton.InferenceServerClient, pictures: list[Path]) -> None:
    good = pictures[0].read_bytes()
    status, sentence = refusal(client.infer, MODEL, [image_input(b"no picture")])
    assert (status, "not a picture" in sentence) == ("400", True)
    status, sentence = refusal(client.infer, MODEL, [image_input(good, b"no picture")])
    assert (status, "Picture 1" in sentence) == ("422", True)
    status, sentence = refusal(client.infer, "other", [image_input(good)])
    assert (status, "'other'" in sentence) == ("404", True)
    mask = [triton.InferRequestedOutput("masks")]
    status, sentence = refusal(client.infer, MODEL, [image_input(good)], outputs=mask)
    assert (status, "outputs" in sentence) == ("400", True)
    classes = [triton.InferRequestedOutput("scores", class_count=3)]
    status, sentence = refusal(client.infer, MODEL, [image_input(good)], outputs=classes)
    assert (status, "classification" in sentence) == ("400", True)
    shared = triton.InferInput("image", [1], "BYTES")
    shared.set_shared_memory("region", 100)
    status, sentence = refusal(client.infer, MODEL, [shared])
    assert (status, "shares no memory" in sentence) == ("400", True)
    status, sentence = refusal(client.register_system_shared_memory, "region", "/key", 100)
    assert (status, "/docs" in sentence) == ("404", True)


def test_statistics_count_what_was_asked(client: triton.InferenceServerClient, pictures: list[Path]) -> None:
    def counts() -> tuple[int, int, int, int]:
        (model,) = client.get_inference_statistics(MODEL)["model_stats"]
        stats = model["inference_stats"]
        for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
            assert stats[stage]["count"] == stats["success"]["count"]
            assert 0 < stats[stage]["ns"] <= stats["success"]["ns"]
        assert sum(batch["compute_infer"]["count"] for batch in model["batch_stats"]) == model["execution_count"]
        return stats["success"]["count"], stats["fail"]["count"], model["inference_count"], model["last_inference"]

    client.infer(MODEL, [image_input(pictures[0].read_bytes())])
    before = counts()
    client.infer(MODEL, [image_input(*(path.read_bytes() for path in pictures[:3]))])
    refusal(client.infer, MODEL, [image_input(b"no picture")])
    after = counts()
    assert [b - a for a, b in zip(before[:3], after[:3], strict=True)] == [1, 1, 3]
    assert after[3] >= before[3]
    assert client.get_inference_statistics()["model_stats"][0]["name"] == MODEL


def test_load_and_unload(client: triton.InferenceServerClient) -> None:
    assert refusal(client.load_model, MODEL)[0] == "403"
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    status, sentence = refusal(client.load_model, MODEL, headers=key, config="{}")
    assert (status, "bundle" in sentence) == ("400", True)
    client.unload_model(MODEL, headers=key)
    assert not client.is_model_ready(MODEL)
    assert client.get_model_repository_index() == []
    client.load_model(MODEL, headers=key)
    assert client.is_model_ready(MODEL)
