"""Weights files as plain tensors: torch's archives, pickles of arrays (detectron2's zoo) and HDF5 (Keras).

The container is told by content, not by the file's name. Nothing in a file is ever run: what a pickle asks for is
looked through first, torch's files then go through its `weights_only` reader, other pickles through one that knows
arrays and nothing else, and HDF5 files must hold all their data themselves.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from export.weights.errors import MismatchedWeightsError, MissingWeightsError, UnrecognisedWeightsError, WeightsError
from export.weights.foreign import DAMAGED, TENSORFLOW, ForeignError, by_archive, by_asked, by_folder, by_start
from export.weights.pickles import KNOWN, StoredArray, read_pickle, refused, wanted

if TYPE_CHECKING:
    import h5py

Container = Literal["torch", "pickle", "hdf5"]

_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")
"""What the state dict is under; `blobs` is Caffe2's, which is only recognised."""
_PREFIXES = ("module.", "model.", "_orig_mod.")
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that torch's files began with before they were archives."""
_MOST_TIMES_LARGER = 10
"""How much larger than its file the content may be. Weights hardly compress; what claims more than this is no model."""


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
    """Reads a file of any container. Raises `MissingWeightsError`, or `UnrecognisedWeightsError` that says what the
    file is instead."""
    try:
        return _read(path, _start(path))
    except WeightsError:
        raise
    except ForeignError as error:
        raise UnrecognisedWeightsError(f"{path} {error}") from None
    except Exception as error:  # a damaged file can fail anywhere in the readers of torch, pickle and HDF5
        raise UnrecognisedWeightsError(f"{path} {DAMAGED}") from error


def _start(path: Path) -> bytes:
    """The first 512 bytes."""
    if path.is_dir():
        raise ForeignError(by_folder(path))
    if Path(f"{path}.index").is_file() and not path.exists():
        raise ForeignError(TENSORFLOW)
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}.")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror}.") from error


def _read(path: Path, start: bytes) -> WeightsFile:
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return WeightsFile(path, "hdf5", Tensors(str(path), _read_hdf5(path)), {})
    container: Container = "torch"
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
        content = _read_torch(path)
    elif start.startswith(_LEGACY):
        _check_legacy(path)
        content = _read_torch(path)
    else:
        _check_pickle(path, start)
        content, container = read_pickle(path), "pickle"
    if not isinstance(content, Mapping):
        kind = "tensor" if isinstance(content, Tensor | StoredArray) else type(content).__name__
        raise ForeignError(f"holds a single {kind}, not a model's weights by name.")
    return WeightsFile(path, container, Tensors(str(path), _tensors(content, path)), content)


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        other = by_archive(archive)
        if other:
            raise ForeignError(other)
        _check_size(path, sum(entry.file_size for entry in archive.infolist()))
        record = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(record) as file:
            if file.read(2) in (b"\x80\x04", b"\x80\x05"):
                raise ForeignError("has a pickle_protocol that torch cannot read safely. Save it again without.")
            file.seek(0)
            _check_asked(wanted(file), torch_too=True)


def _check_legacy(path: Path) -> None:
    """A number, a version, facts on the machine, the content and the storages' names: five pickles, then raw data."""
    with path.open("rb") as file:
        _check_asked([name for _ in range(5) for name in wanted(file)], torch_too=True)


def _check_pickle(path: Path, start: bytes) -> None:
    """Raises `ForeignError` for what is no pickle, or one that asks for more than arrays."""
    other = by_start(path, start)
    binary = start.startswith(b"\x80")
    try:
        with path.open("rb") as file:
            asked = wanted(file)
    except (ValueError, MemoryError, ForeignError):
        if binary and not other:
            raise
        asked = []
    _check_asked(asked, torch_too=False)  # also of the oldest pickles, which are text
    if other or not binary:
        raise ForeignError(other or "is of no kind that is known here: no torch checkpoint, pickle or HDF5 file.")


def _check_asked(names: list[str], *, torch_too: bool) -> None:
    unknown = refused(names, torch_too=torch_too)
    if unknown:
        raise ForeignError(by_asked(unknown))


def _check_size(path: Path, size: int) -> None:
    if size > _MOST_TIMES_LARGER * path.stat().st_size:
        raise ForeignError(f"claims to hold {size:,} bytes, far more than its own size. It was not loaded.")


def _read_torch(path: Path) -> Any:
    stand_ins = [(given, name) for name, given in KNOWN.items()]
    with (
        path.open("rb") as file,  # by its path, torch would go by the file's ending
        torch.serialization.safe_globals(stand_ins),  # type: ignore[arg-type]  # torch's own note: pairs are meant too
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # on the pickle's age
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The model's tensors in `content`, the floating-point ones as float32, which copies no float32."""
    found = dict(_plain_tensors(_unwrapped(_unwrapped(content))))
    _check_size(path, sum(tensor.numel() * tensor.element_size() for tensor in found.values()))
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in _without_prefixes(found).items()
    }


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), content)


def _plain_tensors(values: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Those that hold numbers, one by one: no sparse, quantized or absent data."""
    for name, value in values.items():
        tensor = value.tensor if isinstance(value, StoredArray) else value
        if (
            isinstance(tensor, Tensor)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not (tensor.is_quantized or tensor.is_complex())
        ):
            yield str(name), tensor.detach()


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _read_hdf5(path: Path) -> dict[str, Tensor]:
    import h5py

    tensors: dict[str, Tensor] = {}
    with h5py.File(path) as file:
        datasets = dict(_datasets(file))
        _check_size(path, sum(dataset.nbytes for dataset in datasets.values()))
        for name, dataset in datasets.items():
            short = _layer_and_weight(name)
            # Two layers of one name are only in nested models that are not known here.
            tensors[name if short in tensors else short] = _stored(dataset)
    return tensors


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """The datasets of numbers that are in the file itself, by their paths below `model_weights` where that exists."""
    import h5py

    groups = [("", file)]
    if isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
        groups = [("", file["model_weights"])]
    seen = {group.id for _, group in groups}
    while groups:
        prefix, group = groups.pop(0)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ForeignError(f"has a link at {prefix}{name}, not data of its own. Save it again as one file.")
            node = group[name]
            if isinstance(node, h5py.Group) and node.id not in seen:
                seen.add(node.id)
                groups.append((f"{prefix}{name}/", node))
            elif isinstance(node, h5py.Dataset) and node.dtype.kind in "fiu" and node.shape is not None:
                if node.external or node.is_virtual:
                    raise ForeignError(f"keeps {prefix}{name} in another file. Save it again as one file.")
                yield f"{prefix}{name}", node


def _layer_and_weight(name: str) -> str:
    """LAYER/WEIGHT of a path such as `conv1/conv1/kernel:0`, or `rpn_model/rpn_class_raw_1/kernel:0`."""
    *groups, weight = name.split("/")
    layer = re.sub(r"_\d+$", "", groups[-1]) if groups[:1] == ["rpn_model"] else "".join(groups[:1])
    return f"{layer}/{weight.partition(':')[0]}".lstrip("/")


def _stored(dataset: h5py.Dataset) -> Tensor:
    kind = np.dtype(np.float32) if dataset.dtype.kind == "f" else dataset.dtype.newbyteorder("=")
    return torch.from_numpy(np.asarray(dataset.astype(kind)[()]))
