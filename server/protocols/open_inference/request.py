"""An inference request: its JSON, and the tensors behind it, never trusted.

n pictures, each a file in a BYTES tensor [n], or h x w pixels of a UINT8 tensor [n, h, w, 3].
"""

from __future__ import annotations

import itertools
import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from server.contract.errors import BadParameter, BodyTooLarge
from server.contract.wire import LONGEST_TIMEOUT_MS, PredictBody, PredictOptions
from server.pictures.decode import Picture
from server.protocols.body import too_many_pictures
from server.protocols.open_inference.schema import (
    IGNORED,
    PASSED_ON,
    InferInput,
    InferOutput,
    InferParameters,
    InferRequest,
)
from server.protocols.open_inference.tensors import OUTPUTS

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of the JSON; the binary tensors come after it. 0: no JSON, the body is the one picture file."""
MAX_JSON_VALUES = 1 << 21
"""A parser makes 64 bytes of "0,"; so many are a picture of 700000 pixels."""
MAX_JSON_MEMBERS = 1000

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Asked:
    """What a request asks for; `outputs` says for each tensor whether it comes as binary."""

    pictures: Sequence[bytes | Picture]
    options: PredictOptions
    outputs: Mapping[str, bool]
    id: str = ""


def parse(body: bytes, header_length: str | None, model: str, version: str | None, max_pictures: int) -> Asked:
    """What the body asks of a model.

    Raises:
        BadParameter: it is no request, or asks for what is not there.
        BodyTooLarge: too many pictures, or too much of it is JSON.
        UndecodablePicture, BadPictureInBatch: a picture in JSON is not in base64.
    """
    if header_length == "0":
        return Asked([body], PredictOptions(model=model, version=version), dict.fromkeys(OUTPUTS, True))
    header, binary = _split(body, header_length)
    request = read_json(header, InferRequest)
    outputs = _outputs(request)
    options = _options(request.parameters, "rle" if "rle_counts" in outputs else "none", model, version)
    return Asked(_pictures(request.inputs, binary, max_pictures), options, outputs, request.id)


def read_json(body: bytes, kind: type[Document]) -> Document:
    """Raises `BadParameter`, or `BodyTooLarge` for more than is parsed."""
    if body.count(b":") > MAX_JSON_MEMBERS:
        raise BodyTooLarge(f"The JSON has more than {MAX_JSON_MEMBERS} members.")
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise BodyTooLarge(f"The JSON has more than {MAX_JSON_VALUES} values; send large tensors as binary.")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadParameter(f"JSON{f', {where}' if where else ''}: {first['msg']}.") from None


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 18:
        raise BadParameter(f"{HEADER_LENGTH} is {header_length[:40]!r}; it is the number of bytes of the JSON.")
    length = int(header_length)
    if length > len(body):
        raise BadParameter(f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes.")
    return body[:length], memoryview(body)[length:]


# What is asked


def _outputs(request: InferRequest) -> dict[str, bool]:
    binary = request.parameters.binary_data_output
    asked: dict[str, bool] = {output.name: _is_binary(output, binary) for output in request.outputs}
    if len(asked) < len(request.outputs):
        raise BadParameter("The request asks for an output more than once.")
    return asked or dict.fromkeys(OUTPUTS, binary)


def _is_binary(output: InferOutput, otherwise: bool) -> bool:
    _refuse_shared_memory(output.parameters)
    if output.parameters.get("classification"):
        raise BadParameter("classification is for models with one class a picture; scores and class_ids have it here.")
    binary = output.parameters.get("binary_data", otherwise)
    if not isinstance(binary, bool):
        raise BadParameter(f"The output {output.name!r} has a binary_data that is neither true nor false.")
    return binary


def _options(parameters: InferParameters, mask: str, model: str, version: str | None) -> PredictOptions:
    values = {"model": model, "mask": mask, "priority": "low" if parameters.priority > 1 else "normal"}
    if version is not None:
        values["version"] = version
    if parameters.timeout:
        values["timeout_ms"] = str(min(-(-parameters.timeout // 1000), LONGEST_TIMEOUT_MS))
    for name, value in (parameters.model_extra or {}).items():
        if name.startswith(IGNORED):
            continue
        if name not in PASSED_ON:
            raise BadParameter(f"Nothing here is called {name[:40]!r}; other parameters are {', '.join(PASSED_ON)}.")
        if not isinstance(value, str | int | float):
            raise BadParameter(f"The parameter {name!r} is neither a number nor a text.")
        values[name] = str(value)
    return PredictOptions.from_query(values)


def _refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if any(name.startswith("shared_memory") for name in parameters):
        raise BadParameter("This server shares no memory with its clients; send and take tensors in bodies.")


# Tensors


def _pictures(inputs: Sequence[InferInput], binary: memoryview, max_pictures: int) -> list[bytes | Picture]:
    names = Counter(tensor.name for tensor in inputs)
    if len(inputs) != 1:
        twice = f"{inputs[0].name!r} twice" if len(names) == 1 else "'image' and 'pixels'"
        raise BadParameter(f"The request has {twice}; send one input.")
    tensor = inputs[0]
    _refuse_shared_memory(tensor.parameters)
    _check_shape(tensor, max_pictures)
    content = _binary_content(tensor, binary)
    if tensor.name == "image":
        return [*(_files_of_json(tensor) if content is None else _files(content, tensor.shape[0]))]
    return [*_pixels(_numbers_of_json(tensor) if content is None else content, tensor.shape)]


def _check_shape(tensor: InferInput, max_pictures: int) -> None:
    datatype, rank, wanted = ("BYTES", 1, "[n]") if tensor.name == "image" else ("UINT8", 4, "[n, h, w, 3]")
    if tensor.datatype != datatype:
        raise BadParameter(f"The input {tensor.name!r} has the datatype {tensor.datatype}; it is {datatype}.")
    shape = tensor.shape
    if len(shape) != rank or min(shape) < 1 or (rank == 4 and shape[3] != 3):
        raise BadParameter(f"The input {tensor.name!r} has the shape {str(shape)[:80]}; it is {wanted}.")
    if shape[0] > max_pictures:
        raise too_many_pictures(max_pictures)


def _binary_content(tensor: InferInput, binary: memoryview) -> memoryview | None:
    """None where the tensor is in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise BadParameter(f"{len(binary)} bytes after the JSON belong to no input.")
        return None
    if tensor.data is not None:
        raise BadParameter(f"The input {tensor.name!r} has both data and binary_data_size.")
    if size != len(binary) or isinstance(size, bool | float):
        raise BadParameter(f"binary_data_size is {str(size)[:40]}, but {len(binary)} bytes follow the JSON.")
    return binary


