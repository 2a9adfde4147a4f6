"""Weights files as plain tensors: torch's archives, pickles of arrays (detectron2's zoo) and HDF5 (Keras).

Nothing in a file is ever run: torch's files go through its `weights_only` reader, pickles through one that knows numpy
arrays and nothing else, and HDF5 files must hold all their data themselves.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from export.weights.errors import MismatchedWeightsError, MissingWeightsError, UnrecognisedWeightsError

Container = Literal["torch", "pickle", "hdf5"]


class Tensors(dict[str, Tensor]):
    """A file's tensors by name; asking for one that is not there raises `MismatchedWeightsError`."""

    def __init__(self, source: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.source = source

    def __missing__(self, name: str) -> Tensor:
        raise MismatchedWeightsError(self.source, [name], [], [])


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds."""

    path: Path
    container: Container
    tensors: Tensors
    """By the file's own names, on the CPU: of the model only, out of its wrapper and without a wrapper's prefix. An
    HDF5 tensor is named LAYER/WEIGHT, such as `conv1/kernel`; the weights of a nested model have the inner layer's."""
    content: Mapping[str, Any]
    """All of the top level of a torch file or a pickle; empty for HDF5."""


def read(path: Path) -> WeightsFile:
    """Reads a file of any container. Raises `MissingWeightsError` or `UnrecognisedWeightsError`."""
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if start == b"\x89HDF\r\n\x1a\n":
        return WeightsFile(path, "hdf5", Tensors(str(path), _read_hdf5(path)), {})
    container: Container = "torch"
    try:
        content = _read_torch(path)
    except Exception:
        try:
            content, container = _read_pickle(path), "pickle"
        except Exception as error:
            message = f"{path} is not a checkpoint of plain tensors and values; it was not loaded."
            raise UnrecognisedWeightsError(message) from error
    if not isinstance(content, Mapping):
        raise UnrecognisedWeightsError(f"{path} is not a checkpoint of plain tensors and values; it was not loaded.")
    return WeightsFile(path, container, Tensors(str(path), _tensors(content)), content)


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the pickle's age
        return torch.load(path, map_location="cpu", weights_only=True)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("collections", "OrderedDict"),
        }
        if (module, name) in known:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    import h5py

    tensors = {}
    with h5py.File(path) as file:
        root = file["model_weights"] if "model_weights" in file else file

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                parts = name.split("/")
                layer = parts[-2] if parts[0] == "rpn_model" else parts[0]
                tensors[f"{layer}/{parts[-1].split(':')[0]}"] = torch.from_numpy(node[()])

        root.visititems(visit)
    return tensors


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    as_tensors = {name: torch.as_tensor(value) for name, value in content.items() if hasattr(value, "shape")}
    return {name: value.float() if value.is_floating_point() else value for name, value in as_tensors.items()}
