"""What the OpenAPI document says of the answers about models and about the server's health."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.contract.card import ModelCard
from server.contract.wire import Fraction
from server.engines.fake import FAKE_CARD
from server.protocols.examples import CLASS, MODEL, VERSION
from server.scheduling.supervision import State

_DESCRIBED: Final = {
    "name": MODEL,
    "version": VERSION,
    "ready": True,
    "state": "ready",
    "engine": "ONNX Runtime 1.32.0 on 4 CPU threads",
    "engines": [{"engine": "ONNX Runtime 1.32.0 on 4 CPU threads", "state": "ready", "reason": ""}],
    "classes": ["background", CLASS],
    "max_detections": 500,
    "score_threshold": 0.01,
    "default_score_threshold": 0.5,
}
_CARD: Final = FAKE_CARD.model_copy(update={"name": MODEL, "classes": ["background", CLASS]}).model_dump(mode="json")


def _shown(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": example})


class Live(BaseModel):
    model_config = _shown({"status": "live"})
    status: Literal["live"]


class Ready(BaseModel):
    model_config = _shown({"status": "ready"})
    status: Literal["ready"]


class DescribedEngine(BaseModel):
    engine: str = Field(description="runtime and device")
    state: State
    reason: str = Field(description="why it is not ready; empty where it is")


class DescribedModel(BaseModel):
    """`score_threshold` and `max_detections` are the model's own limits; `default_score_threshold` holds for requests
    that give none."""

    model_config = _shown(_DESCRIBED)

    name: str
    version: str
    ready: bool
    state: State
    engine: str = Field(description="what runs it")
    engines: list[DescribedEngine] = Field(description="each of its engines; the model is ready while one of them is")
    classes: list[str] = Field(description="names by id; 0 is the background, which is never found")
    max_detections: int
    score_threshold: Fraction
    default_score_threshold: Fraction


class DescribedModels(BaseModel):
    model_config = _shown({"models": [_DESCRIBED]})

    models: list[DescribedModel]


class ModelWithCard(DescribedModel):
    model_config = _shown({**_DESCRIBED, "versions": [VERSION], "card": _CARD})

    versions: list[str] = Field(description="all that are loaded, newest first")
    card: ModelCard = Field(description="the bundle's model.json")
