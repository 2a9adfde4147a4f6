"""What the OpenAPI document says of `/predict`, whose query and body are read there, not by the framework."""

from __future__ import annotations

from typing import Any, Final

from server.contract.wire import PredictBody, PredictOptions
from server.protocols.examples import CLASS, MODEL, PICTURE, VERSION

PARAMETERS: Final[dict[str, tuple[str, Any]]] = {
    "model": ("Name of the model. Not needed where one model is loaded, or one is called `default`.", MODEL),
    "version": ("Version of the model; without it the newest.", VERSION),
    "score_threshold": (
        "Least score of an object. Without it the model's own default; what the model itself drops is not there.",
        0.5,
    ),
    "max_detections": ("Most objects of a picture, the best first. The model's own limit holds too.", 100),
    "classes": ("Classes that are wanted, by name or id, separated by commas.", CLASS),
    "mask": (
        "Form of the masks: COCO's compressed run lengths (`rle`), the lengths as numbers (`rle_uncompressed`), "
        "a GeoJSON geometry along the edges of the pixels (`polygon`), a 1-bit PNG in base64 (`png`), or none.",
        "rle",
    ),
    "timeout_ms": ("Milliseconds after which the answer is of no use; without it the server's own limit.", 20000),
    "priority": ("With `low` a request waits while any of normal priority do.", "normal"),
    "tile": (
        "Side, in pixels of the picture, of the tiles that a large picture is cut into; objects are found once.",
        1024,
    ),
    "overlap": ("Pixels that neighbouring tiles share: as wide as an object, or wider. Needs `tile`.", 128),
}
"""Description and example of each option."""


def query_parameters() -> list[dict[str, Any]]:
    """The options as parameters of a query, where none is null and a list is a text."""
    schemas = PredictOptions.model_json_schema()["properties"] | {"classes": {"type": "string"}}
    return [_parameter(name, without_null(schema)) for name, schema in schemas.items()]


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    description, example = PARAMETERS[name]
    return {"name": name, "in": "query", "description": description, "schema": schema, "example": example}


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query holds no null."""
    forms = [form for form in schema.get("anyOf", [schema]) if form.get("type") != "null"]
    return {name: value for name, value in forms[0].items() if name not in ("title", "default")} | (
        {"default": schema["default"]} if schema.get("default") is not None else {}
    )


_BINARY: Final = {"type": "string", "format": "binary"}
_FORM: Final = {"type": "object", "required": ["image"], "properties": {"image": {"type": "array", "items": _BINARY}}}
_BODIES: Final = {
    "one picture": {"value": {"image": PICTURE}},
    "several pictures": {"value": {"images": [PICTURE, PICTURE]}},
}
ANSWER: Final = {
    "model": {"name": MODEL, "version": VERSION},
    "request_id": "4f1f0c5e8b0a4f0c9a3f6f4f3d2a1b0c",
    "images": [
        {
            "width": 32,
            "height": 24,
            "detections": [
                {
                    "box": [6.0, 5.0, 27.0, 20.0],
                    "class_id": 1,
                    "class_name": CLASS,
                    "score": 0.98,
                    "area": 263,
                    "mask": {"size": [24, 32], "counts": "i47`02N2O0O2O0O2O0000000000000001N101N101N2N`3"},
                }
            ],
        }
    ],
    "timings_ms": {"decode": 0.4, "queue": 0.1, "inference": 31.2, "postprocess": 0.6, "total": 32.9},
    "batch_size": 1,
}
OPENAPI: Final[dict[str, Any]] = {
    "parameters": query_parameters(),
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": PredictBody.model_json_schema(), "examples": _BODIES},
        },
    },
    "responses": {
        "200": {
            "description": "The objects of each picture. With `Accept: image/png` the picture with them drawn on it.",
            "content": {"application/json": {"example": ANSWER}, "image/png": {"schema": _BINARY}},
        }
    },
}
