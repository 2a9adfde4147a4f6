"""The rules by which a bundle is compared with its model, on detections made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from export.agreement import Report, compare
from export.pictures import MOST, PicturesError, read_examples
from server.contract.card import Output
from server.contract.wire import Detection, ImageResult, RleMask

LIMITS = Output(
    mask_size=28,
    mask_paste="detectron2",
    max_detections=4,
    score_threshold=0.05,
    default_score_threshold=0.5,
    nms_iou_threshold=0.5,
)


def found(
    x: float = 10, score: float = 0.9, *, class_id: int = 1, side: float = 20, mask_side: int | None = None
) -> Detection:
    """A square at (x, 10) whose mask fills it."""
    mask = np.zeros((100, 200), np.uint8, order="F")
    filled = int(mask_side or side)
    mask[10 : 10 + filled, int(x) : int(x) + filled] = 1
    rle = RleMask((100, 200), coco_mask.encode(mask)["counts"].decode())
    return Detection((x, 10.0, x + side, 10.0 + side), class_id, f"class {class_id}", score, int(mask.sum()), rle)


def compared(expected: list[Detection], got: list[Detection]) -> Report:
    report = Report()
    compare(report, ImageResult(200, 100, expected), ImageResult(200, 100, got), "a picture", LIMITS)
    return report


def test_rounding_is_agreement() -> None:
    report = compared([found(10, 0.9), found(50, 0.8)], [found(10.005, 0.90005), found(50, 0.8)])
    assert (report.detections, report.agreeing, report.disagreeing) == (2, 2, 0)
    assert report.max_box_difference_px == pytest.approx(0.005)
    assert report.max_score_difference == pytest.approx(5e-5)
    assert report.accepted
    assert report.fault == ""


def test_order_does_not_matter_where_scores_are_equal() -> None:
    assert compared([found(10), found(50)], [found(50), found(10)]).agreeing == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(found(10.02), id="box"),
        pytest.param(found(10, 0.9002), id="score"),
        pytest.param(found(10, class_id=2), id="class"),
    ],
)
def test_a_difference_is_one_missing_and_one_surplus(other: Detection) -> None:
    report = compared([found()], [other])
    assert (report.agreeing, report.disagreeing) == (0, 2)
    assert not report.accepted
    missing, surplus = report.disagreements
    assert missing == "in a picture, class 1 with score 0.9000 at (10.00, 10.00, 30.00, 30.00) is missing."
    assert surplus.endswith("is surplus.")
    assert missing in report.fault


def test_a_score_at_the_graph_s_threshold_excuses() -> None:
    report = compared([found(), found(60, 0.05005)], [found()])
    assert (report.excused, report.disagreeing) == (1, 0)


def test_the_last_place_of_a_full_list_excuses() -> None:
    both = [found(10), found(50), found(90)]
    report = compared([*both, found(130, 0.5)], [*both, found(160, 0.49995)])
    assert (report.agreeing, report.excused, report.disagreeing) == (3, 2, 0)


def test_the_last_place_of_a_list_with_room_does_not() -> None:
    assert compared([found(10), found(130, 0.5)], [found(10), found(160, 0.49995)]).disagreeing == 2


def test_an_overlap_at_the_nms_threshold_excuses() -> None:
    # Squares of side 30 shifted by 10: intersection 600, union 1200, IoU 0.5.
    report = compared([found(10, side=30), found(20, 0.8, side=30)], [found(10, side=30)])
    assert (report.excused, report.disagreeing) == (1, 0)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(found(20, 0.8, side=30, class_id=2), id="of another class"),
        pytest.param(found(20.2, 0.8, side=30), id="a little farther"),
    ],
)
def test_another_overlap_does_not(second: Detection) -> None:
    assert compared([found(10, side=30), second], [found(10, side=30)]).disagreeing == 1


def test_mask_pixels_are_counted() -> None:
    report = compared([found(side=20)], [found(side=20, mask_side=19)])
    assert (report.mask_pixels, report.mask_pixels_differing) == (400, 39)
    assert report.fault == "39 of 400 mask pixels are not PyTorch's."


def test_one_in_two_hundred_may_disagree() -> None:
    report = Report(detections=400, disagreeing=2, disagreements=["in a picture, ..."])
    assert report.accepted
    report.disagreeing = 3
    assert not report.accepted


@pytest.mark.parametrize(
    ("unsteady", "disagreeing", "accepted"),
    [
        pytest.param(0.02, 16, True, id="twice what PyTorch changes itself"),
        pytest.param(0.02, 17, False, id="more than that"),
        pytest.param(0.9, 100, True, id="a quarter"),
        pytest.param(0.9, 101, False, id="never more than a quarter"),
        pytest.param(0.0, 3, False, id="a steady model"),
    ],
)
def test_an_unsteady_model_may_disagree_as_it_does_with_itself(
    unsteady: float, disagreeing: int, accepted: bool
) -> None:
    report = Report(detections=400, disagreeing=disagreeing, disagreements=["in a picture, ..."])
    report.unsteady_detections = report.unsteady_mask_pixels = unsteady
    assert report.accepted == accepted


def test_a_picture_without_detections_counts() -> None:
    report = compared([], [])
    assert (report.pictures_without_detections, report.detections) == (1, 0)
    assert report.to_dict()["verdict"] == "accepted"
    assert json.loads(json.dumps(report.to_dict()))["tolerance"]["box_px"] == 0.01


def save_picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 10, 10)).save(path)


def test_generated_pictures_are_the_same_each_time() -> None:
    first, second = read_examples(None), read_examples(None)
    assert len({e.picture.shape for e in first}) == len(first) == 4
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(first, second, strict=True))


def test_a_folder_s_pictures_are_taken_evenly(tmp_path: Path) -> None:
    for i in range(50):
        save_picture(tmp_path / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    names = [example.name for example in read_examples(tmp_path)]
    assert (len(names), names[0], names[-1]) == (MOST, "00.png", "49.png")


def test_coco_data_gives_the_pictures_of_its_validation_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_picture(tmp_path / split / f"of {split}.png")
        annotations = tmp_path / "annotations" / f"instances_{split}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps({"images": [{"id": 1, "file_name": f"of {split}.png"}]}))
    (example,) = read_examples(tmp_path)
    assert (example.name, example.picture.shape) == ("of val.png", (30, 40, 3))


def test_places_without_usable_pictures(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="holds no pictures"):
        read_examples(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.raises(PicturesError, match=r"broken\.jpg"):
        read_examples(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(PicturesError, match="holds no instances_SPLIT"):
        read_examples(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(PicturesError, match="not a COCO file"):
        read_examples(tmp_path)
