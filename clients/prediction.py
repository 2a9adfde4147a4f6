"""The answer for one picture.

Shapes: n detections by falling score, h and w of the picture. Frame: the picture as a person sees it, in pixels,
boxes (x1, y1, x2, y2) with x2 and y2 exclusive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clients.errors import InvalidAnswerError
from clients.masks import Mask, placed, to_counts
from server.contract import rle

if TYPE_CHECKING:
    import fiftyone
    import supervision
    from PIL import Image

    from clients.picture import Picture


@dataclass(frozen=True)
class Detection:
    """One object. `encoded_mask` is the mask as the server sent it, in the form that was asked for."""

    box: tuple[float, float, float, float]
    class_id: int
    label: str
    score: float
    area: int
    encoded_mask: Any = field(default=None, repr=False)

    @classmethod
    def from_wire(cls, record: Mapping[str, Any]) -> Detection:
        x1, y1, x2, y2 = (float(value) for value in record["box"])
        return cls(
            box=(x1, y1, x2, y2),
            class_id=int(record["class_id"]),
            label=str(record["class_name"]),
            score=float(record["score"]),
            area=int(record["area"]),
            encoded_mask=record.get("mask"),
        )

    def to_wire(self) -> dict[str, Any]:
        """The record as the server sent it."""
        names = {"class_id": self.class_id, "class_name": self.label}
        return {"box": list(self.box), **names, "score": self.score, "area": self.area, "mask": self.encoded_mask}

    def mask(self) -> Mask:
        """[h, w] over the whole picture. Raises `MaskFormatError` when the answer holds no masks."""
        counts, size_hw = to_counts(self.encoded_mask)
        return rle.to_mask(counts, size_hw)

    def to_coco(self, image_id: int, category_id: int) -> dict[str, Any]:
        """One COCO result; `segmentation` (compressed RLE) only where the answer holds masks."""
        x1, y1, x2, y2 = self.box
        result = {"image_id": image_id, "category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        result["score"] = self.score
        if self.encoded_mask is not None:
            counts, size_hw = to_counts(self.encoded_mask)
            result["segmentation"] = {"size": list(size_hw), "counts": rle.compress(counts)}
        return result


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, and how the answer was made.

    `timings_ms` (decode, queue, inference, postprocess, total) and `request_id` are those of the whole request.
    """

    width: int
    height: int
    detections: tuple[Detection, ...]
    model: str
    version: str
    request_id: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    batch_size: int | None = None

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.detections)

    @cached_property
    def boxes(self) -> npt.NDArray[np.float32]:
        """[n, 4] xyxy."""
        return np.array([one.box for one in self], np.float32).reshape(-1, 4)

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """[n], falling."""
        return np.array([one.score for one in self], np.float32)

    @cached_property
    def class_ids(self) -> npt.NDArray[np.int64]:
        """[n], from 1: 0 is the background."""
        return np.array([one.class_id for one in self], np.int64)

    @property
    def labels(self) -> list[str]:
        """[n] class names."""
        return [one.label for one in self]

    def masks(self) -> Mask:
        """[n, h, w], decoded at each call: n * h * w bytes. `Detection.mask` gives one at a time."""
        masks = np.zeros((len(self), self.height, self.width), np.bool_)
        for mask, one in zip(masks, self, strict=True):
            rows, columns, part = placed(one.encoded_mask, (self.height, self.width))
            mask[rows, columns] = part
        return masks

    def to_wire(self) -> dict[str, Any]:
        """The entry of the answer's `images`, as the server sent it."""
        return {"width": self.width, "height": self.height, "detections": [one.to_wire() for one in self]}

    def draw(self, image: Picture) -> Image.Image:
        """The picture, given in the form that was sent, with masks, boxes and labels on it, RGB.

        Raises `InvalidPictureError` when its size is not that of the answer.
        """
        from clients.draw import draw

        return draw(self, image)

    def to_coco(self, image_id: int, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """COCO results of this picture, as pycocotools' `loadRes` takes them.

        `category_ids` maps class names to the ids of your annotations; without it the model's class ids are used.
        """
        ids = category_ids or {}
        return [one.to_coco(image_id, ids.get(one.label, one.class_id)) for one in self]

    def to_supervision(self) -> supervision.Detections:
        """With `class_name` in its `data`. Raises `MissingExtraError` where supervision is not installed."""
        from clients.integrations import to_supervision

        return to_supervision(self)

    def to_fiftyone(self) -> fiftyone.Detections:
        """Boxes relative to the picture, masks as crops. Raises `MissingExtraError` where FiftyOne is not installed.

        Where there is a mask, the box is the answer's with its sides moved out to whole pixels: FiftyOne stretches a
        mask over its box, and only so are its pixels those of the picture.
        """
        from clients.integrations import to_fiftyone

        return to_fiftyone(self)


def parse_answer(answer: Any) -> list[Prediction]:
    """The predictions of an answer of `POST /predict`, a picture each. Raises `InvalidAnswerError`."""
    try:
        whole = {
            "model": str(answer["model"]["name"]),
            "version": str(answer["model"]["version"]),
            "request_id": answer["request_id"],
            "timings_ms": dict(answer["timings_ms"]),
            "batch_size": answer["batch_size"],
        }
        return [from_image_result(image, **whole) for image in answer["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidAnswerError(f"This is not an answer of a Maskline server: {error!r}.") from error


def from_image_result(image: Mapping[str, Any], model: str, version: str, **request: Any) -> Prediction:
    """The prediction of one entry of an answer's `images`."""
    detections = tuple(Detection.from_wire(record) for record in image["detections"])
    return Prediction(int(image["width"]), int(image["height"]), detections, model, version, **request)