def _files(content: memoryview, count: int) -> list[bytes]:
    """Each is preceded by its length in 4 bytes, little endian."""
    files, at = [], 0
    for index in range(count):
        if at + 4 > len(content):
            raise BadParameter(f"The input 'image' ends before picture {index} (counting from 0) of {count}.")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        if at + size > len(content):
            raise BadParameter(f"Picture {index} (counting from 0) says {size} bytes, and {len(content) - at} follow.")
        files.append(bytes(content[at : at + size]))
        at += size
    if at < len(content):
        raise BadParameter(f"The input 'image' has {len(content) - at} bytes more than its {count} pictures.")
    return files


def _pixels(content: bytes | memoryview, shape: Sequence[int]) -> Picture:
    if len(content) != math.prod(shape):
        raise BadParameter(f"The input 'pixels' has {len(content)} values; its shape {list(shape)} says otherwise.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _files_of_json(tensor: InferInput) -> list[bytes]:
    texts = _flat(tensor)
    if len(texts) != tensor.shape[0] or not all(isinstance(text, str) for text in texts):
        raise BadParameter(f"The data of 'image' is not {tensor.shape[0]} texts; send picture files in base64.")
    body = PredictBody(image=texts[0]) if len(texts) == 1 else PredictBody(images=texts)
    return body.pictures()


def _numbers_of_json(tensor: InferInput) -> bytes:
    try:
        return bytes(_flat(tensor))
    except (TypeError, ValueError):
        raise BadParameter("The data of 'pixels' has something else than whole numbers from 0 to 255.") from None


def _flat(tensor: InferInput) -> list[Any]:
    if tensor.data is None:
        raise BadParameter(f"The input {tensor.name!r} has neither data nor binary_data_size.")
    values = tensor.data
    for _ in tensor.shape[1:]:
        values = list(itertools.chain.from_iterable(v if isinstance(v, list) else (v,) for v in values))
    return values
