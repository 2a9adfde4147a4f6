"""Roboflow's instance segmentation, as `inference-sdk` calls an inference server, in both versions of its API.

v1 asks which models there are, then posts JSON to `/infer/instance_segmentation`; v0 posts one picture in base64 to
`/NAME/VERSION` below the address that it is given, here `/infer`. A model's id is its name, or its name and version.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from importlib.metadata import version as installed_version
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server import errors
from server.contract.errors import BadParameter
from server.contract.wire import Detection, ImageResult, MaskFormat, PredictBody, PredictOptions
from server.models import Models
from server.pictures.remote import is_address
from server.protocols.body import read_body
from server.protocols.documents import checked, described, json_response, query_of, read_document
from server.protocols.examples import CLASS, MODEL, PICTURE, VERSION
from server.protocols.json_body import picture_files
from server.protocols.native_openapi import query_parameters
from server.protocols.objects import counts_of, outline, through_pixels, with_pixels
from server.protocols.prediction import Answered, answered, models_of, settings_of
from server.protocols.roboflow_documents import (
    LegacyQuery,
    MaskForm,
    ModelRequest,
    Registry,
    RequestImage,
    Segmentation,
    SegmentationRequest,
    ServerInfo,
)
from server.settings import MIB

SERVER_ID: Final = str(uuid.uuid4())
OWN_PARAMETERS: Final = ("timeout_ms", "priority", "tile", "overlap")
"""Of `/predict`, which a query of v1 may have beside Roboflow's; v0 has an `overlap` of its own."""
DATA_URI: Final = re.compile(r"data:[^,]*,")
MASKS: Final[dict[MaskForm, MaskFormat]] = {"polygon": "rle_uncompressed", "rle": "rle"}

_SEGMENTATION: Final = {
    "inference_id": "4f1f0c5e8b0a4f0c9a3f6f4f3d2a1b0c",
    "time": 0.03,
    "image": {"width": 32, "height": 24},
    "predictions": [
        {
            "x": 16.5,
            "y": 12.5,
            "width": 21.0,
            "height": 15.0,
            "confidence": 0.98,
            "class": CLASS,
            "class_id": 1,
            "detection_id": "3b1f7a52-6f0e-4a4e-9d5f-0a7f4a2f2a53",
            "mask_format": "rle",
            "rle": {"size": [24, 32], "counts": "i47`02N2O0O2O0O2O0000000000000001N101N101N2N`3"},
        }
    ],
}
_QUERY: Final = [one for one in query_parameters() if one["name"] in OWN_PARAMETERS]
_REGISTRY: Final = {"models": [{"model_id": f"{MODEL}/{VERSION}", "task_type": "instance-segmentation"}]}
_INFO: Final = {"name": "Maskline", "version": "0.1.0", "uuid": "3b1f7a52-6f0e-4a4e-9d5f-0a7f4a2f2a53"}

router = APIRouter(tags=["Roboflow"])


@router.post(
    "/infer/instance_segmentation",
    response_model=Segmentation | list[Segmentation],
    summary="Objects of pictures, for Roboflow's clients",
    openapi_extra=described(
        _SEGMENTATION,
        body=SegmentationRequest,
        example={"image": {"type": "base64", "value": PICTURE}, "response_mask_format": "rle"},
        parameters=_QUERY,
    ),
)
async def segment(request: Request) -> Response:
    """One answer for a picture, a list for a list of pictures. Objects of whose mask no pixel is left are not in it."""
    call = await read_document(request, SegmentationRequest)
    if call.visualize_predictions:
        raise BadParameter("visualize_predictions: /predict draws the picture, with the header Accept: image/png.")
    several = isinstance(call.image, list)
    body = _body_of(call.image)
    found = await answered(request, _options(request, call), lambda: _files(request, body))
    segmentations = await _written(request, found, call.response_mask_format)
    return json_response(segmentations if several else segmentations[0])


@router.post(
    "/infer/{name}/{version}",
    response_model=Segmentation,
    summary="Objects of a picture, for Roboflow's older API",
    openapi_extra=described(
        _SEGMENTATION,
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": {"type": "string"}, "example": PICTURE}},
        },
        parameters=query_of(LegacyQuery),
    ),
)
async def segment_v0(request: Request, name: str, version: str) -> Response:
    """The body is the picture file in base64."""
    query = checked(LegacyQuery, dict(request.query_params))
    options = _legacy_options(query, name, version)

    async def read_pictures() -> list[bytes]:
        text = await read_body(request, settings_of(request).max_body_mib * MIB)
        return await _files(request, PredictBody(image=_without_prefix(text.decode("utf-8", "replace").strip('"'))))

    found = await answered(request, options, read_pictures)
    return json_response((await _written(request, found, query.response_mask_format))[0])


