"""One picture in the form that each kind of server wants it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from clients.loadtest.__main__ import main
from clients.loadtest.adapters import Adapter, AdapterError, Request, adapter
from tests.clients.conftest import FakeServer, Reply

URL = "http://127.0.0.1:1/endpoint"


@pytest.fixture
def jpeg(tmp_path: Path) -> bytes:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (8, 8)).save(path)
    return path.read_bytes()


def made(text: str, picture: bytes) -> tuple[Adapter, Request]:
    chosen = adapter(text, URL)
    return chosen, chosen.request(picture)


def test_maskline_takes_the_bytes_below_its_address(jpeg: bytes):
    chosen, request = made("maskline", jpeg)
    assert (chosen.path, request.body) == ("/predict", jpeg)
    assert request.headers == {"Content-Type": "application/octet-stream"}


def test_raw_says_what_the_bytes_are(jpeg: bytes):
    chosen, request = made("raw", jpeg)
    assert (chosen.path, request.body) == ("", jpeg)
    assert request.headers == {"Content-Type": "image/jpeg"}
    assert made("raw", b"rubbish")[1].headers == {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(("text", "name"), [("multipart", "image"), ("multipart=file", "file")])
def test_multipart_is_a_form_with_a_file(jpeg: bytes, text: str, name: str):
    _, request = made(text, jpeg)
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + request.body).get_payload()
    assert part.get_param("name", header="content-disposition") == name
    assert part.get_filename()
    assert part.get_content_type() == "image/jpeg"
    assert part.get_payload(decode=True) == jpeg


@pytest.mark.parametrize(("text", "name"), [("json", "image"), ("json=input", "input")])
def test_json_is_base64(jpeg: bytes, text: str, name: str):
    _, request = made(text, jpeg)
    content = json.loads(request.body)
    assert content.keys() == {name}
    assert base64.b64decode(content[name]) == jpeg


@pytest.mark.parametrize("text", ["v3", "raw=image", "maskline=x", "v2", ""])
def test_others_are_refused(text: str):
    with pytest.raises(AdapterError, match="give maskline, raw, multipart"):
        adapter(text, URL)


class V2Server:
    """Tells of one model with these inputs, and remembers the last inference request."""

    def __init__(self, inputs: list[dict[str, Any]]) -> None:
        told = json.dumps({"name": "m", "inputs": inputs}).encode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/v2/models/m" else 404)
                self.end_headers()
                self.wfile.write(told)

            def do_POST(self) -> None:
                server.path = self.path
                server.head_bytes = int(self.headers["Inference-Header-Content-Length"])
                server.body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Tests need no access log."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def v2_server(request: pytest.FixtureRequest) -> Iterator[V2Server]:
    server = V2Server(request.param)
    thread = Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


TEXT = {"name": "image", "datatype": "BYTES", "shape": [-1]}
BATCHED_TEXT = {"name": "image", "datatype": "BYTES", "shape": [-1, 1]}
FILE = {"name": "jpeg", "datatype": "UINT8", "shape": [-1, -1]}
PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}


@pytest.mark.parametrize(
    ("v2_server", "name", "shape", "counted"),
    [
        pytest.param([TEXT, PIXELS], "image", [1], True, id="BYTES, or pixels"),
        pytest.param([BATCHED_TEXT], "image", [1, 1], True, id="BYTES in batches"),
        pytest.param([FILE], "jpeg", [1, 1800], False, id="bytes of a file, as DALI takes them"),
    ],
    indirect=["v2_server"],
)
def test_v2_sends_the_tensor_that_the_model_tells_of(
    v2_server: V2Server, picture: Path, name: str, shape: list[int], counted: bool
):
    options = ["--adapter", "v2=m", "--concurrency", "1", "--duration", "0.1"]
    assert main([v2_server.url, str(picture), *options, "--output", str(picture.parent / "r")]) == 0
    assert v2_server.path == "/v2/models/m/infer"
    head, data = json.loads(v2_server.body[: v2_server.head_bytes]), v2_server.body[v2_server.head_bytes :]
    encoded = picture.read_bytes()
    assert data == (struct.pack("<I", len(encoded)) + encoded if counted else encoded)
    (tensor,) = head["inputs"]
    assert (tensor["name"], tensor["shape"]) == (name, shape)
    assert tensor["parameters"] == {"binary_data_size": len(data)}
    assert head["parameters"] == {"binary_data_output": True}


@pytest.mark.parametrize("v2_server", [[PIXELS], []], indirect=True)
def test_v2_refuses_a_model_that_takes_no_file(v2_server: V2Server, picture: Path, capsys: pytest.CaptureFixture[str]):
    assert main([v2_server.url, str(picture), "--adapter", "v2=m", "--output", str(picture.parent / "r")]) == 2
    assert "takes no encoded picture" in capsys.readouterr().err
    with pytest.raises(AdapterError, match="404"):
        adapter("v2=other", v2_server.url)


def test_a_plain_endpoint_is_asked_at_its_own_address(server: FakeServer, picture: Path):
    server.script = lambda _: Reply(content={"boxes": []})
    options = ["--adapter", "multipart=file", "--concurrency", "2", "--duration", "0.2"]
    assert main([f"{server.url}/v1/detect", str(picture), *options, "--output", str(picture.parent / "r")]) == 0
    assert {asked.path for asked in server.asked} == {"/v1/detect"}
    report = json.loads((picture.parent / "r" / "report.json").read_text())
    assert report["adapter"] == "multipart"
    assert report["runs"][0]["answers"]["identical"] == report["runs"][0]["ok"] > 0
