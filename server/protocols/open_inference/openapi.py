"""What the OpenAPI document says of the protocol beyond its schemas: bodies, headers, examples."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from server.protocols.examples import CLASS, MODEL, PICTURE, VERSION
from server.protocols.open_inference.description import EXTENSIONS, PLATFORM, TYPES
from server.protocols.open_inference.request import HEADER_LENGTH
from server.protocols.open_inference.schema import IndexRequest, InferRequest, LoadRequest, UnloadRequest
from server.protocols.open_inference.tensors import INPUTS, OUTPUTS

JSON: Final = "application/json"
_BINARY: Final = {"type": "string", "format": "binary"}
_LENGTH: Final = {"type": "integer", "minimum": 0}
_DURATION: Final = {"count": 3, "ns": 92_000_000}
_NONE: Final = {"count": 0, "ns": 0}


def answer(example: Any) -> dict[str, Any]:
    """For a route's `openapi_extra`."""
    return {"responses": {"200": {"content": {JSON: {"example": example}}}}}


def _body(kind: type[BaseModel], required: bool, **examples: Any) -> dict[str, Any]:
    shown = {name.replace("_", " "): {"value": value} for name, value in examples.items()}
    return {"required": required, "content": {JSON: {"schema": kind.model_json_schema(), "examples": shown}}}


def _tensors(listed: dict[str, tuple[str, list[int]]], optional: bool) -> dict[str, list[dict[str, Any]]]:
    return {
        "metadata": [{"name": name, "datatype": type_, "shape": shape} for name, (type_, shape) in listed.items()],
        "config": [
            {"name": name, "data_type": TYPES[type_], "dims": shape, "optional": optional}
            for name, (type_, shape) in listed.items()
        ],
    }


_INPUTS, _OUTPUTS = _tensors(INPUTS, True), _tensors(OUTPUTS, False)
SERVER: Final = answer({"name": "maskline", "version": "0.1.0", "extensions": list(EXTENSIONS)})
LIVE: Final = answer({"live": True})
READY: Final = answer({"ready": True})
MODEL_READY: Final = answer({"name": MODEL, "ready": True})
METADATA: Final = answer(
    {
        "name": MODEL,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": _INPUTS["metadata"],
        "outputs": _OUTPUTS["metadata"],
    }
)
CONFIG: Final = answer(
    {
        "name": MODEL,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": _INPUTS["config"],
        "output": _OUTPUTS["config"],
        "model_transaction_policy": {"decoupled": False},
        "parameters": {"classes": {"string_value": f'["background","{CLASS}"]'}},
    }
)
STATISTICS: Final = answer(
    {
        "model_stats": [
            {
                "name": MODEL,
                "version": VERSION,
                "last_inference": 1_767_225_600_000,
                "inference_count": 4,
                "execution_count": 3,
                "inference_stats": dict.fromkeys(
                    ("success", "queue", "compute_input", "compute_infer", "compute_output"), _DURATION
                )
                | dict.fromkeys(("fail", "cache_hit", "cache_miss"), _NONE),
                "batch_stats": [
                    {"batch_size": 1, "compute_input": _NONE, "compute_infer": _DURATION, "compute_output": _NONE}
                ],
                "engine_stats": [
                    {
                        "engine": "TensorRT 11.1.0.106 fp16 on NVIDIA H100 80GB HBM3 (9.0)",
                        "state": "ready",
                        "reason": "",
                        "inference_count": 4,
                        "fail_count": 0,
                        "restart_count": 0,
                        "compute_infer": _DURATION,
                    }
                ],
            }
        ]
    }
)
INDEX: Final = {
    "requestBody": _body(IndexRequest, False, those_that_are_ready={"ready": True}),
    **answer([{"name": MODEL, "version": VERSION, "state": "READY", "reason": ""}]),
}
LOAD: Final = {"requestBody": _body(LoadRequest, False, nothing={})}
UNLOAD: Final = {
    "requestBody": _body(UnloadRequest, False, nothing={}, Triton={"parameters": {"unload_dependents": False}})
}

_IMAGE: Final = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [PICTURE]}
_PIXELS: Final = {"name": "pixels", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0, 90, 180, 255] * 3}
_REQUEST: Final = _body(
    InferRequest,
    True,
    a_picture_file={"id": "1", "inputs": [_IMAGE]},
    pixels={
        "inputs": [_PIXELS],
        "outputs": [{"name": "boxes"}, {"name": "scores"}],
        "parameters": {"score_threshold": 0.5, "max_detections": 10, "priority": 2, "timeout": 20_000_000},
    },
)
_ANSWERED: Final = {
    "model_name": MODEL,
    "model_version": VERSION,
    "id": "1",
    "outputs": [
        {"name": "num_detections", "datatype": "INT32", "shape": [1], "data": [1]},
        {"name": "boxes", "datatype": "FP32", "shape": [1, 1, 4], "data": [6.0, 5.0, 27.0, 20.0]},
        {
            "name": "rle_counts",
            "datatype": "BYTES",
            "shape": [1, 1],
            "data": ["i47`02N2O0O2O0O2O0000000000000001N101N101N2N`3"],
        },
    ],
}
INFER: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "description": "How many bytes of the body are JSON; binary tensors come after them. Without it all is "
            "JSON; with 0 the body is one picture file.",
            "schema": _LENGTH,
        }
    ],
    "requestBody": {
        **_REQUEST,
        "description": "JSON, and the tensors that are not in it behind it, little endian, in the order of the inputs; "
        "each element of BYTES after its length in 4 bytes. Whatever the Content-Type. In gzip or deflate too.",
        "content": {**_REQUEST["content"], "application/octet-stream": {"schema": _BINARY}},
    },
    "responses": {
        "200": {
            "description": "JSON, and behind it the tensors that were asked for as binary.",
            "headers": {
                HEADER_LENGTH: {"description": "How many bytes are JSON, where not all are.", "schema": _LENGTH}
            },
            "content": {JSON: {"example": _ANSWERED}, "application/octet-stream": {"schema": _BINARY}},
        }
    },
}
