"""What can be wrong with a weights file. Each message is one or two plain sentences for the person who named the file.

WeightsError
├── MissingWeightsError       no such file, or it cannot be read or fetched
├── UnrecognisedWeightsError  not the weights of any family, or not safe to load
├── UnsupportedWeightsError   a family's weights, but of a model that cannot be rebuilt here
├── MismatchedWeightsError    the right kind of file, but tensors are missing, misshapen or left over
└── WeightsConfigError        what was said beside the file (`--config`, flags) is wrong or contradicts the file
"""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 5
"""Tensors a message names before it counts the rest."""


class WeightsError(Exception):
    """Base of the family."""


class MissingWeightsError(WeightsError):
    """There is no such file, or it cannot be read or fetched."""


class UnrecognisedWeightsError(WeightsError):
    """The file is not the weights of any family, or holds more than plain values and tensors."""


class UnsupportedWeightsError(WeightsError):
    """The file is of a known family, but its model has a part that cannot be rebuilt here."""


class WeightsConfigError(WeightsError):
    """The `--config` file or a flag is wrong, or says something else than the weights."""


class MismatchedWeightsError(WeightsError):
    """Tensors are missing, have another shape than the model's, or belong to no part of it.

    `missing` and `unexpected` hold names, `misshapen` holds (name, shape in the file, shape that the model needs), all
    in the names and the layout of the file.
    """

    def __init__(
        self,
        source: str,
        missing: Sequence[str],
        misshapen: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
        unexpected: Sequence[str],
    ) -> None:
        self.missing, self.misshapen, self.unexpected = tuple(missing), tuple(misshapen), tuple(unexpected)
        shapes = [f"{name} is {_shape(found)}, not {_shape(wanted)}" for name, found, wanted in misshapen]
        faults = [("missing", missing), ("misshapen", shapes), ("not part of the model", unexpected)]
        told = "; ".join(f"{label}: {_listed(names)}" for label, names in faults if names)
        super().__init__(f"{source} does not fit the model. {told[0].upper()}{told[1:]}.")


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
