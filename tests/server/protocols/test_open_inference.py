"""The Open Inference Protocol, with requests that Triton's client made."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from server.engines.fake import FakeEngine
from server.models import Models
from tests.server.protocols import triton
from tests.server.running import PNG_HEADERS, as_png, fake_server, noise, png, server_with, settings, write_bundle

FILES = as_png(noise(1)), png(size=(31, 17))


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server() as client:
        yield client


async def infer(client: httpx2.AsyncClient, document: str, *files: bytes, **headers: str) -> httpx2.Response:
    body, length = triton.with_binary(document, *files)
    return await client.post(triton.INFER, content=body, headers={**length, **headers})


async def predicted(client: httpx2.AsyncClient, file: bytes) -> dict[str, Any]:
    reply = await client.post("/predict", content=file, headers=PNG_HEADERS)
    image: dict[str, Any] = reply.json()["images"][0]
    return image


def check(tensors: dict[str, Any], index: int, image: dict[str, Any]) -> None:
    (found,) = image["detections"]
    assert tensors["num_detections"][index] == 1
    np.testing.assert_array_equal(tensors["boxes"][index, 0], np.float32(found["box"]))
    assert tensors["scores"][index, 0] == np.float32(found["score"])
    assert tensors["class_ids"][index, 0] == found["class_id"]
    assert tensors["rle_counts"][index, 0] == found["mask"]["counts"].encode()
    assert tensors["sizes"][index].tolist() == found["mask"]["size"] == [image["height"], image["width"]]


async def test_pictures_get_what_predict_answers(client: httpx2.AsyncClient) -> None:
    reply = await infer(client, triton.TWO_PICTURES, *FILES)
    tensors = triton.read(reply)
    header = json.loads(reply.content[: int(reply.headers["Inference-Header-Content-Length"])])
    assert (header["id"], header["model_name"], header["model_version"]) == ("mine", "fake", "1")
    assert reply.headers["Content-Type"] == "application/octet-stream"
    for index, file in enumerate(FILES):
        check(tensors, index, await predicted(client, file))


async def test_fewer_detections_than_the_others_are_padded(client: httpx2.AsyncClient) -> None:
    tensors = triton.read(await infer(client, triton.TWO_PICTURES, png((0, 0, 0)), FILES[0]))
    assert tensors["num_detections"].tolist() == [0, 1]
    assert tensors["boxes"].shape == (2, 1, 4)
    assert not tensors["boxes"][0].any()
    assert tensors["rle_counts"][0].tolist() == [b""]
    none = triton.read(await infer(client, triton.TWO_PICTURES, png((0, 0, 0)), png((0, 0, 0))))
    assert none["boxes"].shape == (2, 0, 4)
    assert none["rle_counts"].shape == (2, 0)


async def test_outputs_and_parameters_that_were_asked_for(client: httpx2.AsyncClient) -> None:
    reply = await infer(client, triton.WITH_OUTPUTS, *FILES)
    tensors = triton.read(reply)
    assert list(tensors) == ["scores", "boxes"]
    assert "id" not in json.loads(reply.content[: int(reply.headers["Inference-Header-Content-Length"])])
    for index, file in enumerate(FILES):
        (found,) = (await predicted(client, file))["detections"]
        wanted = found["score"] if found["class_name"] == "something" else 0
        assert tensors["scores"][index, 0] == np.float32(wanted)


async def test_pixels_as_json_and_in_gzip(client: httpx2.AsyncClient) -> None:
    image = await predicted(client, as_png(triton.PIXELS[0]))
    reply = await client.post(triton.INFER, content=triton.PIXELS_AS_JSON)
    check(triton.read(reply), 0, image)
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "deflate", "Inference-Header-Content-Length": "145"}
    check(triton.read(await client.post(triton.INFER, content=triton.PIXELS_IN_GZIP, headers=headers)), 0, image)
    nested = json.loads(triton.PIXELS_AS_JSON)
    nested["inputs"][0]["data"] = triton.PIXELS.tolist()
    check(triton.read(await client.post(triton.INFER, json=nested)), 0, image)


async def test_picture_in_json_in_deflate(client: httpx2.AsyncClient) -> None:
    document = triton.PICTURE_AS_JSON.replace("BASE64", base64.b64encode(FILES[0]).decode())
    body = zlib.compress(document.encode())
    reply = await client.post(triton.INFER, content=body, headers={"Content-Encoding": "deflate"})
    assert reply.headers["Content-Type"] == "application/json"
    found = (await predicted(client, FILES[0]))["detections"][0]
    assert triton.read(reply)["rle_counts"].tolist() == [[found["mask"]["counts"]]]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_answers_are_compressed_when_that_is_asked(client: httpx2.AsyncClient, encoding: str) -> None:
    many = [FILES[0]] * 20
    document = triton.TWO_PICTURES.replace("[2]", "[20]")
    plain = await infer(client, document, *many, **{"Accept-Encoding": "identity"})
    small = await infer(client, document, *many, **{"Accept-Encoding": encoding})
    assert small.headers["Content-Encoding"] == encoding
    assert int(small.headers["Content-Length"]) < len(plain.content)
    assert small.content == plain.content  # the client undoes it
    assert triton.read(small)["num_detections"].tolist() == [1] * 20


async def test_only_what_was_inferred_is_compressed(client: httpx2.AsyncClient) -> None:
    """Triton's asyncio client accepts gzip always, and undoes it nowhere else."""
    for path in ("/v2/models/fake", "/v2/models/fake/config", f"/v2/models/{'x' * 1000}"):
        reply = await client.get(path, headers={"Accept-Encoding": "gzip, deflate"})
        assert len(reply.content) > 500
        assert "Content-Encoding" not in reply.headers
    refused = await client.post(f"/v2/models/{'x' * 1000}/infer", headers={"Accept-Encoding": "gzip, deflate"})
    assert len(refused.content) > 500
    assert "Content-Encoding" not in refused.headers


