"""Names of classes, against COCO's category ids, and the file of `--classes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.weights import WeightsConfigError
from export.weights.class_names import COCO_80, COCO_91, class_names
from export.weights.settings import Given, Settings

USED_IDS = [
    *range(1, 12),
    *range(13, 26),
    27,
    28,
    *range(31, 45),
    *range(46, 66),
    67,
    70,
    *range(72, 83),
    *range(84, 91),
]
"""The category ids in COCO's `instances_val2017.json`."""


def named(num_classes: int, classes: Path | None = None) -> tuple[str, ...]:
    return class_names(num_classes, Settings(Given(classes=classes)), COCO_80, COCO_91)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return tmp_path / "classes.txt"


def test_ninety_one_classes_are_counted_by_category_id() -> None:
    names = named(91)
    assert len(names) == 91
    assert [i for i, name in enumerate(names) if name not in ("background", "N/A")] == USED_IDS
    known = {
        0: "background",
        1: "person",
        2: "bicycle",
        3: "car",
        10: "traffic light",
        11: "fire hydrant",
        12: "N/A",
        13: "stop sign",
        16: "bird",
        17: "cat",
        18: "dog",
        25: "giraffe",
        27: "backpack",
        28: "umbrella",
        31: "handbag",
        37: "sports ball",
        44: "bottle",
        46: "wine glass",
        62: "chair",
        64: "potted plant",
        65: "bed",
        67: "dining table",
        70: "toilet",
        72: "tv",
        77: "cell phone",
        82: "refrigerator",
        84: "book",
        88: "teddy bear",
        90: "toothbrush",
    }
    assert {i: names[i] for i in known} == known


def test_eighty_classes_are_counted_without_gaps() -> None:
    names = named(81)
    assert len(names) == len(set(names)) == 81
    assert names == tuple(name for name in named(91) if name != "N/A")
    known = {0: "background", 1: "person", 12: "stop sign", 16: "cat", 57: "chair", 63: "tv", 80: "toothbrush"}
    assert {i: names[i] for i in known} == known


def test_other_counts_are_numbered() -> None:
    assert named(4) == ("background", "class 1", "class 2", "class 3")


def test_a_file_goes_before_every_list(classes: Path) -> None:
    names = [f"thing {i}" for i in range(80)]
    classes.write_text("\n".join(names))
    assert named(81, classes) == ("background", *names)


def test_a_file_by_hand(classes: Path) -> None:
    classes.write_bytes("  red cell\r\n\r\nZellkörper\t\r\n".encode())
    assert named(3, classes) == ("background", "red cell", "Zellkörper")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"cat\n", "are 1, but the model has 2 classes", id="too few"),
        pytest.param(b"cat\ndog\nbird\n", "are 3, but the model has 2 classes", id="too many"),
        pytest.param(b"cat\n cat \n", "names a class twice", id="twice"),
        pytest.param(b"\xff\xfec\x00a\x00t\x00", "cannot be read as text", id="not UTF-8"),
    ],
)
def test_a_file_that_does_not_fit(classes: Path, content: bytes, sentence: str) -> None:
    classes.write_bytes(content)
    with pytest.raises(WeightsConfigError, match=sentence) as raised:
        named(3, classes)
    assert str(classes) in str(raised.value)


def test_no_such_file(classes: Path) -> None:
    with pytest.raises(WeightsConfigError, match=r"classes\.txt cannot be read"):
        named(3, classes)
