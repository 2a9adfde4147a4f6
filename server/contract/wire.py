"""What travels over HTTP: the query of `/predict`, its JSON body, its answer and the error document.

The answer is made of plain frozen dataclasses, so that making one costs nothing; pydantic reads the same classes for
the documented schema and for clients that validate (`pydantic.TypeAdapter(PredictResponse)`).

Frame: boxes are float pixels of the picture as a person sees it, (x1, y1, x2, y2), x2/y2 exclusive; masks have the
picture's size.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from server.contract.errors import BadParameter, BadPictureInBatch, UndecodablePicture

MaskFormat = Literal["rle", "rle_uncompressed", "polygon", "png", "none"]
Priority = Literal["normal", "low"]
Box = tuple[float, float, float, float]
Size = tuple[PositiveInt, PositiveInt]
"""Height, width."""
Corner = Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)]
"""x, y on the grid between the pixels."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]
LONGEST_TIMEOUT_MS = 86_400_000

MIN_TILE = 64
"""Pixels."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class RleMask:
    """COCO's compressed RLE: pycocotools reads it as it is."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    size: Size
    counts: str


@dataclass(frozen=True, slots=True)
class UncompressedRleMask:
    """Lengths of alternating runs over the column-major mask, zeros first."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    size: Size
    counts: list[NonNegativeInt]


@dataclass(frozen=True, slots=True)
class PngMask:
    """A 1-bit PNG of the picture's size, in base64."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    size: Size
    png: str


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """A GeoJSON geometry along the edges of the pixels: parts, each a list of closed rings, the exterior before its
    holes (`server.contract.polygons`). A pixel is set where its centre is inside; an empty mask has no part."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    type: Literal["MultiPolygon"]
    size: Size
    coordinates: list[list[Annotated[list[Corner], Field(min_length=5)]]]


Mask = RleMask | UncompressedRleMask | PngMask | PolygonMask


@dataclass(frozen=True, slots=True)
class Detection:
    """One object. `area` counts the mask's pixels, also where the query asked for no masks."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    box: Box
    class_id: PositiveInt
    class_name: str
    score: Fraction
    area: NonNegativeInt
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The detections of one picture, by falling score."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    width: PositiveInt
    height: PositiveInt
    detections: list[Detection]


@dataclass(frozen=True, slots=True)
class ModelRef:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went. Its pictures and tiles run side by side: of each stage the slowest counts."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    decode: Milliseconds
    queue: Milliseconds
    inference: Milliseconds
    postprocess: Milliseconds
    total: Milliseconds


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """The answer of `/predict`. `batch_size` is that of the largest batch that a picture of the request was in."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: ModelRef
    request_id: str
    images: list[ImageResult]
    timings_ms: Timings
    batch_size: PositiveInt


@dataclass(frozen=True, slots=True)
class Problem:
    """`application/problem+json` (RFC 9457)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    request_id: str


class PredictOptions(BaseModel):
    """The query of `/predict`. Thresholds and limits beyond the model's own are clamped, not refused.

    `classes` are names or ids of the model, separated by commas in a query. With `priority=low` a request waits while
    any of normal priority do, and takes the places that they leave in a batch.

    With `tile` a picture is looked at in squares of so many of its pixels, which share `overlap` pixels or more (an
    eighth of `tile` if not given), and objects that several of them see are found once: for pictures much larger than
    the model's input. The model's own limit of detections is for each tile then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = None
    version: str | None = None
    score_threshold: Fraction | None = None
    max_detections: PositiveInt | None = None
    classes: tuple[str, ...] | None = None
    mask: MaskFormat = "rle"
    timeout_ms: Annotated[int, Field(gt=0, le=LONGEST_TIMEOUT_MS)] | None = None
    priority: Priority = "normal"
    tile: Annotated[int, Field(ge=MIN_TILE)] | None = None
    overlap: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap is not None and self.tile is None:
            raise ValueError("overlap: there are no tiles; give tile as well")
        if self.tile is not None and self.overlap is not None and self.overlap > self.tile // 2:
            raise ValueError(f"overlap: it is more than half of tile; give at most {self.tile // 2}")
        return self

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Options of a query string's names and values. Raises `BadParameter` that says what is wrong."""
        values: dict[str, Any] = dict(query)
        if "classes" in values:
            values["classes"] = tuple(name for part in values["classes"].split(",") if (name := part.strip())) or None
        try:
            return cls(**values)
        except ValidationError as error:
            raise BadParameter(sentence(error)) from None


class PredictBody(BaseModel):
    """The JSON body of `/predict`: one picture or several, each a picture file in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = None
    images: Annotated[list[str], Field(min_length=1, fail_fast=True)] | None = None

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Raises `BadParameter` that says what is wrong."""
        try:
            parsed = cls.model_validate_json(body)
        except ValidationError as error:
            raise BadParameter(f"JSON body: {sentence(error)}") from None
        if (parsed.image is None) == (parsed.images is None):
            raise BadParameter('JSON body: give either "image" or "images".')
        return parsed

    def pictures(self, fetched: Mapping[int, bytes] | None = None) -> list[bytes]:
        """The picture files; `fetched` has those that are here by their address, by index.

        Raises `UndecodablePicture`, for one of `images` `BadPictureInBatch`.
        """
        there = fetched or {}
        if self.image is not None:
            return [there[0] if 0 in there else _from_base64(self.image)]
        files = []
        for index, text in enumerate(self.images or ()):
            try:
                files.append(there[index] if index in there else _from_base64(text))
            except UndecodablePicture as error:
                raise BadPictureInBatch(index, error) from error
        return files


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:  # binascii.Error, and characters outside ASCII
        raise UndecodablePicture("The picture is not valid base64.") from error


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong, for a person."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Nothing here is called {field!r}; /docs lists what is accepted."
    if first["type"] == "value_error":  # our own sentence
        return first["msg"].removeprefix("Value error, ") + "."
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{field}: {message}." if field else f"{first['msg']}."