async def test_body_that_is_one_picture(client: httpx2.AsyncClient) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    reply = await client.post(triton.INFER, content=FILES[0], headers=headers)
    check(triton.read(reply), 0, await predicted(client, FILES[0]))


async def test_parameters_of_other_kinds_of_models_change_nothing(client: httpx2.AsyncClient) -> None:
    assert triton.read(await infer(client, triton.SEQUENCE, *FILES))["num_detections"].tolist() == [1, 1]


async def test_priority_and_timeout() -> None:
    async with fake_server(fake_batch_ms=300, max_batch_size=1) as client:
        slow = asyncio.create_task(client.post("/predict", content=FILES[0], headers=PNG_HEADERS))
        late = await infer(client, triton.WITH_OUTPUTS.replace("5000000", "900"), *FILES)
        in_time = await infer(client, triton.WITH_OUTPUTS.replace("5000000", str(2**63)), *FILES)
        assert in_time.status_code == 200
        assert late.status_code in (429, 504)
        assert late.json()["error"] == late.json()["detail"]
        assert (await slow).status_code == 200


async def test_descriptions(client: httpx2.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server["name"] == "maskline"
    assert {"binary_tensor_data", "model_repository", "schedule_policy", "statistics"} <= set(server["extensions"])
    metadata = (await client.get("/v2/models/fake")).json()
    assert metadata == (await client.get("/v2/models/fake/versions/1")).json()
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
    ]
    config = (await client.get("/v2/models/fake/config")).json()
    assert config["max_batch_size"] == 0  # perf_analyzer takes shapes as they are then, and leaves out what is optional
    assert all(tensor["optional"] for tensor in config["input"])
    assert [tensor["name"] for tensor in config["output"]] == [tensor["name"] for tensor in metadata["outputs"]]
    assert json.loads(config["parameters"]["classes"]["string_value"])[1] == "something"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/fake/ready", "/v2/models/fake/versions/1/ready"):
        assert (await client.get(path)).status_code == 200


async def test_statistics(client: httpx2.AsyncClient) -> None:
    await infer(client, triton.TWO_PICTURES, *FILES)
    await predicted(client, FILES[0])
    await infer(client, triton.TWO_PICTURES, b"no", b"pictures")
    (model,) = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert model == (await client.get("/v2/models/fake/stats")).json()["model_stats"][0]
    stats = model["inference_stats"]
    assert (model["name"], model["version"], model["inference_count"]) == ("fake", "1", 3)
    assert {name: stats[name]["count"] for name in ("success", "fail", "cache_hit", "cache_miss")} == {
        "success": 2,
        "fail": 1,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    stages = [stats[name] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert all(stage["count"] == 2 and 0 < stage["ns"] < stats["success"]["ns"] for stage in stages)
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in model["batch_stats"]) == 3
    assert sum(batch["compute_infer"]["count"] for batch in model["batch_stats"]) == model["execution_count"]
    assert model["last_inference"] > 1.7e12


async def test_repository(tmp_path: Path) -> None:
    write_bundle(tmp_path / "tiny", b"no graph: the fake engine runs it", name="tiny")
    key = {"Authorization": "Bearer K"}
    async with fake_server(models=(str(tmp_path),), admin_key="K") as client:
        index = "/v2/repository/index"
        ready = [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
        assert (await client.post(index, content=triton.INDEX)).json() == ready
        assert (await client.post(index, json={"ready": True})).json() == ready
        load, unload = (f"/v2/repository/models/tiny/{verb}" for verb in ("load", "unload"))
        assert (await client.post(load, content=triton.LOAD)).status_code == 403
        refused = await client.post(load, content=triton.LOAD_CONFIG, headers=key)
        assert (refused.status_code, "bundle" in refused.json()["error"]) == (400, True)
        assert (await client.post(unload, content=triton.UNLOAD, headers=key)).status_code == 200
        assert (await client.post(index)).json() == []
        assert (await client.get("/v2/models/tiny/ready")).status_code == 404
        assert (await client.post(load, content=triton.LOAD, headers=key)).status_code == 200
        assert (await client.post(index)).json() == ready


async def test_model_that_warms_up() -> None:
    models = Models.of(settings(), [FakeEngine()])
    async with server_with(models) as client:
        (model,) = models
        model.ready = False
        for path in ("/v2/health/ready", "/v2/models/fake/ready"):
            reply = await client.get(path)
            assert (reply.status_code, "warming up" in reply.json()["error"]) == (503, True)
        (entry,) = (await client.post("/v2/repository/index")).json()
        assert entry["state"] == "LOADING"
        assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
        assert (await client.get("/v2/health/live")).status_code == 200


async def test_probes_need_no_key_and_what_is_refused_at_the_door_has_the_sentence_too() -> None:
    async with fake_server(api_keys=("k",)) as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
        reply = await client.get("/v2/models/fake")
        assert (reply.status_code, reply.json()["error"]) == (401, reply.json()["detail"])
    async with fake_server(root_path="/prefix") as client:
        assert "error" in (await client.get("/prefix/v2/models/other")).json()
        assert "error" not in (await client.get("/prefix/models/other")).json()
