"""Average precision of both models, where the pictures are annotated. pycocotools is the judge, as in
`maskline evaluate`: the same code, found by name, so that the client is installed without it."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clients.errors import MasklineError, MissingExtraError
from clients.prediction import Prediction

KINDS = {"box": "bbox", "mask": "segm"}
DENSE = 100
"""Detections a picture that COCO counts; more where there are more."""


class AnnotationsError(MasklineError):
    """The annotation file cannot be used."""


class Judge:
    """`add` the answers for pictures, then take the `figures`.

    Raises:
        MissingExtraError: pycocotools is not installed.
        AnnotationsError: `path` is no COCO file with annotations.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._judging: Any = importlib.import_module("export.average_precision")
        except ModuleNotFoundError as error:
            raise MissingExtraError("judging by annotations", str(error.name), "export") from error
        try:
            self._truth = self._judging.read_truth(str(path))
            self._ids = {image["file_name"]: image["id"] for image in self._truth.dataset["images"]}
            self._categories = {one["name"]: one["id"] for one in self._truth.dataset["categories"]}
        except OSError as error:
            raise AnnotationsError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise AnnotationsError(f"{path} is not a COCO file with annotations.") from error
        self._results: tuple[list[Any], list[Any]] = ([], [])
        self._judged: set[int] = set()
        self._most = DENSE
        self._unknown: set[str] = set()

    def knows(self, name: str) -> bool:
        """Whether a picture of this name is annotated."""
        return name in self._ids

    def add(self, name: str, *answers: Prediction) -> None:
        """What A and B found in a picture; nothing happens where it is not annotated."""
        if not self.knows(name):
            return
        image_id = self._ids[name]
        self._judged.add(image_id)
        for results, answer in zip(self._results, answers, strict=True):
            self._most = max(self._most, len(answer))
            self._unknown.update(set(answer.labels) - set(self._categories))
            known = [one for one in answer if one.label in self._categories]
            results += [one.to_coco(image_id, self._categories[one.label]) for one in known]

    def figures(self) -> dict[str, Any]:
        """`box` and `mask`: COCO's figures [A, B], None where nothing is annotated (of that size)."""
        truth = self._judging.of_images(self._truth, self._judged)
        found: dict[str, Any] = {}
        for name, kind in KINDS.items():
            sides = [asdict(self._judging.average_precision(truth, r, kind, self._most)) for r in self._results]
            found[name] = {key: [None if side[key] != side[key] else side[key] for side in sides] for key in sides[0]}
        counted = {"pictures": len(self._judged), "max_detections": self._most}
        return {**found, **counted, "classes_not_annotated": sorted(self._unknown)}
