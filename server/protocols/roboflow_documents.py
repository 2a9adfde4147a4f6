"""What Roboflow's clients send and read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt

from server.contract.wire import Fraction, RleMask
from server.protocols.documents import Document
from server.protocols.examples import CLASS

MaskForm = Literal["polygon", "rle"]
Task = Literal["instance-segmentation"]


class RequestImage(Document):
    """A picture file in base64, or its address."""

    type: Literal["base64", "url"]
    value: str


class SegmentationRequest(Document):
    """Of Roboflow's members those that mean something here. `iou_threshold` does not: a model has its own."""

    model_id: Annotated[str | None, Field(examples=["demo/1"])] = None
    image: RequestImage | Annotated[list[RequestImage], Field(min_length=1, fail_fast=True)]
    confidence: Fraction | Literal["best", "default"] | None = None
    class_filter: list[str] | None = None
    max_detections: PositiveInt | None = None
    response_mask_format: MaskForm = "polygon"
    visualize_predictions: bool = False


class LegacyQuery(Document):
    """The query of v0."""

    confidence: float | None = Field(
        None, ge=0, le=100, description="Least score: a fraction, or a percentage from 1 on.", examples=[0.5]
    )
    classes: str | None = Field(None, description="Names of classes, separated by commas.", examples=[CLASS])
    max_detections: PositiveInt | None = Field(None, description="Most objects of a picture.", examples=[100])
    response_mask_format: MaskForm = Field("polygon", description="Form of the masks.", examples=["rle"])
    format: Literal["json"] = Field("json", description="Form of the answer.", examples=["json"])


class ModelRequest(Document):
    model_id: Annotated[str, Field(examples=["demo/1"])]


class Point(BaseModel):
    x: float
    y: float


class Segment(BaseModel):
    """One object. x, y is the centre of its box. `points` is the outline of its largest part, through the centres of
    its outer pixels; `rle` is COCO's."""

    x: float
    y: float
    width: float
    height: float
    confidence: float
    class_name: Annotated[str, Field(alias="class")]
    class_id: int
    detection_id: str
    mask_format: MaskForm
    points: list[Point] | None = None
    rle: RleMask | None = None


class ImageSize(BaseModel):
    width: int
    height: int


class Segmentation(BaseModel):
    """The objects of one picture; `time` in seconds."""

    inference_id: str
    time: float
    image: ImageSize
    predictions: list[Segment]


class RegisteredModel(BaseModel):
    model_id: str
    task_type: Task = "instance-segmentation"


class Registry(BaseModel):
    models: list[RegisteredModel]


class ServerInfo(BaseModel):
    name: str
    version: str
    uuid: str
