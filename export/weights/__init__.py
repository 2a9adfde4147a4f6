"""Weights of every family as a `MaskRCNN`: checkpoints of training here, torchvision, detectron2, Matterport.

    load(path)                                    what the file says, and the family's defaults
    load(path, Given(config=Path("config.yaml"))) with what a person says beside it
    load("torchvision:maskrcnn_resnet50_fpn")     torchvision's published weights, fetched once

The path of a file: `files` reads its tensors, whatever the container; `recognise` tells the family from their names;
the family's module gives the `ModelConfig` and, for each tensor of the model, its name and layout in the file;
`mapping.fill` puts them in place or names every tensor that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from export.model.config import ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.weights import detectron2, matterport, native, torchvision
from export.weights.download import resolve
from export.weights.errors import (
    MismatchedWeightsError,
    MissingWeightsError,
    UnrecognisedWeightsError,
    UnsupportedWeightsError,
    WeightsConfigError,
    WeightsError,
)
from export.weights.files import Container, Tensors, WeightsFile, read
from export.weights.mapping import Source, fill
from export.weights.recognise import recognise
from export.weights.settings import Family, Given, Setting, Settings, read_config_file

__all__ = [
    "Family",
    "Given",
    "Imported",
    "MismatchedWeightsError",
    "MissingWeightsError",
    "Setting",
    "UnrecognisedWeightsError",
    "UnsupportedWeightsError",
    "WeightsConfigError",
    "WeightsError",
    "load",
    "resolve",
]


class _Importer(Protocol):
    """A family's module."""

    def read_config(self, file: WeightsFile, settings: Settings) -> ModelConfig: ...

    def read_sources(
        self, file: WeightsFile, model_names: Iterable[str], settings: Settings
    ) -> tuple[Tensors, dict[str, Source]]: ...


_IMPORTERS: dict[Family, _Importer] = {
    "native": native,
    "torchvision": torchvision,
    "detectron2": detectron2,
    "matterport": matterport,
}


@dataclass(frozen=True)
class Imported:
    """A model, and how it came about."""

    model: MaskRCNN
    """On the CPU and in eval mode."""
    path: Path
    container: Container
    tensors: int
    """How many the file holds."""
    settings: tuple[Setting, ...]
    """What the file does not tell, and where each value was taken from."""
    unused: tuple[str, ...]
    """Names in the `--config` file that were not looked at."""
    remarks: tuple[str, ...]
    """Sentences on what the person should think about."""


def load(source: str | Path, given: Given | None = None) -> Imported:
    """The model in a weights file, or in published weights by name. Raises a `WeightsError`."""
    given = given or Given()
    file = read(resolve(source))
    family = recognise(file, given.family)
    settings = Settings(given, read_config_file(given.config) if given.config else {})
    config = _IMPORTERS[family].read_config(file, settings)
    model = MaskRCNN(config)
    tensors, sources = _IMPORTERS[family].read_sources(file, list(model.state_dict()), settings)
    fill(model, tensors, sources)
    return Imported(
        model=model.eval(),
        path=file.path,
        container=file.container,
        tensors=len(file.tensors),
        settings=tuple(settings.taken),
        unused=settings.unused(),
        remarks=tuple(settings.remarks),
    )
