"""The Open Inference Protocol, version 2, under `/v2`: what tritonclient and perf_analyzer ask for, and KServe."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.contract.errors import BadParameter, Draining, NotReady
from server.contract.wire import PredictOptions
from server.models import Model
from server.pictures.decode import Picture
from server.protocols.admin import check_admin_key
from server.protocols.body import read_body
from server.protocols.open_inference import description, openapi, schema
from server.protocols.open_inference.request import HEADER_LENGTH, parse, read_json
from server.protocols.open_inference.tensors import encode, tensors
from server.protocols.prediction import admit, answered, models_of, settings_of
from server.settings import MIB

MAX_SMALL_BODY = MIB

router = APIRouter(prefix="/v2", tags=["Open Inference"])


# Server


@router.get("", response_model=schema.ServerMetadata, openapi_extra=openapi.SERVER)
async def server_metadata() -> Response:
    """The server's name, version and extensions of the protocol."""
    extensions = list(description.EXTENSIONS)
    return JSONResponse({"name": "maskline", "version": version_of("maskline"), "extensions": extensions})


@router.get("/health/live", response_model=schema.ServerLive, openapi_extra=openapi.LIVE)
async def live(request: Request) -> Response:
    """503 when the server cannot recover by itself and should be started anew."""
    if failure := models_of(request).failure:
        raise NotReady(failure)
    return JSONResponse({"live": True})


@router.get("/health/ready", response_model=schema.ServerReady, openapi_extra=openapi.READY)
async def ready(request: Request) -> Response:
    """503 while a model warms up or its engine is started anew, and while the server stops."""
    if request.app.state.lifecycle.draining:
        raise Draining("The server is stopping.")
    if not models_of(request).ready:
        raise NotReady(models_of(request).reason)
    return JSONResponse({"ready": True})


# Models


@router.get("/models/stats", response_model=schema.AllStatistics, openapi_extra=openapi.STATISTICS)
async def all_statistics(request: Request) -> Response:
    """What every model has answered, through whichever protocol, and how long each stage took."""
    return JSONResponse(_statistics(request, list(models_of(request))))


@router.get("/models/{model}", response_model=schema.ModelMetadata, openapi_extra=openapi.METADATA)
@router.get("/models/{model}/versions/{version}", response_model=schema.ModelMetadata, openapi_extra=openapi.METADATA)
async def model_metadata(request: Request, model: str) -> Response:
    """The tensors that a model takes and gives."""
    found, version = _found(request, model), _version(request)
    versions = [found] if version else models_of(request).versions_of(model)
    return JSONResponse(description.metadata(found, [one.card.version for one in versions]))


@router.get("/models/{model}/ready", response_model=schema.ModelReady, openapi_extra=openapi.MODEL_READY)
@router.get(
    "/models/{model}/versions/{version}/ready", response_model=schema.ModelReady, openapi_extra=openapi.MODEL_READY
)
async def model_ready(request: Request, model: str) -> Response:
    """503 while the model warms up or its engine is started anew."""
    found = _found(request, model)
    if found.state != "ready":
        raise NotReady(found.reason or f"The model {model!r} is warming up.")
    return JSONResponse({"name": model, "ready": True})


@router.get("/models/{model}/config", response_model=schema.ModelConfig, openapi_extra=openapi.CONFIG)
@router.get(
    "/models/{model}/versions/{version}/config", response_model=schema.ModelConfig, openapi_extra=openapi.CONFIG
)
async def model_config(request: Request, model: str) -> Response:
    """Triton's model configuration, as far as it says something of this model."""
    return JSONResponse(description.config(_found(request, model)))


@router.get("/models/{model}/stats", response_model=schema.AllStatistics, openapi_extra=openapi.STATISTICS)
@router.get(
    "/models/{model}/versions/{version}/stats", response_model=schema.AllStatistics, openapi_extra=openapi.STATISTICS
)
async def model_statistics(request: Request, model: str) -> Response:
    """What the model has answered, through whichever protocol, and how long each stage took."""
    if _version(request):
        return JSONResponse(_statistics(request, [_found(request, model)]))
    return JSONResponse(_statistics(request, models_of(request).versions_of(model)))


@router.post("/models/{model}/infer", response_model=schema.InferResponse, openapi_extra=openapi.INFER)
@router.post(
    "/models/{model}/versions/{version}/infer", response_model=schema.InferResponse, openapi_extra=openapi.INFER
)
async def infer(request: Request, model: str) -> Response:
    """The objects of pictures, as tensors."""
    version, settings = _version(request), settings_of(request)
    admit(request, PredictOptions(model=model, version=version))
    body = await read_body(request, settings.max_body_mib * MIB, inflate=True)
    length = request.headers.get(HEADER_LENGTH)
    asked = await asyncio.to_thread(parse, body, length, model, version, settings.max_pictures)

    async def read_pictures() -> Sequence[bytes | Picture]:
        return asked.pictures

    found = await answered(request, asked.options, read_pictures)
    content, json_bytes = encode(tensors(found.answer.images), asked.outputs, found.model, asked.id)
    if not any(asked.outputs.values()):
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER_LENGTH: str(json_bytes)}, media_type="application/octet-stream")


# The model repository


@router.post("/repository/index", response_model=list[schema.IndexEntry], openapi_extra=openapi.INDEX)
async def repository_index(request: Request) -> Response:
    """The loaded models, and whether they are ready."""
    asked = read_json(await read_body(request, MAX_SMALL_BODY, inflate=True) or b"{}", schema.IndexRequest)
    models = [model for model in models_of(request) if model.state == "ready" or not asked.ready]
    return JSONResponse([description.index_entry(model) for model in models])


@router.post("/repository/models/{model}/load", response_class=Response, openapi_extra=openapi.LOAD)
async def load(request: Request, model: str) -> Response:
    """Reads the model's bundle again; the new one takes over once it is warm. Needs the admin key."""
    check_admin_key(request)
    asked = read_json(await read_body(request, MAX_SMALL_BODY, inflate=True) or b"{}", schema.LoadRequest)
    if asked.parameters:
        raise BadParameter("A model is loaded as its bundle says; build another bundle instead of sending parameters.")
    await models_of(request).load(model)
    return Response()


@router.post("/repository/models/{model}/unload", response_class=Response, openapi_extra=openapi.UNLOAD)
async def unload(request: Request, model: str) -> Response:
    """Takes no more work for the model; what it has accepted is answered. Needs the admin key."""
    check_admin_key(request)
    models_of(request).unload(model)
    return Response()


def _version(request: Request) -> str | None:
    """Of the path, where it has one."""
    return request.path_params.get("version")


def _found(request: Request, model: str) -> Model:
    return models_of(request).find(model, _version(request))


def _statistics(request: Request, models: Sequence[Model]) -> dict[str, Any]:
    counted = request.app.state.metrics.statistics
    return {"model_stats": [description.statistics(model, counted.of(model.ref)) for model in models]}
