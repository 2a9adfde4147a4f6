"""Whose weights a file holds, or what it is instead."""

from __future__ import annotations

from export.weights import detectron2, matterport, native, torchvision
from export.weights.errors import UnrecognisedWeightsError
from export.weights.files import WeightsFile
from export.weights.settings import Family

_SIGNATURES: dict[str, Family] = {
    torchvision.SIGNATURE: "torchvision",
    detectron2.SIGNATURE: "detectron2",
    matterport.SIGNATURE: "matterport",
}


def recognise(file: WeightsFile, said: Family | None = None) -> Family:
    """The family of the weights in `file`. Raises `UnrecognisedWeightsError` that says what the file is instead, also
    where it is not of the family that the person `said`."""
    found = _family(file)
    if found is None or (said and said != found):
        raise UnrecognisedWeightsError(f"{file.path} is not the weights of a Mask R-CNN that can be imported.")
    return found


def _family(file: WeightsFile) -> Family | None:
    if native.FORMAT_KEY in file.content:
        return "native"
    return next((family for name, family in _SIGNATURES.items() if name in file.tensors), None)
