"""What an inference request can have wrong: each gets a status and a sentence, under both names."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from server.protocols.open_inference.request import MAX_JSON_VALUES
from tests.server.protocols import triton
from tests.server.running import fake_server, png

PICTURE = png()
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server(max_body_mib=16, max_pictures=3, max_megapixels=0.01) as client:
        yield client


def refused(reply: httpx2.Response, status: int, *words: str) -> None:
    document = reply.json()
    assert reply.status_code == document["status"] == status, reply.text
    assert document["error"] == document["detail"]
    for word in words:
        assert word in document["error"]


def image(**values: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["YQ=="], **values}]}


def pixels(**values: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
    return {"inputs": [tensor | values]}


@pytest.mark.parametrize(
    ("document", "status", "word"),
    [
        pytest.param([], 400, "JSON", id="no object"),
        pytest.param({}, 400, "inputs", id="nothing"),
        pytest.param({"inputs": []}, 400, "inputs", id="no input"),
        pytest.param({"inputs": image()["inputs"] * 2}, 400, "'image' twice", id="twice"),
        pytest.param({"inputs": image()["inputs"] + pixels()["inputs"]}, 400, "one input", id="both"),
        pytest.param(image(name="input_1"), 400, "'image' or 'pixels'", id="name"),
        pytest.param(image(datatype="UINT8"), 400, "BYTES", id="datatype of image"),
        pytest.param(pixels(datatype="BYTES"), 400, "UINT8", id="datatype of pixels"),
        pytest.param(pixels(datatype="FP32"), 400, "datatype", id="other datatype"),
        pytest.param(image(shape=[0]), 400, "[n]", id="no pictures"),
        pytest.param(image(shape=[-1]), 400, "[n]", id="negative"),
        pytest.param(image(shape=[1, 1]), 400, "[n]", id="rank"),
        pytest.param(image(shape=[]), 400, "[n]", id="no shape"),
        pytest.param(image(shape=[1.5]), 400, "shape", id="half a picture"),
        pytest.param(image(shape=["1"]), 400, "shape", id="text as shape"),
        pytest.param(image(shape=[1] * 99), 400, "shape", id="99 dimensions"),
        pytest.param(image(shape=[4]), 413, "at most 3", id="too many pictures"),
        pytest.param(pixels(shape=[1, 1, 1, 4]), 400, "[n, h, w, 3]", id="four channels"),
        pytest.param(pixels(shape=[1, 0, 1, 3]), 400, "[n, h, w, 3]", id="no rows"),
        pytest.param(pixels(shape=[1, 2**62, 2**62, 3]), 400, "3 values", id="more than 64 bits of values"),
        pytest.param(pixels(data=[1, 2, 256]), 400, "0 to 255", id="256"),
        pytest.param(pixels(data=[1, 2, 0.5]), 400, "0 to 255", id="fraction"),
        pytest.param(pixels(data=["a", 1, 2]), 400, "0 to 255", id="text among numbers"),
        pytest.param(pixels(data=[[[[[1, 2, 3]]]]]), 400, "0 to 255", id="too deep"),
        pytest.param(pixels(data=[1, 2]), 400, "2 values", id="too few values"),
        pytest.param(pixels(data=None), 400, "neither data", id="no data"),
        pytest.param(pixels(shape=[1, 1, 10001, 3], data=[0] * 30003), 413, "pixels", id="too large"),
        pytest.param(image(data=["%%%"]), 400, "base64", id="no base64"),
        pytest.param(image(data=["YQ==", "YQ=="]), 400, "1 texts", id="more texts than pictures"),
        pytest.param(image(shape=[2], data=["YQ==", "%%%"]), 422, "Picture 1", id="second is no base64"),
        pytest.param(image(data=[1]), 400, "texts", id="number as picture"),
        pytest.param(image(data=[]), 400, "texts", id="empty data"),
        pytest.param(image(parameters={"binary_data_size": 4}), 400, "both", id="data twice"),
        pytest.param(image(data=None, parameters={"binary_data_size": 4}), 400, "0 bytes follow", id="no binary"),
        pytest.param(image() | {"outputs": [{"name": "masks"}]}, 400, "outputs", id="output"),
        pytest.param(image() | {"outputs": [{"name": "boxes"}] * 2}, 400, "more than once", id="output twice"),
        pytest.param(
            image() | {"outputs": [{"name": "boxes", "parameters": {"binary_data": 1}}]}, 400, "binary_data", id="1"
        ),
        pytest.param(
            image() | {"outputs": [{"name": "boxes", "parameters": {"shared_memory_region": "r"}}]},
            400,
            "no memory",
            id="shared memory for outputs",
        ),
        pytest.param(image() | {"parameters": {"scoer_threshold": 1}}, 400, "scoer_threshold", id="parameter"),
        pytest.param(image() | {"parameters": {"score_threshold": 2}}, 400, "score_threshold", id="threshold"),
        pytest.param(image() | {"parameters": {"score_threshold": [1]}}, 400, "neither a number", id="list"),
        pytest.param(image() | {"parameters": {"max_detections": True}}, 400, "max_detections", id="true as number"),
        pytest.param(image() | {"parameters": {"classes": "zebra"}}, 400, "zebra", id="class"),
        pytest.param(image() | {"parameters": {"priority": -1}}, 400, "priority", id="priority"),
        pytest.param(image() | {"parameters": {"timeout": "soon"}}, 400, "timeout", id="timeout"),
        pytest.param(image() | {"parameters": {"timeout": 10**400}}, 400, "timeout", id="timeout of 400 digits"),
        pytest.param(image() | {"parameters": {"timeout": 1e300}}, 400, "timeout", id="timeout without end"),
        pytest.param(image() | {"id": 7}, 400, "id", id="id"),
    ],
)
async def test_document(client: httpx2.AsyncClient, document: Any, status: int, word: str) -> None:
    refused(await client.post(triton.INFER, json=document), status, word)


@pytest.mark.parametrize(
    ("files", "binary", "word"),
    [
        pytest.param(2, triton.framed(PICTURE), "picture 1", id="one missing"),
        pytest.param(1, triton.framed(PICTURE) + b"more", "4 bytes more", id="more than said"),
        pytest.param(1, b"\xff\xff\xff\xffab", "4294967295 bytes", id="length beyond the end"),
        pytest.param(1, b"\x01", "before picture 0", id="no length"),
        pytest.param(1, b"", "before picture 0", id="nothing"),
    ],
)
async def test_binary_pictures(client: httpx2.AsyncClient, files: int, binary: bytes, word: str) -> None:
    document = image(shape=[files], data=None, parameters={"binary_data_size": len(binary)})
    header = json.dumps(document).encode()
    refused(await client.post(triton.INFER, content=header + binary, headers={LENGTH: str(len(header))}), 400, word)


@pytest.mark.parametrize(
    ("length", "word"),
    [
        ("7x", "number of bytes"),
        ("-1", "number of bytes"),
        ("9" * 30, "number of bytes"),
        ("10000", "has"),
        ("1", "JSON"),
    ],
)
async def test_header_length(client: httpx2.AsyncClient, length: str, word: str) -> None:
    refused(await client.post(triton.INFER, json=image(), headers={LENGTH: length}), 400, word)


async def test_binary_that_belongs_to_nothing(client: httpx2.AsyncClient) -> None:
    header = json.dumps(image()).encode()
    reply = await client.post(triton.INFER, content=header + b"ab", headers={LENGTH: str(len(header))})
    refused(reply, 400, "2 bytes", "no input")
    for size in (True, -1, 2.0, "2", None, [2]):
        document = image(data=None, parameters={"binary_data_size": size})
        header = json.dumps(document).encode()
        reply = await client.post(triton.INFER, content=header + b"ab", headers={LENGTH: str(len(header))})
        refused(reply, 400, "2 bytes")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        pytest.param(b"", 400, "JSON", id="empty"),
        pytest.param(b"\xff\xfe", 400, "JSON", id="no UTF-8"),
        pytest.param(b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "JSON", id="deep"),
        pytest.param(b"0," * (MAX_JSON_VALUES + 1), 413, "as binary", id="millions of values"),
        pytest.param(b'{"a": ' * 1001, 413, "1000 members", id="a thousand members"),
        pytest.param(b"[" * (MAX_JSON_VALUES + 1), 413, "as binary", id="millions of lists"),
    ],
)
async def test_body(client: httpx2.AsyncClient, body: bytes, status: int, word: str) -> None:
    refused(await client.post(triton.INFER, content=body), status, word)


@pytest.mark.parametrize(
    ("body", "encoding", "status", "word"),
    [
        pytest.param(gzip.compress(b"0" * (16 << 20) + b"0"), "gzip", 413, "16777216 bytes", id="bomb"),
        pytest.param(zlib.compress(b"{}")[:-1], "deflate", 400, "cut off", id="cut off"),
        pytest.param(gzip.compress(b"{}") + b"{}", "gzip", 400, "after the end", id="more after it"),
        pytest.param(gzip.compress(b"{}") * 100000, "gzip", 400, "after the end", id="again and again"),
        pytest.param(b"{}", "gzip", 400, "not in gzip", id="something else"),
        pytest.param(b"", "gzip", 400, "cut off", id="empty"),
        pytest.param(b"{}", "br", 415, "gzip or deflate", id="another encoding"),
    ],
)
async def test_compressed_body(client: httpx2.AsyncClient, body: bytes, encoding: str, status: int, word: str) -> None:
    reply = await client.post(triton.INFER, content=body, headers={"Content-Encoding": encoding})
    refused(reply, status, word)


async def test_what_comes_out_of_compressed_bodies_counts_in_the_memory_for_bodies() -> None:
    async with fake_server(max_body_mib=64, max_bodies_mib=8) as client:
        body = gzip.compress(b" " * (16 << 20))
        refused(await client.post(triton.INFER, content=body, headers={"Content-Encoding": "gzip"}), 429, "bodies")
        assert client._transport.app.state.bodies.held == 0  # type: ignore[attr-defined]


async def test_bad_pictures_are_named(client: httpx2.AsyncClient) -> None:
    for document, files, status, word in (
        (triton.TWO_PICTURES, (PICTURE, b"no"), 422, "Picture 1"),
        (triton.TWO_PICTURES, (b"no", PICTURE), 422, "Picture 0"),
        (triton.TWO_PICTURES.replace("[2]", "[1]"), (b"no",), 400, "not a picture"),
        (triton.CLASSIFICATION, (PICTURE, PICTURE), 400, "classification"),
    ):
        body, headers = triton.with_binary(document, *files)
        refused(await client.post(triton.INFER, content=body, headers=headers), status, word)
    refused(await client.post(triton.INFER, content=triton.SHARED_MEMORY), 400, "shares no memory")
    refused(await client.post(triton.INFER, content=b"no", headers={LENGTH: "0"}), 400, "not a picture")


async def test_models_and_paths_that_are_not_there(client: httpx2.AsyncClient) -> None:
    for path in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/stats"):
        refused(await client.get(f"/v2/models/other{path}"), 404, "'other'")
    refused(await client.get("/v2/models/fake/versions/2"), 404, "'2'", "Loaded: 1")
    refused(await client.post("/v2/models/other/infer", json=image()), 404, "'other'")
    refused(await client.post("/v2/models/fake/versions/7/infer", json=image()), 404, "'7'")
    refused(await client.get("/v2/systemsharedmemory/status"), 404, "/docs")
    refused(await client.get(triton.INFER), 405, "GET")
    refused(await client.post("/v2/repository/index", content=b"["), 400, "JSON")
