"""Pickles read without running anything in them: plain values and arrays of numbers, and nothing else.

numpy's own unpickling trusts what it reads, so what a pickle asks of numpy goes to the stand-ins here. `wanted` lists
what a pickle asks for before any of it is read; both readers of pickles, this one and torch's, are told of `KNOWN`.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from export.weights.foreign import ForeignError

_MOST_OPERATIONS = 1_000_000
"""Of one pickle: a state dict takes some thirty a tensor."""


class StoredDtype:
    """In the place of `numpy.dtype`: a type of plain numbers."""

    def __init__(self, code: str, *_: object) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", code)):
            raise ForeignError(f"holds an array of {code!r}, not of numbers. Save only the model's weights.")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
            raise ForeignError("holds an array of records, not of numbers. Save only the model's weights.")
        self.code = order + self.code.lstrip("<>=|")

    def array(self, data: bytes | bytearray | str, shape: Sequence[int], order: str) -> np.ndarray[Any, Any]:
        """`data` as an array, without a copy where it can be written to."""
        if not isinstance(data, bytearray):
            data = bytearray(data, "latin1") if isinstance(data, str) else bytearray(data)
        dtype = np.dtype(self.code)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("an array whose data is of another size than its shape")
        array: np.ndarray[Any, Any] = np.frombuffer(data, dtype).reshape(
            tuple(shape), order="F" if order == "F" else "C"
        )
        return array.astype(dtype.newbyteorder("="), copy=False)


class StoredArray:
    """In the place of `numpy.ndarray`: the array as a tensor, once the pickle has given its state."""

    tensor: Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.tensor = torch.from_numpy(dtype.array(data, shape, "F" if fortran else "C"))


class StoredNamespace:
    """In the place of `argparse.Namespace`, which torchvision's training script saves: nothing of it is looked at."""

    def __setstate__(self, state: object) -> None:
        pass


def _reconstruct(*_: object) -> StoredArray:
    return StoredArray()


def _from_buffer(
    data: bytes | bytearray, dtype: StoredDtype, shape: Sequence[int], order: str, *_: object
) -> StoredArray:
    array = StoredArray()
    array.tensor = torch.from_numpy(dtype.array(data, shape, order))
    return array


def _scalar(dtype: StoredDtype, data: bytes | str) -> float | int | bool:
    value: float | int | bool = dtype.array(data, (), "C").item()
    return value


def _encode(text: str, encoding: str) -> bytearray:
    if encoding != "latin1":
        raise ValueError("bytes that were not written by pickle")
    return bytearray(text, "latin1")


KNOWN: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": StoredNamespace,
    "numpy.dtype": StoredDtype,
    "numpy.ndarray": StoredArray,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
"""What a pickle of arrays asks for, and what it gets."""

_GIVEN = KNOWN | {"collections.OrderedDict": OrderedDict, "_codecs.encode": _encode}


class ArrayUnpickler(pickle.Unpickler):
    """Gives values, containers and `StoredArray`; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for `module.name`. Raises `UnpicklingError` where nothing does."""
        try:
            return _GIVEN[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def read_pickle(path: Path) -> Any:
    """The value in a pickle that asks for nothing but what is known here."""
    with path.open("rb") as file:
        # What Python 2 wrote as bytes, arrays among them, was text of one byte a letter.
        return ArrayUnpickler(file, encoding="latin1").load()


_TORCH = re.compile(
    r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|(cuda\.)?\w+Storage|storage\.\w+Storage|Size|Tensor"
    r"|device|nn\.parameter\.Parameter|serialization\._get_layout|(b?float|u?int|complex)\d+\w*|bool)"
    r"|collections\.Counter|(builtins|__builtin__)\.(set|bytearray|complex)"
)
"""What torch's own reader of plain tensors and values knows."""


def refused(names: Sequence[str], *, torch_too: bool) -> list[str]:
    """Those of the `names` that a pickle asks for which no reader here gives."""
    return [n for n in names if n not in _GIVEN and not (torch_too and _TORCH.fullmatch(n))]


def wanted(file: IO[bytes]) -> list[str]:
    """The functions and classes that the pickle at the file's position asks for, as MODULE.NAME, in its order.

    Reads the pickle to its end and runs nothing. Raises `ForeignError` for one that is no state dict by its size, and
    `ValueError` for one that is cut off or damaged.
    """
    names: dict[str, None] = {}
    stack: list[str] = ["", ""]
    memo: dict[int, str] = {}
    for opcode, argument in _operations(file):
        if opcode in ("GLOBAL", "INST"):
            names[argument.replace(" ", ".", 1)] = None
        elif opcode == "STACK_GLOBAL":
            names[".".join(stack[-2:])] = None
        if opcode == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.endswith("PUT"):
            memo[argument] = stack[-1]
        else:
            value = memo.get(argument, "") if opcode.endswith("GET") else argument
            stack = [stack[-1], value[:100] if isinstance(value, str) else ""]
    return list(names)


def _operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number == _MOST_OPERATIONS:
            raise ForeignError("is a pickle of far more values than a model's weights have. Save only the weights.")
        # pickle makes room for all numbers below that of a memo; a true one is never above the count of operations.
        if opcode.name.endswith("PUT") and argument > number:
            raise ValueError("a memo of an impossible number")
        yield opcode.name, argument
