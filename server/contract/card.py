"""`model.json`: what a bundle says about its model. The server knows no model code beyond this page.

Frames: *image* is the picture as a person sees it, *canvas* is the network's padded input; both in pixels,
boxes (x1, y1, x2, y2) with x2/y2 exclusive.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

SCHEMA_VERSION: Final = 1

Canvas = tuple[PositiveInt, PositiveInt]
"""Height, width."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resize(_Part):
    """How a picture becomes the window of a canvas.

    `shortest_edge` scales the shortest edge to `min_size` unless the longest would pass `max_size`;
    `grow_shortest_edge` never shrinks for `min_size`, only for `max_size`. `rounding` is that of the resized sides
    (never below 1 pixel). `interpolation`: `antialias` is Pillow's bilinear on uint8; `linear` is bilinear without
    anti-aliasing in float32; `linear_zero_border` is bilinear with zeros outside the picture, truncated to uint8.
    """

    rule: Literal["shortest_edge", "grow_shortest_edge"]
    min_size: PositiveInt
    max_size: PositiveInt
    rounding: Literal["floor", "half_up", "half_even"]
    interpolation: Literal["antialias", "linear", "linear_zero_border"]


class Input(_Part):
    """`canvases`: `exact` is the resized picture rounded up to `size_divisor`; a list holds (height, width)."""

    resize: Resize
    dtype: Literal["uint8", "float32"]
    placement: Literal["top_left", "centre"]
    padding: Literal["zero", "black"]
    size_divisor: PositiveInt
    canvases: Literal["exact"] | list[Canvas]


class Output(_Part):
    """`score_threshold` and `max_detections` are the graph's own limits; a query cannot pass them."""

    mask_size: PositiveInt
    mask_paste: Literal["detectron2", "torchvision", "matterport"]
    max_detections: PositiveInt
    score_threshold: Fraction
    default_score_threshold: Fraction
    nms_iou_threshold: Fraction


class BundleFile(_Part):
    """One compiled form of the model. `path` is relative to the bundle."""

    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    engine: Literal["onnxruntime", "openvino", "tensorrt"]
    precision: Literal["fp32", "fp16", "int8"]
    tensorrt: str | None = None
    compute_capability: str | None = None
    profiles: list[dict[str, Any]] | None = None


class Provenance(_Part):
    weights_sha256: str
    family: Literal["native", "torchvision", "detectron2", "matterport"]
    created: str
    maskline: str
    torch: str
    opset: PositiveInt


class ModelCard(BaseModel):
    """The whole of `model.json`; `classes[0]` is the background."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    classes: Annotated[list[str], Field(min_length=2)]
    input: Input
    output: Output
    files: Annotated[list[BundleFile], Field(min_length=1)]
    provenance: Provenance
    verification: dict[str, Any]
