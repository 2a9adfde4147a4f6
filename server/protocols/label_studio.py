"""The protocol of Label Studio's ML backends: health, setup, webhook and predict, as Label Studio calls them.

Label Studio joins these names to the address that it is given and drops a query: where several models are loaded, the
model is part of the path, `/label-studio/MODEL`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.body_budget import BodyBudget
from server.contract.errors import BadParameter, MasklineError, NotReady, UndecodablePicture
from server.contract.wire import PredictBody, PredictOptions
from server.pictures.remote import OwnServer, RemotePictures
from server.protocols import label_config, native
from server.protocols.documents import PICTURE, PROBLEMS, Document, json_response, read_document, request_body
from server.protocols.json_body import picture_files
from server.protocols.label_config import LabelConfig
from server.protocols.label_regions import Prediction, prediction_of
from server.protocols.prediction import answered, models_of, settings_of
from server.settings import MIB, Settings

logger = logging.getLogger("server.label_studio")

PICTURE_PATHS: Final = ("/data/", "/storage-data/", "/tasks/")
CLOUD_STORAGE: Final = ("s3:", "gs:", "azure-blob:")
DATA_URI: Final = "data:"
AT_ONCE: Final = 16
"""Tasks of a request: enough to fill batches, and few enough that a slow server does not refuse the last of them."""

router = APIRouter(prefix="/label-studio", responses=PROBLEMS, tags=["Label Studio"])


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


CONFIG: Final = (
    '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
    '<Label value="Nucleus" predicted_values="something, something else"/></BrushLabels></View>'
)
_CALL: Final = request_body(
    PredictCall,
    {"tasks": [{"id": 1, "data": {"image": f"data:image/png;base64,{PICTURE}"}}], "label_config": CONFIG},
    parameters=[one for one in native.OPENAPI["parameters"] if one["name"] not in ("model", "mask")],
)


def remote_pictures(settings: Settings, memory: BodyBudget) -> RemotePictures | None:
    """Fetches pictures of tasks where the settings name Label Studio's own address."""
    if not settings.label_studio_url:
        return None
    key = settings.label_studio_key
    kind = "Bearer" if key.count(".") == 2 else "Token"  # a JSON Web Token, or one of its older keys
    own = OwnServer(settings.label_studio_url, PICTURE_PATHS, f"{kind} {key}" if key else "")
    limits = (settings.max_picture_mib * MIB, settings.body_timeout_s, settings.url_hosts, memory)
    return RemotePictures(*limits, own=own, only_own=not settings.url_inputs)


@router.get("", include_in_schema=False)
@router.get("/", include_in_schema=False)
@router.get("/{model}/health", response_model=Health, summary="Whether a model answers")
@router.get("/health", response_model=Health, summary="Whether the models answer")
async def health(request: Request) -> Response:
    """503 while a model warms up."""
    models = models_of(request)
    if not models.ready:
        raise NotReady(models.reason)
    return json_response(Health().model_dump())


@router.post("/{model}/setup", response_model=Setup, summary="The version of a model")
@router.post("/setup", response_model=Setup, summary="The model's version")
async def setup(request: Request, model: str | None = None) -> Response:
    """Label Studio asks when it connects. The body is not looked at: nothing is kept of a project."""
    return json_response({"model_version": _version(request, PredictOptions(model=model))})


@router.post("/{model}/webhook", status_code=201, response_model=Heard, summary="Events of a project")
@router.post("/webhook", status_code=201, response_model=Heard, summary="Events of a project, for the only model")
async def webhook(request: Request) -> Response:
    """Label Studio tells of annotations. The body is not looked at: nothing is trained here."""
    return json_response(Heard().model_dump(), 201)


@router.post("/{model}/predict", response_model=Predictions, openapi_extra=_CALL, summary="Predictions of a model")
@router.post("/predict", response_model=Predictions, openapi_extra=_CALL, summary="Predictions for tasks")
async def predict(request: Request, model: str | None = None) -> Response:
    """Regions for the controls of the label configuration: BrushLabels, PolygonLabels and RectangleLabels.

    Where a task fails and others do not, its result is an empty list and the log says why. Of more tasks than pictures
    are accepted in a request the first alone is answered: Label Studio then asks for one at a time.
    """
    options = native.options_of(request.query_params).model_copy(update={"model": model})
    call = await read_document(request, PredictCall)
    config = await asyncio.to_thread(label_config.read, call.label_config)
    config.check(models_of(request).select(options.model, options.version).card.classes[1:])
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
    version = f"{found.model.name}/{found.model.version}"
    return await asyncio.to_thread(prediction_of, found.answer.images[0], config, version)


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


def _version(request: Request, options: PredictOptions) -> str:
    ref = models_of(request).select(options.model, options.version).ref
    return f"{ref.name}/{ref.version}"


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
