"""How a picture becomes a request, by the kind of server: `--adapter NAME[=ARGUMENT]`.

maskline         the picture as the body of POST URL/predict
raw              the picture as the body of POST URL
multipart=FIELD  as a file of a form, POST URL; FIELD is `image` unless given
json=FIELD       as base64 in a JSON object, POST URL; FIELD is `image` unless given
v2=MODEL         Open Inference protocol (Triton, KServe): the encoded picture as the model's one input, of type BYTES
                 or UINT8
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = ("maskline", "raw", "multipart", "json", "v2")
BOUNDARY = "maskline-loadtest-0d5ae7c1"


class AdapterError(Exception):
    """The target cannot be asked this way; the message is for the person at the command line."""


@dataclass(frozen=True, slots=True)
class Request:
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """`path` follows the URL that was given; `request` makes one of an encoded picture."""

    name: str
    path: str
    request: Callable[[bytes], Request]


def adapter(text: str, url: str, api_key: str | None = None) -> Adapter:
    """Of a command line. Raises `AdapterError`; v2 asks the server about the model first."""
    name, _, argument = text.partition("=")
    match name:
        case "maskline" if not argument:
            return MASKLINE
        case "raw" if not argument:
            return Adapter(name, "", lambda picture: Request(picture, {"Content-Type": media_type(picture)}))
        case "multipart":
            return Adapter(name, "", lambda picture: _multipart(argument or "image", picture))
        case "json":
            return Adapter(name, "", lambda picture: _json(argument or "image", picture))
        case "v2" if argument:
            return _v2(argument, url, api_key)
    raise AdapterError(f"--adapter {text}: give maskline, raw, multipart[=FIELD], json[=FIELD] or v2=MODEL")


def media_type(picture: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.get_format_mimetype() or "application/octet-stream"
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return "application/octet-stream"


def _octets(picture: bytes) -> Request:
    return Request(picture, {"Content-Type": "application/octet-stream"})


def _multipart(name: str, picture: bytes) -> Request:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="picture"\r\n'
    head += f"Content-Type: {media_type(picture)}\r\n\r\n"
    body = head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Request(body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def _json(name: str, picture: bytes) -> Request:
    body = json.dumps({name: base64.b64encode(picture).decode()}).encode()
    return Request(body, {"Content-Type": "application/json"})


def _v2(model: str, url: str, api_key: str | None) -> Adapter:
    path = f"/v2/models/{model}"
    metadata = _metadata(url + path, api_key)
    inputs = metadata.get("inputs", [])
    usable = [one for one in inputs if one.get("datatype") == "BYTES" or _takes_a_file(one)]
    others = [one for one in inputs if one not in usable]
    if not usable or (others and usable[0]["datatype"] != "BYTES"):
        described = ", ".join(f"{one.get('name')} {one.get('datatype')} {one.get('shape')}" for one in inputs)
        raise AdapterError(f"{model} takes no encoded picture, but: {described or 'nothing'}")
    chosen = usable[0]
    return Adapter("v2", f"{path}/infer", lambda picture: _tensor(chosen, picture))


def _takes_a_file(tensor: Mapping[str, Any]) -> bool:
    """[bytes] or [batch, bytes], of any length: what decodes on the server, such as DALI, takes."""
    shape = [int(side) for side in tensor.get("shape", [])]
    return tensor.get("datatype") == "UINT8" and len(shape) in (1, 2) and shape[-1] == -1


def _metadata(address: str, api_key: str | None) -> dict[str, Any]:
    import httpx2

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx2.get(address, headers=headers, timeout=10.0)
        response.raise_for_status()
        answer = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise AdapterError(f"{address}: {error}") from error
    return answer if isinstance(answer, dict) else {}


def _tensor(tensor: Mapping[str, Any], picture: bytes) -> Request:
    """The protocol's binary extension: a JSON head, then the tensor's bytes."""
    is_text = tensor["datatype"] == "BYTES"
    data = struct.pack("<I", len(picture)) + picture if is_text else picture
    shape = [1] * len(tensor["shape"]) if is_text else [1] * (len(tensor["shape"]) - 1) + [len(picture)]
    parameters = {"binary_data_size": len(data)}
    inputs = [
        {"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "parameters": parameters},
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return Request(head + data, {"Content-Type": "application/octet-stream", **length})


MASKLINE = Adapter("maskline", "/predict", _octets)
