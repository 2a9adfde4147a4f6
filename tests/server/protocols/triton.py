"""Requests as Triton's client 2.73 wrote them (recorded, but for the pictures), and what it makes of answers."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx2
import numpy as np

INFER = "/v2/models/fake/infer"
TWO_PICTURES = (
    '{"id":"mine","inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":SIZE}}],'
    '"parameters":{"binary_data_output":true}}'
)
WITH_OUTPUTS = (
    '{"inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":SIZE}}],'
    '"outputs":[{"name":"scores","parameters":{"binary_data":true}},'
    '{"name":"boxes","parameters":{"binary_data":false}}],'
    '"parameters":{"priority":2,"timeout":5000000,"score_threshold":0.1,"classes":"something","max_detections":1}}'
)
SEQUENCE = (
    '{"inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":SIZE}}],'
    '"parameters":{"sequence_id":7,"sequence_start":true,"sequence_end":true,"binary_data_output":true}}'
)
CLASSIFICATION = (
    '{"inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":SIZE}}],'
    '"outputs":[{"name":"scores","parameters":{"classification":3,"binary_data":true}}]}'
)
SHARED_MEMORY = (
    b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"shared_memory_region":"region",'
    b'"shared_memory_byte_size":100}}],"parameters":{"binary_data_output":true}}'
)
PIXELS = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
PIXELS_AS_JSON = (
    b'{"inputs":[{"name":"pixels","shape":[1,2,2,3],"datatype":"UINT8","data":[0,1,2,3,4,5,6,7,8,9,10,11]}],'
    b'"parameters":{"binary_data_output":true}}'
)
PIXELS_IN_GZIP = base64.b64decode(
    "H4sIAI/cBmsC/6tWyswrKC0pVrKKrlbKS8xNVbJSKsisSM0pVtJRKs5ILAAKRBvqGAGhcayOUkpiSWJJJUhQKdTTL8QCqKggsQiorSS1CGhGtV"
    "JSZl5iUWU8SF18cWYVUKGhUW1tLD5l+aUlQBcoWZUUlabW1jIwMjGzsLKxc3BycQMAXIvG4Z0AAAA="
)
"""The same as binary, with Content-Encoding gzip and Inference-Header-Content-Length 145."""
PICTURE_AS_JSON = (
    '{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["BASE64"]}],'
    '"outputs":[{"name":"rle_counts","parameters":{"binary_data":false}}]}'
)
INDEX = b""
LOAD = b"{}"
LOAD_CONFIG = b'{"parameters":{"config":"{\\"a\\":1}"}}'
UNLOAD = b'{"parameters":{"unload_dependents":false}}'


def framed(*files: bytes) -> bytes:
    """Elements of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def with_binary(document: str, *files: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a recorded document, with other pictures behind it."""
    binary = framed(*files)
    header = document.replace("SIZE", str(len(binary))).encode()
    return header + binary, {"Inference-Header-Content-Length": str(len(header))}


def read(reply: httpx2.Response) -> dict[str, Any]:
    """Tensors of an answer by name; BYTES as nested lists."""
    assert reply.status_code == 200, reply.text
    length = int(reply.headers.get("Inference-Header-Content-Length", len(reply.content)))
    document, rest = json.loads(reply.content[:length]), reply.content[length:]
    tensors: dict[str, Any] = {}
    for output in document["outputs"]:
        if (size := output.get("parameters", {}).get("binary_data_size")) is None:
            content = np.array(output["data"], dtype=None if output["data"] else object)
        else:
            content, rest = _tensor(rest[:size], output["datatype"]), rest[size:]
        tensors[output["name"]] = content.reshape(output["shape"])
    assert not rest
    return tensors


def _tensor(content: bytes, datatype: str) -> Any:
    if datatype != "BYTES":
        return np.frombuffer(content, {"INT32": "<i4", "FP32": "<f4"}[datatype])
    texts = []
    while content:
        (size,) = struct.unpack("<I", content[:4])
        texts.append(content[4 : 4 + size])
        content = content[4 + size :]
    return np.array(texts, object)
