"""The protocol of Label Studio's ML backends: health, setup, webhook and predict, as Label Studio calls them.

Label Studio joins these names to the address that it is given and drops a query: where several models are loaded, the
model is part of the path, `/label-studio/MODEL`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any, Final, Literal, cast
from urllib.parse import quote

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.body_budget import BodyBudget
from server.contract.errors import BadParameter, MasklineError, NotReady, UndecodablePicture
from server.contract.wire import ModelRef, PredictBody, PredictOptions
from server.pictures.remote import OwnServer, RemotePictures
from server.protocols import label_config, native
from server.protocols.documents import Document, described, json_response, read_document
from server.protocols.examples import CLASS, MODEL, PICTURE, VERSION
from server.protocols.json_body import picture_files
from server.protocols.label_config import LabelConfig
from server.protocols.label_regions import Prediction, prediction_of
from server.protocols.native_openapi import query_parameters
from server.protocols.prediction import admit, answered, models_of, settings_of
from server.settings import MIB, Settings

logger = logging.getLogger("server.label_studio")

PICTURE_PATHS: Final = ("/data/", "/storage-data/", "/tasks/")
CLOUD_STORAGE: Final = ("s3:", "gs:", "azure-blob:")
DATA_URI: Final = "data:"
AT_ONCE: Final = 16
"""Tasks of a request: enough to fill batches, and few enough that a slow server does not refuse the last of them."""

router = APIRouter(prefix="/label-studio", tags=["Label Studio"])


class Task(Document):
    """`data` is the task's; the label configuration says which of it is the picture."""

    id: int | str | None = None
    data: dict[str, Any]


class PredictCall(Document):
    tasks: list[Task]
    label_config: str


class Health(BaseModel):
    status: Literal["UP"] = "UP"
    model_class: str = "Maskline"


class Setup(BaseModel):
    model_version: str


class Heard(BaseModel):
    status: Literal["ok"] = "ok"


class Predictions(BaseModel):
    """One for each task, in their order; an empty list for a task that failed where others did not."""

    results: list[Prediction | list[Prediction]]


_CONFIG: Final = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    f'<Label value="Cell" predicted_values="{CLASS}"/></RectangleLabels></View>'
)
_REGION: Final = {
    "id": "0a7f4a2f2a",
    "type": "rectanglelabels",
    "from_name": "label",
    "to_name": "image",
    "original_width": 32,
    "original_height": 24,
    "image_rotation": 0,
    "value": {"x": 18.75, "y": 20.83333, "width": 65.625, "height": 62.5, "rotation": 0, "rectanglelabels": ["Cell"]},
    "score": 0.98,
    "readonly": False,
}
_PREDICTION: Final = {"result": [_REGION], "score": 0.98, "model_version": f"{MODEL}/{VERSION}"}
_HEALTH: Final = described(Health().model_dump())
_SETUP: Final = described({"model_version": f"{MODEL}/{VERSION}"})
_WEBHOOK: Final = described(Heard().model_dump(), status=201)
_PREDICT: Final = described(
    {"results": [_PREDICTION]},
    body=PredictCall,
    example={
        "tasks": [{"id": 1, "data": {"image": f"data:image/png;base64,{PICTURE}"}}],
        "label_config": _CONFIG,
    },
    parameters=[one for one in query_parameters() if one["name"] not in ("model", "mask")],
)


def remote_pictures(settings: Settings, memory: BodyBudget) -> RemotePictures | None:
    """Fetches pictures of tasks where the settings name Label Studio's own address."""
    if not settings.label_studio_url:
        return None
    key = settings.label_studio_key
    own = OwnServer(settings.label_studio_url, PICTURE_PATHS, f"Token {key}" if key else "")
    limits = (settings.max_picture_mib * MIB, settings.body_timeout_s, settings.url_hosts, memory)
    return RemotePictures(*limits, own=own, only_own=not settings.url_inputs)


@router.get("", include_in_schema=False)
@router.get("/", include_in_schema=False)
@router.get("/{model}/health", response_model=Health, openapi_extra=_HEALTH, summary="Whether a model answers")
@router.get("/health", response_model=Health, openapi_extra=_HEALTH, summary="Whether models answer")
async def health(request: Request) -> Response:
    """503 while a model warms up."""
    if _model(request) is not None:
        models_of(request).select(_model(request), None)
    elif not models_of(request).ready:
        raise NotReady(models_of(request).reason)
    return json_response(Health().model_dump())


