"""From a file's tensors to a model's: for each tensor of the model, its name and its layout in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from export.model.mask_rcnn import MaskRCNN
from export.weights.errors import MismatchedWeightsError, UnsupportedWeightsError
from export.weights.files import Tensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in the file."""

    to_model: Callable[[Tensor], Tensor]
    """The file's tensor, of a shape that fits, as the model's."""
    shape_in_file: Callable[[Shape], Shape]
    """The shape that the file's tensor must have, from the model's."""


Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""Regular expressions and what takes their place, tried in this order, each on the result of the one before."""

AS_IT_IS = Layout(lambda tensor: tensor, lambda shape: shape)


@dataclass(frozen=True)
class Source:
    """Where a tensor of the model is in the file."""

    name: str
    layout: Layout = AS_IT_IS


def renamed(name: str, rules: Rules) -> str:
    """`name` after all `rules`."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def sources(
    model_names: Iterable[str], rules: Rules, layout: Callable[[str], Layout] = lambda name: AS_IT_IS
) -> dict[str, Source]:
    """The source of each tensor of the model: its name in the file by `rules`, its `layout` by the model's name."""
    return {name: Source(renamed(name, rules), layout(name)) for name in model_names}


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many names there are of `pattern` with 0, 1, 2 and so on in place of its braces."""
    found = 0
    while pattern.format(found) in tensors:
        found += 1
    return found


def fill(model: MaskRCNN, tensors: Tensors, sources: Mapping[str, Source]) -> None:
    """Puts the file's `tensors` into `model`, each to where `sources` (by the model's names) says.

    Every tensor of the model needs a source but for BatchNorm's count of batches, which inference has no use for.
    Raises `MismatchedWeightsError` that names, as the file does, all that is missing, misshapen or of no use.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing, misshapen = [], []
    for name, tensor in wanted.items():
        found = tensors.get(sources[name].name)
        needed = tuple(sources[name].layout.shape_in_file(tuple(tensor.shape)))
        if found is None:
            missing.append(sources[name].name)
        elif tuple(found.shape) != needed:
            misshapen.append((sources[name].name, tuple(found.shape), needed))
    known = {s.name for s in sources.values()}
    unexpected = [name for name in tensors if name not in known and not name.endswith("num_batches_tracked")]
    if missing or misshapen or unexpected:
        raise MismatchedWeightsError(tensors.source, missing, misshapen, unexpected)
    for name, tensor in wanted.items():
        if not tensors[sources[name].name].is_floating_point():
            raise UnsupportedWeightsError(f"{tensors.source}: {sources[name].name} holds whole numbers, not weights.")
        tensor.copy_(sources[name].layout.to_model(tensors[sources[name].name]))
