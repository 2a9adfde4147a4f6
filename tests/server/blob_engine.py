"""An engine that finds blobs by their colour, pixel by pixel: what it should find is known exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from server.contract.card import ModelCard
from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FAKE_CARD

MASK_SIZE = 200
"""Twice the side of the largest box for which masks come out exactly."""

BLOB_CARD = ModelCard.model_validate(
    {
        **FAKE_CARD.model_dump(),
        "name": "blobs",
        "classes": ["background", "red", "green"],
        "input": {
            "resize": {
                "rule": "grow_shortest_edge",
                "min_size": 1,
                "max_size": 4096,
                "rounding": "half_up",
                "interpolation": "antialias",
            },
            "dtype": "uint8",
            "placement": "top_left",
            "padding": "zero",
            "size_divisor": 32,
            "canvases": "exact",
        },
        "output": {
            "mask_size": MASK_SIZE,
            "mask_paste": "detectron2",
            "max_detections": 60,
            "score_threshold": 0.01,
            "default_score_threshold": 0.5,
            "nms_iou_threshold": 0.5,
        },
    }
)


def blobs(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The parts of a mask [h, w] whose pixels share edges: one pixel's runs, and the runs beside these."""
    runs = [
        (y, x1, x2)
        for y, row in enumerate(mask)
        for x1, x2 in np.flatnonzero(np.diff(row, prepend=False, append=False)).reshape(-1, 2).tolist()
    ]
    in_row: dict[int, set[tuple[int, int, int]]] = {}
    for run in runs:
        in_row.setdefault(run[0], set()).add(run)
    for first in runs:
        blob, front = np.zeros_like(mask), [first] if first in in_row[first[0]] else []
        in_row[first[0]].discard(first)
        while front:
            y, x1, x2 = front.pop()
            blob[y, x1:x2] = True
            beside = [run for j in (y - 1, y + 1) for run in in_row.get(j, ()) if run[1] < x2 and x1 < run[2]]
            for run in beside:
                in_row[run[0]].discard(run)
            front += beside
        if blob.any():
            yield blob


def colours(picture: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Class and mask of what is red, and of what is green."""
    yield 1, (picture[..., 0] > 127) & (picture[..., 1] < 128)
    yield 2, (picture[..., 1] > 127) & (picture[..., 0] < 128)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


class BlobEngine:
    """Red and green blobs; the larger in the tile, the higher the score."""

    card = BLOB_CARD
    description = "finds blobs"
    max_batch: int | None = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if images.any():
            self.batches.append(len(images))
        rows, masks = [np.zeros(7)], [np.zeros((MASK_SIZE, MASK_SIZE), np.float32)]
        for index, image in enumerate(images):
            for class_id, mask in colours(image):
                for blob in blobs(mask):
                    x1, y1, x2, y2 = box_of(blob)
                    score = 0.6 + 0.3 * blob.sum() / blob.size
                    rows.append(np.array([index, x1, y1, x2, y2, score, class_id]))
                    masks.append(_enlarged(blob[y1:y2, x1:x2]))
        order = np.argsort([row[0] * 2 - row[5] for row in rows], kind="stable")
        return Detections(np.array(rows, np.float32)[order], np.array(masks, np.float32)[order])

    def close(self) -> None:
        pass


def _enlarged(mask: np.ndarray) -> np.ndarray:
    """To the network's size; pasted, it is the mask again, as long as each pixel has two of these."""
    y, x = (((np.arange(MASK_SIZE) + 0.5) / MASK_SIZE * side).astype(int) for side in mask.shape)
    return mask[np.ix_(y, x)].astype(np.float32)