@router.post("/{model}/setup", response_model=Setup, openapi_extra=_SETUP, summary="The version of a model")
@router.post("/setup", response_model=Setup, openapi_extra=_SETUP, summary="The model's version")
async def setup(request: Request) -> Response:
    """Label Studio asks when it connects. The body is not looked at: nothing is kept of a project."""
    ref = models_of(request).select(_model(request), None).ref
    return json_response({"model_version": _version(ref)})


@router.post(
    "/{model}/webhook", status_code=201, response_model=Heard, openapi_extra=_WEBHOOK, summary="Events, for a model"
)
@router.post("/webhook", status_code=201, response_model=Heard, openapi_extra=_WEBHOOK, summary="Events of a project")
async def webhook(request: Request) -> Response:
    """Label Studio tells of annotations. The body is not looked at: nothing is trained here."""
    models_of(request).select(_model(request), None)
    return json_response(Heard().model_dump(), 201)


@router.post(
    "/{model}/predict", response_model=Predictions, openapi_extra=_PREDICT, summary="Predictions of a model for tasks"
)
@router.post("/predict", response_model=Predictions, openapi_extra=_PREDICT, summary="Predictions for tasks")
async def predict(request: Request) -> Response:
    """Regions for the controls of the label configuration: BrushLabels, PolygonLabels and RectangleLabels.

    Where a task fails and others do not, its result is an empty list and the log says why. Of more tasks than pictures
    are accepted in a request the first alone is answered: Label Studio then asks for one at a time. Deadlines are those
    of each task.
    """
    options = native.options_of(request.query_params)
    options = options.model_copy(update={"model": _model(request) or options.model})
    admit(request, options)
    call = await read_document(request, PredictCall)
    config = await asyncio.to_thread(label_config.read, call.label_config)
    config.match(models_of(request).select(options.model, options.version).card.classes[1:])
    wishes: dict[str, object] = {"mask": "rle_uncompressed"}
    if config.score_threshold is not None:
        wishes["score_threshold"] = config.score_threshold
    options = options.model_copy(update=wishes)
    tasks = call.tasks if len(call.tasks) <= settings_of(request).max_pictures else call.tasks[:1]
    places = asyncio.Semaphore(AT_ONCE)
    work = (_predicted(request, options, config, task, places) for task in tasks)
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    request.state.record.pictures = len(tasks)
    return json_response({"results": _results(tasks, outcomes)})


async def _predicted(
    request: Request, options: PredictOptions, config: LabelConfig, task: Task, places: asyncio.Semaphore
) -> dict[str, Any]:
    async def read_pictures() -> list[bytes]:
        remote = request.app.state.label_studio_pictures or request.app.state.remote_pictures
        place = _place(task, config.picture, settings_of(request))
        return await picture_files(PredictBody(image=place), settings_of(request), remote)

    async with places:
        found = await answered(request, options, read_pictures)
    return await asyncio.to_thread(prediction_of, found.answer.images[0], config, _version(found.model))


def _results(tasks: list[Task], outcomes: list[dict[str, Any] | BaseException]) -> list[object]:
    """Raises where no task has a prediction, and what is not an error of a task."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in failed:
        if len(failed) == len(outcomes) or not isinstance(error, MasklineError):
            raise error
    results: list[object] = []
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            logger.warning("task %r of Label Studio gets no prediction: %s", task.id, outcome)
        results.append([] if isinstance(outcome, BaseException) else outcome)
    return results


def _model(request: Request) -> str | None:
    """Of the path."""
    return cast("str | None", request.path_params.get("model"))


def _version(model: ModelRef) -> str:
    return f"{model.name}/{model.version}"


def _place(task: Task, name: str, settings: Settings) -> str:
    """The picture in base64, or its address."""
    text = task.data.get(name)
    if not isinstance(text, str) or not text:
        raise UndecodablePicture(f"Task {task.id} has no picture: its data has no text {name!r}.")
    if text.startswith(DATA_URI):
        return text.partition(",")[2]
    if text.startswith(CLOUD_STORAGE):
        uri = base64.urlsafe_b64encode(text.encode()).decode()
        return _at_label_studio(f"/tasks/{task.id}/presign/?fileuri={uri}", settings)
    if text.startswith("upload/"):
        text = f"/data/{text}"
    return _at_label_studio(text, settings) if text.startswith("/") else text


def _at_label_studio(path: str, settings: Settings) -> str:
    if not settings.label_studio_url:
        raise BadParameter(
            f"The picture {path[:100]} is in Label Studio; "
            "start Maskline with --label-studio-url and --label-studio-key."
        )
    return settings.label_studio_url.rstrip("/") + quote(path, safe="/%?&=+,;:@!$'()*~")
