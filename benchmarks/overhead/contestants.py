"""Who is measured: how each is started, how a picture is sent to it, and where its answer has the detections."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead import load

OURS, BASELINE = "maskline serve", "FastAPI thread pool"
SAME_RUNTIME = "maskline, ONNX Runtime"
"""With the runtime of the peers, in place of the engine that it takes by itself."""
MAX_BATCH_SIZE = 8
BOUNDARY = "b0undary"


@dataclass(frozen=True)
class Contestant:
    """`command` starts it on a port; `ready` is a path that answers 200 once it serves."""

    name: str
    command: Callable[[int], list[str]]
    ready: str
    body: Callable[[bytes], tuple[bytes, str]]
    """A picture as the body that it takes, and its Content-Type."""
    document: Callable[[bytes], Any] = json.loads

    def request(self, port: int, picture: bytes) -> bytes:
        return load.request(f"http://127.0.0.1:{port}/predict", *self.body(picture))

    def detections(self, answer: bytes) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document(answer)["images"][0]["detections"]
        return found


def contestants(bundle: Path, peer_python: str) -> list[Contestant]:
    """The baseline first."""
    peers = "benchmarks.overhead.peers"
    ours = [sys.executable, "-m", "server", str(bundle), "--threads", "1", "--log-level", "warning"]
    bento = [peer_python, "-m", "bentoml", "serve", f"{peers}.bentoml_batches:Small"]
    return [
        Contestant(BASELINE, _with_port([peer_python, "-m", f"{peers}.fastapi_threads"]), "/health", _raw),
        *(
            Contestant(name, _with_port([*ours, "--engine", engine, "--port"]), "/health/ready", _raw)
            for name, engine in ((OURS, "auto"), (SAME_RUNTIME, "onnxruntime"))
        ),
        Contestant("LitServe", _with_port([peer_python, "-m", f"{peers}.litserve_batches"]), "/health", _form),
        Contestant(
            "BentoML",
            lambda port: [*bento, "--host", "127.0.0.1", "--port", str(port)],
            "/readyz",
            _base64,
            lambda answer: json.loads(json.loads(answer)[0]),
        ),
    ]


def disagreement(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    """What differs between two answers beyond rounding, else nothing."""
    if [one["class_id"] for one in expected] != [one["class_id"] for one in found]:
        return f"classes {[one['class_id'] for one in found]}, not {[one['class_id'] for one in expected]}"
    for wanted, got in zip(expected, found, strict=True):
        if max(abs(a - b) for a, b in zip(wanted["box"], got["box"], strict=True)) > 0.1:
            return f"the box {got['box']}, not {wanted['box']}"
        if wanted["mask"] is None or got["mask"] is None:
            return "no mask"
    return ""


def _with_port(command: Sequence[str]) -> Callable[[int], list[str]]:
    return lambda port: [*command, str(port)]


def _raw(picture: bytes) -> tuple[bytes, str]:
    return picture, "image/jpeg"


def _base64(picture: bytes) -> tuple[bytes, str]:
    return json.dumps({"images": [base64.b64encode(picture).decode()]}).encode(), "application/json"


def _form(picture: bytes) -> tuple[bytes, str]:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="request"; filename="p.jpg"\r\n\r\n'
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"
