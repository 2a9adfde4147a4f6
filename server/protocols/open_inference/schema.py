"""The JSON of the Open Inference Protocol, version 2, with Triton's extensions for binary tensors, the model
repository and statistics: what requests are checked against, and what the documentation shows of answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StrictBool, StrictInt

from server.contract.wire import PredictOptions
from server.scheduling.supervision import State

Shape = Annotated[list[StrictInt], Field(max_length=8)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)]
Tensors = Literal["num_detections", "boxes", "scores", "class_ids", "rle_counts", "sizes"]

PASSED_ON = tuple(sorted(PredictOptions.model_fields.keys() - {"model", "version", "mask", "timeout_ms", "priority"}))
"""Options of `/predict` that a request may have among its parameters."""
IGNORED = ("sequence_", "triton_")
"""What parameters begin with that mean something only to models of other kinds."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InferInput(_Request):
    """One tensor: `image`, or `pixels`. Its content is in `data`, or after the JSON where `parameters` have its
    `binary_data_size`."""

    name: Literal["image", "pixels"]
    shape: Shape = Field(description="image: [n]; pixels: [n, h, w, 3]")
    datatype: Literal["BYTES", "UINT8"] = Field(description="image: BYTES; pixels: UINT8")
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data_size")
    data: list[Any] | None = Field(
        default=None, description="image: picture files in base64; pixels: numbers from 0 to 255, nested or not"
    )


class InferOutput(_Request):
    """A tensor that is wanted."""

    name: Tensors
    parameters: dict[str, Any] = Field(default_factory=dict, description="binary_data: whether it comes as binary")


class InferParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    binary_data_output: StrictBool = Field(default=False, description="whether tensors come as binary")
    priority: Count = Field(default=0, description="0 or 1: normal; more: low")
    timeout: Count = Field(default=0, description="microseconds until the answer is of no use; 0: the server's default")


class InferRequest(_Request):
    id: Annotated[str, Field(max_length=1024)] = ""
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=16, fail_fast=True)]
    outputs: Annotated[list[InferOutput], Field(max_length=64, fail_fast=True)] = Field(default_factory=list)


class IndexRequest(_Request):
    ready: StrictBool = Field(default=False, description="only models that are ready")


class LoadRequest(_Request):
    parameters: dict[str, Any] = Field(default_factory=dict, json_schema_extra={"maxProperties": 0})


class UnloadRequest(_Request):
    parameters: dict[str, Any] = Field(default_factory=dict, description="unload_dependents: there are none")


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    live: bool


class ServerReady(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int]
    optional: bool = False


class ModelConfig(BaseModel):
    """`max_batch_size` is 0: shapes are whole, and it is the server that makes batches of requests."""

    name: str
    platform: str
    backend: str
    max_batch_size: Literal[0]
    input: list[TensorConfig]
    output: list[TensorConfig]
    model_transaction_policy: dict[str, bool]
    parameters: dict[str, dict[str, str]] = Field(description="classes: their names as a JSON list; 0: the background")


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class Duration(BaseModel):
    count: NonNegativeInt
    ns: NonNegativeInt


class InferenceStatistics(BaseModel):
    """Of requests. `compute_input` is decoding and resizing, `compute_output` the writing of masks."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """Batches of one size. Pictures are decoded before they are in a batch, and masks are written after it."""

    batch_size: NonNegativeInt
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class EngineStatistics(BaseModel):
    """Of one engine, in the order of `engines` under `/models`; Triton has no such thing."""

    engine: str
    state: State
    reason: str = Field(description="why it is not ready; empty where it is")
    inference_count: NonNegativeInt = Field(description="pictures, and tiles of pictures, that it ran")
    fail_count: NonNegativeInt = Field(description="batches that failed; a picture is tried again then")
    restart_count: NonNegativeInt
    compute_infer: Duration = Field(description="of batches")


class ModelStatistics(BaseModel):
    name: str
    version: str
    last_inference: NonNegativeInt = Field(description="milliseconds since 1970; 0: none yet")
    inference_count: NonNegativeInt = Field(description="pictures answered")
    execution_count: NonNegativeInt = Field(description="batches that ran")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]
    engine_stats: list[EngineStatistics]


class AllStatistics(BaseModel):
    model_stats: list[ModelStatistics]


class InferredTensor(BaseModel):
    """`data` is row by row; where it comes as binary, `parameters` have its `binary_data_size` instead."""

    name: Tensors
    datatype: Literal["INT32", "FP32", "BYTES"]
    shape: list[NonNegativeInt]
    parameters: dict[str, NonNegativeInt] | None = None
    data: list[float] | list[str] | None = None


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferredTensor]