@router.get(
    "/model/registry",
    response_model=Registry,
    summary="Models, as Roboflow's clients ask for them",
    openapi_extra=described(_REGISTRY),
)
async def registry(request: Request) -> Response:
    """Every model by its name, which means its newest version, and by name and version."""
    return json_response(_registry(models_of(request)))


@router.post(
    "/model/add",
    response_model=Registry,
    summary="Models, as Roboflow's clients ask for one",
    openapi_extra=described(_REGISTRY, body=ModelRequest, example={"model_id": f"{MODEL}/{VERSION}"}),
)
async def add(request: Request) -> Response:
    """The same list, where it has the model; nothing is loaded that is not."""
    call = await read_document(request, ModelRequest)
    models_of(request).select(*_name_and_version(call.model_id))
    return json_response(_registry(models_of(request)))


@router.get(
    "/info",
    response_model=ServerInfo,
    summary="The server, as Roboflow's clients ask for it",
    openapi_extra=described(_INFO),
)
async def info() -> Response:
    """Name and version."""
    return json_response({"name": "Maskline", "version": installed_version("maskline"), "uuid": SERVER_ID})


def _options(request: Request, call: SegmentationRequest) -> PredictOptions:
    own = {name: value for name, value in request.query_params.items() if name in OWN_PARAMETERS}
    name, version = _name_and_version(call.model_id)
    return PredictOptions.from_query(own).model_copy(
        update={
            "model": name,
            "version": version,
            "score_threshold": call.confidence if isinstance(call.confidence, float) else None,
            "max_detections": call.max_detections,
            "classes": tuple(call.class_filter or ()) or None,
            "mask": MASKS[call.response_mask_format],
        }
    )


def _legacy_options(query: LegacyQuery, name: str, version: str) -> PredictOptions:
    confidence = query.confidence
    if confidence is not None and confidence >= 1:
        confidence /= 100
    return PredictOptions(
        model=name,
        version=version,
        score_threshold=confidence,
        max_detections=query.max_detections,
        classes=tuple(name for part in (query.classes or "").split(",") if (name := part.strip())) or None,
        mask=MASKS[query.response_mask_format],
    )


def _name_and_version(model_id: str | None) -> tuple[str | None, str | None]:
    name, _, version = (model_id or "").partition("/")
    return name or None, version or None


def _body_of(image: RequestImage | list[RequestImage]) -> PredictBody:
    if isinstance(image, list):
        return PredictBody(images=[_place(one) for one in image])
    return PredictBody(image=_place(image))


def _place(image: RequestImage) -> str:
    """The picture in base64, or its address."""
    if image.type == "url" and not is_address(image.value):
        raise BadParameter("image: a value of type url begins with http:// or https://.")
    return _without_prefix(image.value)


def _without_prefix(text: str) -> str:
    return DATA_URI.sub("", text, count=1) if text.startswith("data:") else text


async def _files(request: Request, body: PredictBody) -> list[bytes]:
    return await picture_files(body, settings_of(request), request.app.state.remote_pictures)


async def _written(request: Request, found: Answered, form: MaskForm) -> list[dict[str, Any]]:
    shared = {
        "inference_id": errors.request_id_of(request),
        "time": found.answer.timings_ms.total / 1e3,
    }
    return await asyncio.to_thread(lambda: [{**shared, **_segmentation(image, form)} for image in found.answer.images])


def _segmentation(image: ImageResult, form: MaskForm) -> dict[str, Any]:
    size_hw = (image.height, image.width)
    segments = [_segment(found, size_hw, form) for found in with_pixels(image)]
    return {"image": {"width": image.width, "height": image.height}, "predictions": segments}


def _segment(found: Detection, size_hw: tuple[int, int], form: MaskForm) -> dict[str, Any]:
    x1, y1, x2, y2 = found.box
    mask = {"rle": found.mask} if form == "rle" else {"points": _points(found, size_hw)}
    return {
        "x": (x1 + x2) / 2,
        "y": (y1 + y2) / 2,
        "width": round(x2 - x1, 4),
        "height": round(y2 - y1, 4),
        "confidence": found.score,
        "class": found.class_name,
        "class_id": found.class_id,
        "detection_id": str(uuid.uuid4()),
        "mask_format": form,
        **mask,
    }


def _points(found: Detection, size_hw: tuple[int, int]) -> list[dict[str, float]]:
    ring = through_pixels(outline(counts_of(found), size_hw))
    return [{"x": x, "y": y} for x, y in ring.astype(float).tolist()]


def _registry(models: Models) -> dict[str, Any]:
    refs = [model.ref for model in models]
    ids = [*{ref.name: None for ref in refs}, *(f"{ref.name}/{ref.version}" for ref in refs)]
    return {"models": [{"model_id": one, "task_type": "instance-segmentation"} for one in ids]}
