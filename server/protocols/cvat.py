"""CVAT's automatic annotation: the call of a detector as CVAT makes it, and the list of them that it asks Nuclio for.

CVAT calls a detector with `{"image": base64, "threshold"?}` and takes shapes. A mask is the row-major pixels of its
box, then the box: left, top, right, bottom in whole pixels, right and bottom inclusive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from server.contract import rle
from server.contract.errors import BadParameter, PictureTooLarge
from server.contract.wire import Detection, Fraction, ImageResult, PredictBody, PredictOptions
from server.protocols import native
from server.protocols.documents import Document, described, json_response, read_document
from server.protocols.examples import CLASS, MODEL, PICTURE, VERSION
from server.protocols.json_body import picture_files
from server.protocols.native_openapi import query_parameters
from server.protocols.objects import counts_of, crop, outline, with_pixels
from server.protocols.prediction import admit, answered, models_of, settings_of

MAX_MASK_PIXELS: Final = 1 << 26
"""Of all boxes of a picture: CVAT wants each as a number, which makes an answer of 128 MiB."""
FUNCTION_NAME: Final = "X-Nuclio-Function-Name"

router = APIRouter(tags=["CVAT"])


class CvatCall(Document):
    """`image` is a picture file in base64. Without a threshold it is the model's own."""

    image: str
    threshold: Fraction | None = None


class CvatMask(BaseModel):
    """One object. `points` is the outline of its largest part, x and y by turns, for CVAT's polygons."""

    confidence: str
    label: str
    type: Literal["mask"]
    points: list[float]
    mask: Annotated[list[int], Field(description="pixels of the box row by row, then left, top, right, bottom")]


_CALL: Final[dict[str, Any]] = {"body": CvatCall, "example": {"image": PICTURE, "threshold": 0.5}}
_SHAPE: Final = {
    "confidence": "0.98",
    "label": CLASS,
    "type": "mask",
    "points": [3, 2, 5, 2, 5, 3, 4, 3, 4, 4, 3, 4],
    "mask": [1, 1, 1, 0, 3, 2, 4, 3],
}
_QUERY: Final = [one for one in query_parameters() if one["name"] not in ("mask", "score_threshold")]
_NAME: Final = {
    "name": FUNCTION_NAME,
    "in": "header",
    "required": True,
    "description": "Name of the model.",
    "schema": {"type": "string"},
    "example": MODEL,
}


@router.post("/cvat/", include_in_schema=False)
@router.post(
    "/cvat",
    response_model=list[CvatMask],
    openapi_extra=described([_SHAPE], **_CALL, parameters=_QUERY),
    summary="Masks of a picture, for CVAT",
)
async def detect(request: Request) -> Response:
    """The objects of a picture as CVAT takes them from a detector. Objects of whose mask no pixel is left are not
    among them."""
    return await _detected(request, native.options_of(request.query_params))


async def _detected(request: Request, options: PredictOptions) -> Response:
    admit(request, options)
    call = await read_document(request, CvatCall)
    wishes: dict[str, object] = {"mask": "rle_uncompressed"}
    if call.threshold is not None:
        wishes["score_threshold"] = call.threshold

    async def read_pictures() -> list[bytes]:
        remote = request.app.state.remote_pictures
        return await picture_files(PredictBody(image=call.image), settings_of(request), remote)

    found = await answered(request, options.model_copy(update=wishes), read_pictures)
    return await asyncio.to_thread(shapes, found.answer.images[0])


def shapes(image: ImageResult) -> Response:
    """Raises `PictureTooLarge`."""
    size_hw, pixels, written = (image.height, image.width), 0, []
    for found in with_pixels(image):
        counts = counts_of(found)
        _, _, w, h = rle.bbox(counts, size_hw)
        pixels += w * h
        if pixels > MAX_MASK_PIXELS:
            raise PictureTooLarge(
                f"The masks take more than {MAX_MASK_PIXELS} numbers as CVAT reads them; "
                "send a smaller picture or a higher threshold."
            )
        written.append(_shape(found, counts, size_hw))
    return json_response(written)


def _shape(found: Detection, counts: rle.Counts, size_hw: tuple[int, int]) -> dict[str, Any]:
    (x, y, w, h), mask = crop(counts, size_hw)
    return {
        "confidence": str(found.score),
        "label": found.class_name,
        "type": "mask",
        "points": outline(counts, size_hw).ravel(),
        "mask": np.append(mask.astype(np.int32), (x, y, x + w - 1, y + h - 1)),
    }


# What CVAT asks the Nuclio dashboard for


class NuclioFunction(BaseModel):
    """Of Nuclio's description of a function what CVAT reads."""

    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]


def _function(name: str, version: str, classes: Sequence[str]) -> dict[str, Any]:
    labels = [{"id": index, "name": label, "type": "mask"} for index, label in enumerate(classes) if index]
    annotations = {"name": name, "type": "detector", "spec": orjson.dumps(labels).decode()}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"description": f"{name} {version}, served by Maskline"},
        "status": {"state": "ready"},
    }


@router.get(
    "/api/functions",
    response_model=dict[str, NuclioFunction],
    openapi_extra=described({MODEL: _function(MODEL, VERSION, ["background", CLASS])}),
    summary="Models, as CVAT asks Nuclio for them",
)
async def functions(request: Request) -> Response:
    """Every model as a detector of CVAT, for a CVAT that is told that Maskline is its Nuclio."""
    names = sorted({model.card.name for model in models_of(request)})
    return json_response({name: _newest(request, name) for name in names})


@router.get(
    "/api/functions/{name}",
    response_model=NuclioFunction,
    openapi_extra=described(_function(MODEL, VERSION, ["background", CLASS])),
    summary="A model, as CVAT asks Nuclio for it",
)
async def function(request: Request, name: str) -> Response:
    """One model as a detector of CVAT."""
    return json_response(_newest(request, name))


@router.post(
    "/api/function_invocations",
    response_model=list[CvatMask],
    summary="Masks of a picture, as CVAT asks Nuclio for them",
    openapi_extra=described([_SHAPE], **_CALL, parameters=[_NAME]),
)
async def invoke(request: Request) -> Response:
    """The same as `/cvat`, of the model that the header names."""
    name = request.headers.get(FUNCTION_NAME)
    if not name:
        raise BadParameter(f"The header {FUNCTION_NAME} must name the model.")
    return await _detected(request, PredictOptions(model=name))


def _newest(request: Request, name: str) -> dict[str, Any]:
    card = models_of(request).versions_of(name)[0].card
    return _function(card.name, card.version, card.classes)
