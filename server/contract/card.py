"""`model.json`: what a bundle says about its model. The server knows no model code beyond this page.

Frames: *image* is the picture as a person sees it, *canvas* is the network's padded input; both in pixels,
boxes (x1, y1, x2, y2) with x2/y2 exclusive.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

SCHEMA_VERSION: Final = 1

Canvas = tuple[PositiveInt, PositiveInt]
"""Height, width."""

Precision = Literal["fp32", "fp16", "int8"]

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


class Profile(_Part):
    """One optimization profile of a TensorRT plan: this canvas, in batches of 1 to `max_batch`."""

    canvas: Canvas
    max_batch: PositiveInt


class BundleFile(_Part):
    """One compiled form of the model. `path` is relative to the bundle.

    A plan of TensorRT says what it fits: `tensorrt` is the version that built it ("11.1.0.106"), `compute_capability`
    that of its GPU ("9.0"); a trailing "+" means this one and later ones. `profiles` are in the plan's order.
    """

    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    engine: Literal["onnxruntime", "openvino", "tensorrt"]
    precision: Precision
    tensorrt: Annotated[str, Field(pattern=r"^\d+(\.\d+)*\+?$")] | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+\+?$")] | None = None
    profiles: Annotated[list[Profile], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _plan_says_what_it_fits(self) -> Self:
        if self.engine == "tensorrt" and None in (self.tensorrt, self.compute_capability, self.profiles):
            raise ValueError("a plan of TensorRT needs tensorrt, compute_capability and profiles")
        return self


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

    @property
    def may_halve_jpegs(self) -> bool:
        """Whether large JPEGs may be decoded at half their size before they are resized.

        Never for an imported model, whose pictures are what they are to the code that it comes from, and only where the
        resize averages.
        """
        return self.provenance.family == "native" and self.input.resize.interpolation == "antialias"
