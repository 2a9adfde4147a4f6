"""Settings of the service: flags of `maskline serve`, else `MASKLINE_*` variables, else these defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "MASKLINE_"
MIB = 1 << 20

Texts = Annotated[tuple[str, ...], NoDecode]
"""A tuple whose variable holds values separated by commas."""


class Settings(BaseSettings):
    """Descriptions are the help texts of the flags."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    models: Texts = Field(default=(), description="bundles, or folders of bundles; none: models/")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="port to listen on; 0: any free one")
    root_path: str = Field(default="", description="path under which a proxy shows the service")
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt", "fake"] = Field(
        default="auto", description="what runs the model; fake needs no model"
    )
    fake_batch_ms: NonNegativeFloat = Field(default=0, description="how long the fake engine takes for a batch")
    engines: NonNegativeInt = Field(
        default=1, description="engines of each model, on a GPU each, or sharing the CPUs; 0: one for each GPU"
    )
    threads: NonNegativeInt = Field(
        default=0, description="CPU threads of an engine; 0: all that are there, shared among the engines"
    )
    watch_s: NonNegativeFloat = Field(
        default=0, description="how often to look for bundles that were added, replaced or taken away; 0: never"
    )
    max_batch_size: PositiveInt = Field(default=8, description="largest number of pictures that run together")
    max_queue_delay_ms: NonNegativeFloat = Field(
        default=0, description="how long a batch that is not full waits for more"
    )
    max_queue_size: PositiveInt = Field(default=1024, description="pictures that may wait")
    max_queue_mib: PositiveInt = Field(default=2048, description="memory that waiting pictures may take")
    max_queue_wait_s: PositiveFloat = Field(
        default=15, description="requests whose wait would be longer are refused with 429"
    )
    timeout_s: PositiveFloat = Field(default=30, description="deadline of a request that sets none")
    engine_timeout_s: PositiveFloat = Field(
        default=60, description="an engine that takes longer for a batch is given up, and made anew"
    )
    max_picture_mib: PositiveInt = Field(default=64, description="largest picture file")
    max_body_mib: PositiveInt = Field(default=128, description="largest body with several pictures, or in base64")
    max_bodies_mib: PositiveInt = Field(default=1024, description="memory that bodies may take while they come in")
    body_timeout_s: PositiveFloat = Field(default=30, description="how long a body may take to come in")
    header_timeout_s: PositiveFloat = Field(default=20, description="how long a connection may take to send a header")
    keep_alive_s: NonNegativeInt = Field(default=75, description="how long an idle connection is kept after an answer")
    max_connections: NonNegativeInt = Field(
        default=0, description="connections at once; 0: as many as files may be open"
    )
    max_megapixels: PositiveFloat = Field(default=100, description="largest picture once decoded")
    max_decode_mib: PositiveInt = Field(
        default=480, description="memory that pictures may take while they are decoded; those in tiles, as much again"
    )
    max_pictures: PositiveInt = Field(default=128, description="pictures in one request")
    picture_threads: NonNegativeInt = Field(
        default=0, description="threads that decode pictures and write masks; 0: one a CPU"
    )
    drain_timeout_s: PositiveFloat = Field(
        default=60, description="how long a stopping server waits for accepted requests"
    )
    api_keys: Texts = Field(
        default=(), description="keys of which a request must carry one as `Authorization: Bearer KEY`"
    )
    admin_key: str = Field(default="", description="key for loading and unloading models; none: nobody may")
    url_inputs: bool = Field(default=False, description="whether requests may name pictures by http(s) addresses")
    url_hosts: Texts = Field(
        default=(), description="the only hosts that pictures are fetched from; none: any public one"
    )
    label_studio_url: Annotated[str, Field(pattern=r"^(https?://[^\s/?#@]+\S*)?$")] = Field(
        default="", description="Label Studio's own address, to fetch pictures of tasks from; it may be a private one"
    )
    label_studio_key: str = Field(default="", description="Label Studio's legacy token, which opens those pictures")
    cors_origins: Texts = Field(
        default=(), description="origins whose pages may use the service, as https://app.example; none: only its own"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe log lines shown"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="log lines for people, or JSON objects")

    @field_validator("models", "api_keys", "url_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
