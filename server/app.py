"""The HTTP service: routes, each a few lines, around the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from server import errors, openapi, pages, tracing
from server.body_budget import BodyBudget
from server.compression import Compression
from server.contract.errors import BadParameter, Draining, NotReady
from server.contract.wire import PredictResponse
from server.gateway import Gateway
from server.lifecycle import Lifecycle
from server.metrics import Metrics
from server.models import Model, Models, default_folder
from server.pictures.remote import RemotePictures
from server.protocols import cvat, label_studio, models_schema, native, roboflow
from server.protocols.admin import check_admin_key
from server.protocols.open_inference import routes as open_inference
from server.protocols.prediction import answered, models_of, settings_of
from server.settings import MIB, Settings
from server.tracing import Tracing
from server.watch import BundleWatch

CORS: Final[dict[str, Any]] = {
    "allow_methods": ("GET", "POST"),
    "allow_headers": ("Authorization", "X-API-Key", "X-Request-ID"),
    "expose_headers": ("Retry-After", "Server-Timing", "X-Request-ID"),
}
"""What pages of the origins that the settings name may send and see."""
METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Text, in OpenMetrics where that is accepted.",
        "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")},
    }
}


def create_app(
    settings: Settings | None = None, models: Models | None = None, traces: Tracing | None = None
) -> FastAPI:
    """The application. Without `models` it loads those that the settings name when it starts; without `traces` the
    environment says where they go.

    Raises:
        BundleError: (when the application starts) a bundle cannot be loaded.
    """
    settings = settings or Settings()
    metrics, lifecycle = Metrics(), Lifecycle()
    app = FastAPI(
        title="Maskline",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.models = models
    app.state.bodies = BodyBudget(settings.max_bodies_mib * MIB)
    app.state.remote_pictures = (
        RemotePictures(settings.max_picture_mib * MIB, settings.body_timeout_s, settings.url_hosts, app.state.bodies)
        if settings.url_inputs
        else None
    )
    app.state.label_studio_pictures = label_studio.remote_pictures(settings, app.state.bodies)
    app.state.metrics = metrics
    app.state.lifecycle = lifecycle
    app.state.tracing = traces or tracing.from_environment()
    errors.install(app)
    openapi.install(app)
    # In front of FastAPI's own route, which is for the schema: that one looks for parameters that are not there.
    app.router.routes.append(Route("/predict", predict, methods=["POST"]))
    app.include_router(router)
    for each in (open_inference, roboflow, label_studio, cvat, pages):
        app.include_router(each.router)
    app.add_middleware(Compression, compresslevel=1)
    app.add_middleware(
        Gateway,
        lifecycle=lifecycle,
        metrics=metrics,
        api_keys=(*settings.api_keys, settings.admin_key) if settings.api_keys else (),
        root_path=settings.root_path,
        tracing=app.state.tracing,
    )
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serves while the models warm up: probes tell how far that is."""
    state = app.state
    if state.models is None:
        state.models = await asyncio.to_thread(Models.open, state.settings)
    models: Models = state.models
    state.metrics.watch("requests_in_flight", "Requests not answered yet.", lambda: state.lifecycle.in_flight)
    state.metrics.watch_models(models)
    tasks = [asyncio.create_task(models.start()), *_watching(state.settings, models)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await models.close()
        if state.tracing is not None:
            await asyncio.to_thread(state.tracing.close)


def _watching(settings: Settings, models: Models) -> list[asyncio.Task[None]]:
    if not settings.watch_s:
        return []
    paths = settings.models or [default_folder()]
    return [asyncio.create_task(BundleWatch(models, paths, settings.watch_s).run())]


router = APIRouter()


# Prediction


@router.post("/predict", tags=["Prediction"], response_model=PredictResponse, openapi_extra=native.OPENAPI)
async def predict(request: Request) -> Response:
    """The objects of one picture or several: boxes, classes, scores and masks."""
    as_png = native.wants_png(request.headers.get("Accept", ""))
    options = native.options_of(request.query_params, as_png=as_png)

    async def read_pictures() -> list[bytes]:
        files = await native.read_pictures(request, settings_of(request))
        if as_png and len(files) > 1:
            raise BadParameter("An annotated picture is made of one picture; send one, or accept application/json.")
        return files

    found = await answered(request, options, read_pictures, keep_pictures=as_png)
    if as_png:
        return await native.png_answer(found.answer)
    return native.json_answer(found.answer, found.model, errors.request_id_of(request))


# Health, models, metrics


@router.get("/health/live", tags=["Health"], response_model=models_schema.Live)
async def live(request: Request) -> Response:
    """503 when the server cannot recover by itself and should be started anew."""
    failure = models_of(request).failure
    if failure:
        raise NotReady(failure)
    return JSONResponse({"status": "live"})


@router.get("/health/ready", tags=["Health"], response_model=models_schema.Ready)
async def ready(request: Request) -> Response:
    """503 while a model warms up or its engine is started anew, and while the server stops."""
    if request.app.state.lifecycle.draining:
        raise Draining("The server is stopping.")
    if not models_of(request).ready:
        raise NotReady(models_of(request).reason)
    return JSONResponse({"status": "ready"})


@router.get("/models", tags=["Models"], response_model=models_schema.DescribedModels)
async def list_models(request: Request) -> Response:
    """Every loaded model."""
    return JSONResponse({"models": [_described(model) for model in models_of(request)]})


@router.get("/models/{name}", tags=["Models"], response_model=models_schema.ModelWithCard)
async def show_model(request: Request, name: str) -> Response:
    """The newest version's card, and what it runs on."""
    versions = models_of(request).versions_of(name)
    card = versions[0].card.model_dump(mode="json")
    return JSONResponse({**_described(versions[0]), "versions": [v.card.version for v in versions], "card": card})


@router.post("/models/{name}/load", tags=["Models"], response_model=models_schema.DescribedModels)
async def load(request: Request, name: str) -> Response:
    """Reads the model's bundle again; the new one takes over once it is warm. Needs the admin key."""
    check_admin_key(request)
    await models_of(request).load(name)
    return JSONResponse({"models": [_described(model) for model in models_of(request).versions_of(name)]})


@router.post("/models/{name}/unload", tags=["Models"], response_model=models_schema.DescribedModels)
async def unload(request: Request, name: str) -> Response:
    """Takes no more work for the model; what it has accepted is answered. Needs the admin key."""
    check_admin_key(request)
    models_of(request).unload(name)
    return JSONResponse({"models": [_described(model) for model in models_of(request)]})


@router.get("/metrics", tags=["Health"], response_class=PlainTextResponse, responses=METRICS)
async def show_metrics(request: Request) -> Response:
    """For Prometheus."""
    text, content_type = request.app.state.metrics.render(request.headers.get("Accept", ""))
    return Response(text, headers={"Content-Type": content_type})


def _described(model: Model) -> dict[str, Any]:
    card = model.card
    return {
        "name": card.name,
        "version": card.version,
        "ready": model.state == "ready",
        "state": model.state,
        "engine": model.description,
        "engines": [
            {"engine": engine.description, "state": engine.state, "reason": engine.reason} for engine in model.engines
        ],
        "classes": card.classes,
        "max_detections": card.output.max_detections,
        "score_threshold": card.output.score_threshold,
        "default_score_threshold": card.output.default_score_threshold,
    }
