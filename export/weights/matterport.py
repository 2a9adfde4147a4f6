"""matterport."""

from __future__ import annotations

from collections.abc import Iterable

from export.model.config import ModelConfig
from export.weights.files import Tensors, WeightsFile
from export.weights.mapping import Source
from export.weights.settings import Settings

SIGNATURE = "mrcnn_mask/kernel"


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    raise NotImplementedError


def read_sources(file: WeightsFile, model_names: Iterable[str]) -> tuple[Tensors, dict[str, Source]]:
    raise NotImplementedError
