"""An answer as tensors: n pictures, d detections of the picture that has most; the rest is zeros and empty bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from server.contract.wire import Detection, ImageResult, ModelRef, RleMask

Tensor = npt.NDArray[Any]

INPUTS: Final = {"image": ("BYTES", [-1]), "pixels": ("UINT8", [-1, -1, -1, 3])}
"""Of either: picture files, or RGB pixels."""
OUTPUTS: Final = {
    "num_detections": ("INT32", [-1]),
    "boxes": ("FP32", [-1, -1, 4]),
    "scores": ("FP32", [-1, -1]),
    "class_ids": ("INT32", [-1, -1]),
    "rle_counts": ("BYTES", [-1, -1]),
    "sizes": ("INT32", [-1, 2]),
}
"""Datatype and shape; -1: any size. Boxes (x1, y1, x2, y2) in pixels of the picture; `rle_counts` are COCO's compressed
counts of masks whose height and width `sizes` have."""


def tensors(images: Sequence[ImageResult]) -> dict[str, Tensor]:
    """All outputs. BYTES are of dtype object."""
    detections = [image.detections for image in images]
    n, d = len(images), max(map(len, detections), default=0)
    boxes, scores = np.zeros((n, d, 4), "<f4"), np.zeros((n, d), "<f4")
    class_ids, rle_counts = np.zeros((n, d), "<i4"), np.full((n, d), b"", object)
    for i, found in enumerate(detections):
        for j, one in enumerate(found):
            boxes[i, j], scores[i, j], class_ids[i, j], rle_counts[i, j] = one.box, one.score, one.class_id, _rle(one)
    return {
        "num_detections": np.array([len(found) for found in detections], "<i4"),
        "boxes": boxes,
        "scores": scores,
        "class_ids": class_ids,
        "rle_counts": rle_counts,
        "sizes": np.array([(image.height, image.width) for image in images], "<i4").reshape(n, 2),
    }


def encode(found: Mapping[str, Tensor], outputs: Mapping[str, bool], model: ModelRef, id_: str) -> tuple[bytes, int]:
    """The answer's body, and how many bytes of it are JSON. `outputs` says for each tensor whether it is binary."""
    described, binary = [], []
    for name, as_binary in outputs.items():
        tensor = found[name]
        entry: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name][0], "shape": tensor.shape}
        if as_binary:
            binary.append(_binary(tensor))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = _json(tensor)
        described.append(entry)
    document = {"model_name": model.name, "model_version": model.version, "outputs": described}
    header = orjson.dumps(document | ({"id": id_} if id_ else {}), option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((header, *binary)), len(header)


def _rle(detection: Detection) -> bytes:
    return detection.mask.counts.encode() if isinstance(detection.mask, RleMask) else b""


def _binary(tensor: Tensor) -> bytes:
    if tensor.dtype != object:
        return tensor.tobytes()
    return b"".join(part for text in tensor.flat for part in (struct.pack("<I", len(text)), text))


def _json(tensor: Tensor) -> Any:
    return [text.decode() for text in tensor.flat] if tensor.dtype == object else tensor.ravel()
