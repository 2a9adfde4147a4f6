"""Keys, names, forms, documents and headers: what a hostile or a careful client may send, and what answers carry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from pathlib import Path

import pytest

import server
from tests.server.running import PNG_HEADERS, fake_server, png

PICTURE = png()
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
JSON = {"Content-Type": "application/json"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n'


# Names and paths


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc",
        "..%5c..",
        "%00",
        "fake%00",
        "fake%0a",
        "%2e%2e",
        "~",
        "fake/",
        "a" * 10_000,
        "%ff%fe",
        "FAKE",
        "",
    ],
)
async def test_only_names_of_loaded_models_are_found(name: str) -> None:
    async with fake_server(admin_key="k") as client:
        for path in (f"/models/{name}", f"/models/{name}/load"):
            send = client.post if path.endswith("load") else client.get
            reply = await send(path, headers={"X-API-Key": "k"}, follow_redirects=False)
            assert reply.status_code in (404, 405, 307) or (name, path) == ("", "/models/")
        for query in (f"model={name}", f"model=fake&version={name}"):
            reply = await client.post(f"/predict?{query}", content=PICTURE, headers=PNG_HEADERS)
            assert reply.status_code == 404


async def test_a_query_of_thousands_of_names() -> None:
    async with fake_server() as client:
        query = "&".join(f"a{i}=" for i in range(8_000))
        reply = await asyncio.wait_for(client.post(f"/predict?{query}", content=PICTURE, headers=PNG_HEADERS), 5)
    assert reply.status_code == 400


def test_nothing_in_the_server_unpickles() -> None:
    sources = [path.read_text() for path in (Path(server.__file__).parent).rglob("*.py")]
    assert not [
        text for text in sources if re.search(r"\b(pickle|marshal|shelve|joblib|allow_pickle|eval|exec)\b\(?", text)
    ]


# Documents and forms


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b'{"images":' + b"[" * 100_000, 400, id="nested lists"),
        pytest.param(b'{"a":' * 100_000, 400, id="nested documents"),
        pytest.param(b'{"images":[' + b"1," * 1_000_000 + b"1]}", 413, id="a million numbers"),
        pytest.param(b'{"images":[' + b'"",' * 200 + b'""]}', 413, id="200 pictures"),
        pytest.param(b'{"images":[' + b"1," * 50 + b"1]}", 400, id="numbers"),
        pytest.param(b'{"image":' + b"9" * 100_000 + b"}", 400, id="a long number"),
        pytest.param(b'{"\\ud800":1}', 400, id="half a character"),
        pytest.param(b'{"image":"\xff"}', 400, id="not UTF-8"),
        pytest.param(b"\xff\xfe{\0}\0", 400, id="UTF-16"),
        pytest.param(b'{"image":NaN}', 400, id="NaN"),
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b'{"image":"","image":""}', 400, id="twice"),
    ],
)
async def test_odd_documents(body: bytes, status: int) -> None:
    async with fake_server() as client:
        reply = await asyncio.wait_for(client.post("/predict", content=body, headers=JSON), 10)
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(PART * 200 + b"--b--\r\n", 413, id="200 parts"),
        pytest.param(b"--b\r\n" + b"A: b\r\n" * 100_000 + b"\r\nx\r\n--b--\r\n", 400, id="100,000 headers"),
        pytest.param(b"--b\r\nA: " + b"b" * 1_000_000 + b"\r\n\r\nx\r\n--b--\r\n", 400, id="a long header"),
        pytest.param(
            b'--b\r\nContent-Disposition: form-data; name="\xff\xd8"\r\n\r\nx\r\n--b--\r\n', 400, id="odd name"
        ),
        pytest.param(PART + b"--b--\r\n" + b"after" * 1000, 400, id="more after the end"),
        pytest.param(b"\r\n" * 1_000_000, 400, id="empty lines"),
    ],
)
async def test_odd_forms(body: bytes, status: int) -> None:
    async with fake_server() as client:
        reply = await asyncio.wait_for(client.post("/predict", content=body, headers=FORM), 10)
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"]


async def test_a_boundary_may_not_be_endless() -> None:
    async with fake_server() as client:
        headers = {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}
        assert (await client.post("/predict", content=PART, headers=headers)).status_code == 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "gzip, gzip", "x"])
async def test_compressed_bodies_are_refused_unread(encoding: str) -> None:
    async with fake_server() as client:
        headers = {**PNG_HEADERS, "Content-Encoding": encoding}
        assert (await client.post("/predict", content=PICTURE, headers=headers)).status_code == 415


# Keys


async def test_keys_of_any_length_and_alphabet() -> None:
    async with fake_server(api_keys=("first", "zweiter-schlüssel"), admin_key="a") as client:
        for sent, status in (
            (b"first", 200),
            ("zweiter-schlüssel".encode(), 200),
            (b"a", 200),
            (b"", 401),
            (b"firs", 401),
            (b"first ", 200),  # HTTP strips it
            (b"firstx", 401),
            (b"\xff\xfe", 401),
            (b"x" * 8000, 401),
        ):
            reply = await client.get("/models", headers={b"Authorization": b"Bearer " + sent})
            assert reply.status_code == status, sent
        assert (await client.get("/health/live")).status_code == 200
        key = {"X-API-Key": "first"}
        assert (await client.post("/models/fake/unload", headers=key)).status_code == 403


# Headers of answers


async def test_every_answer_has_the_security_headers() -> None:
    async with fake_server(api_keys="k") as client:
        for path in ("/health/live", "/models", "/", "/nothing"):
            reply = await client.get(path)
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]


async def test_a_page_may_run_what_it_holds_and_nothing_else() -> None:
    async with fake_server() as client:
        reply = await client.get("/docs")
    policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    for element in ("script", "style"):
        found = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", reply.text, re.DOTALL)
        assert found
        for content in found:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[f"{element}-src"]
    assert not re.search(
        r"\son\w+=|\sstyle=|https?://", re.sub(r"<script>.*</script>", "", reply.text, flags=re.DOTALL)
    )


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/models", "/models/fake", "/metrics", "/", "/docs"])
async def test_head_answers_as_get_without_a_body(path: str) -> None:
    async with fake_server() as client:
        head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


async def test_head_of_what_takes_no_get() -> None:
    async with fake_server() as client:
        reply = await client.head("/predict")
    assert (reply.status_code, reply.content, reply.headers["Allow"]) == (405, b"", "POST")


@pytest.mark.parametrize(
    ("wanted", "coding"),
    [("gzip", "gzip"), ("gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("br, gzip; q=0.000", None), ("identity", None)],
)
async def test_gzip_only_for_who_takes_it(wanted: str, coding: str | None) -> None:
    async with fake_server() as client:
        reply = await client.get("/", headers={"Accept-Encoding": wanted})
    assert reply.headers.get("Content-Encoding") == coding
    assert "doctype" in reply.text


# Other origins


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


async def test_no_other_origin_by_default() -> None:
    async with fake_server() as client:
        for reply in (
            await client.options("/predict", headers={"Origin": "https://app.example", **PREFLIGHT}),
            await client.get("/models", headers={"Origin": "https://app.example"}),
        ):
            assert not [name for name in reply.headers if name.lower().startswith("access-control")]


async def test_an_origin_that_the_settings_name() -> None:
    async with fake_server(cors_origins="https://app.example", api_keys="k") as client:
        preflight = await client.options("/predict", headers={"Origin": "https://app.example", **PREFLIGHT})
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
        for key, status in (("k", 200), ("no", 401)):
            headers = {**PNG_HEADERS, "Origin": "https://app.example", "X-API-Key": key}
            reply = await client.post("/predict", content=PICTURE, headers=headers)
            assert reply.status_code == status
            assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example"
        other = await client.options("/predict", headers={"Origin": "https://evil.example", **PREFLIGHT})
        assert other.status_code == 400
        assert "Access-Control-Allow-Origin" not in other.headers
