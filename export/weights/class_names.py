"""Names of classes, which no family writes into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from export.weights.errors import WeightsConfigError
from export.weights.settings import Settings

BACKGROUND: Final = "background"

_UNUSED_IDS: Final = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""COCO's category ids go to 90; these have no objects."""

# fmt: off - eighty lines otherwise
COCO_80: Final = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)
# fmt: on
"""COCO's names, in the order of their ids."""


def _by_category_id() -> tuple[str, ...]:
    names = iter(COCO_80)
    return tuple("N/A" if category in _UNUSED_IDS else next(names) for category in range(1, 91))


COCO_91: Final = _by_category_id()
"""The same at their category ids from 1, as torchvision counts; ids without objects are `N/A`."""


def class_names(num_classes: int, settings: Settings, *published: Sequence[str]) -> tuple[str, ...]:
    """Names for `num_classes` classes with the background: those of `--classes`, else of the one of the `published`
    lists that has as many, else numbers. Raises `WeightsConfigError` for a file that does not fit."""
    if settings.given.classes:
        return read_class_names(settings.given.classes, num_classes)
    for names in published:
        if len(names) == num_classes - 1:
            return BACKGROUND, *names
    return BACKGROUND, *(f"class {i}" for i in range(1, num_classes))


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The background, then the names in a text file, one a line. Raises `WeightsConfigError` where they do not fit."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsConfigError(f"{path} cannot be read as text with one class name a line.") from error
    if len(names) != num_classes - 1:
        raise WeightsConfigError(f"The names in {path} are {len(names)}, but the model has {num_classes - 1} classes.")
    if len(set(names)) < len(names):
        raise WeightsConfigError(f"{path} names a class twice.")
    return BACKGROUND, *names
