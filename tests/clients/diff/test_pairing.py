"""Pairing, by hand and beside pycocotools' matching."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clients.diff.pairing import Comparison, compare, iou_matrix
from clients.errors import InvalidAnswerError, MaskFormatError
from clients.prediction import Detection, Prediction

SIZE_HW = (40, 60)
Mask = npt.NDArray[np.bool_]


def found(mask: Mask, label: str = "cell", score: float = 0.9) -> Detection:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    return Detection((0.0, 0.0, 1.0, 1.0), 1, label, score, int(mask.sum()), text)


def block(x1: int, y1: int, x2: int, y2: int, label: str = "cell", score: float = 0.9) -> Detection:
    mask = np.zeros(SIZE_HW, bool)
    mask[y1:y2, x1:x2] = True
    return found(mask, label, score)


def answer(*detections: Detection, size_hw: tuple[int, int] = SIZE_HW) -> Prediction:
    return Prediction(size_hw[1], size_hw[0], detections, "m", "1")


def counts(comparison: Comparison) -> tuple[int, int, int, int]:
    return tuple(map(len, (comparison.kept, comparison.changed, comparison.lost, comparison.gained)))  # type: ignore[return-value] # four


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param([], [], (0, 0, 0, 0), id="nothing in either"),
        pytest.param([block(0, 0, 9, 9)], [], (0, 0, 1, 0), id="lost"),
        pytest.param([], [block(0, 0, 9, 9)], (0, 0, 0, 1), id="gained"),
        pytest.param([block(0, 0, 9, 9)], [block(0, 0, 9, 9)], (1, 0, 0, 0), id="kept"),
        pytest.param([block(0, 0, 9, 9)], [block(0, 0, 9, 9, "dust")], (0, 1, 0, 0), id="another class"),
        pytest.param([block(0, 0, 10, 10)], [block(0, 0, 10, 5)], (1, 0, 0, 0), id="IoU of one half"),
        pytest.param([block(0, 0, 10, 11)], [block(0, 0, 10, 5)], (0, 0, 1, 1), id="IoU below one half"),
        pytest.param([block(0, 0, 9, 9)], [block(20, 0, 29, 9)], (0, 0, 1, 1), id="elsewhere"),
        pytest.param(
            [block(0, 0, 9, 9)], [block(0, 0, 9, 9, score=0.6), block(0, 0, 9, 8, score=0.7)], (1, 0, 0, 1), id="twice"
        ),
        pytest.param(
            [block(0, 0, 9, 9), block(20, 0, 30, 10), block(40, 0, 50, 10, "dust")],
            [block(40, 0, 50, 9), block(0, 0, 9, 9), block(0, 20, 9, 30, "dust")],
            (1, 1, 1, 1),
            id="each kind",
        ),
        pytest.param(
            [block(0, 0, 9, 9, "dust"), block(0, 0, 9, 8)],
            [block(0, 0, 9, 9)],
            (1, 0, 1, 0),
            id="its own class before a better overlap",
        ),
    ],
)
def test_counts_known_by_hand(a: list[Detection], b: list[Detection], expected: tuple[int, ...]):
    assert counts(compare(answer(*a), answer(*b), 0.5)) == expected


def test_the_surer_object_chooses_first():
    a = [block(0, 0, 10, 10), block(0, 0, 10, 8, score=0.8)]
    b = [block(0, 0, 10, 9, score=0.5), block(0, 0, 10, 10, score=0.95)]
    kept = compare(answer(*a), answer(*b), 0.5).kept
    assert [(pair.a.score, pair.b.score) for pair in kept] == [(0.9, 0.95), (0.8, 0.5)]
    assert [pair.iou for pair in kept] == [1.0, pytest.approx(80 / 90)]
    assert [pair.score_change for pair in kept] == pytest.approx([0.05, -0.3])


def test_change_is_in_objects():
    a = [block(0, 0, 9, 9), block(20, 0, 30, 10), block(40, 0, 50, 10, "dust")]
    b = [block(40, 0, 50, 9), block(0, 0, 9, 9), block(20, 0, 30, 8)]
    assert compare(answer(*a), answer(*b), 0.5).change == pytest.approx(1 + (1 - 0.8))
    assert compare(answer(*a), answer(*a), 0.5).change == 0


def test_what_fell_below_the_threshold_is_lost_but_there():
    a = [
        block(0, 0, 9, 9, score=0.51),
        block(20, 0, 30, 10),
        block(40, 0, 50, 10, "dust", 0.5),
        block(0, 20, 9, 30, score=0.2),
    ]
    b = [block(0, 0, 9, 8, score=0.49), block(20, 0, 30, 10, "dust", 0.4), block(40, 0, 50, 10, "dust", 0.5)]
    b.append(block(0, 20, 9, 30, score=0.7))
    comparison = compare(answer(*a), answer(*b), 0.5)
    assert counts(comparison) == (1, 0, 2, 1)
    assert [(one.found.score, one.unsure) for one in comparison.lost] == [(0.9, None), (0.51, 0.49)]
    assert [(one.found.score, one.unsure) for one in comparison.gained] == [(0.7, 0.2)]


def random_masks(rng: np.random.Generator, count: int) -> list[Mask]:
    """Ellipses and noise, some of them over one another, one without a pixel, one over the whole picture."""
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    masks = [np.zeros(SIZE_HW, bool), np.ones(SIZE_HW, bool), rng.random(SIZE_HW) < 0.5]
    for _ in range(count - len(masks)):
        cx, cy, rx, ry = rng.uniform((0, 0, 3, 3), (SIZE_HW[1], SIZE_HW[0], 14, 14))
        masks.append(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1)
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_iou_is_pycocotools(seed: int):
    rng = np.random.default_rng(seed)
    a, b = ([found(mask) for mask in random_masks(rng, n)] for n in (17, 12))
    rles = [[one.encoded_mask for one in side] for side in (a, b)]
    expected = coco_mask.iou(rles[0], rles[1], [0] * len(b))
    np.testing.assert_array_equal(iou_matrix(a, b), np.nan_to_num(expected))


@pytest.mark.parametrize("seed", range(6))
def test_pairs_are_pycocotools(seed: int):
    """A as annotations, B as results; matched at IoU 0.5."""
    rng = np.random.default_rng(seed)
    shared = random_masks(rng, 30)[3:]
    sides = []
    for _ in range(2):
        masks = [(np.roll(mask, rng.integers(-3, 4, 2), (0, 1)), "xy"[k % 3 // 2]) for k, mask in enumerate(shared)]
        sides.append([found(m, label, float(rng.random())) for m, label in masks if m.any() and rng.random() < 0.8])
    comparison = compare(answer(*sides[0]), answer(*sides[1]), 0.0)
    assert {(p.a.score, p.b.score) for p in comparison.kept} == matched(*sides)
    assert len(comparison.kept) > 5
    assert counts(comparison)[0] + counts(comparison)[1] + len(comparison.lost) == len(sides[0])
    assert counts(comparison)[0] + counts(comparison)[1] + len(comparison.gained) == len(sides[1])


def matched(a: list[Detection], b: list[Detection]) -> set[tuple[float, float]]:
    """Scores of what pycocotools pairs."""
    by_score = sorted(a, key=lambda one: -one.score)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": SIZE_HW[0], "width": SIZE_HW[1]}],
        "categories": [{"id": k, "name": name} for k, name in enumerate("xy", start=1)],
        "annotations": [{**coco(one), "id": k, "iscrowd": 0} for k, one in enumerate(by_score, start=1)],
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes([coco(one) for one in b]), "segm")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    pairs = set()
    for judged in evaluation.evalImgs[:: len(evaluation.params.areaRng)]:
        for annotation_id, score in zip(judged["dtMatches"][0], judged["dtScores"], strict=True):
            if annotation_id:
                pairs.add((by_score[int(annotation_id) - 1].score, score))
    return pairs


def coco(one: Detection) -> dict[str, Any]:
    found = {"image_id": 1, "category_id": "xy".index(one.label) + 1, "segmentation": one.encoded_mask}
    return {**found, "area": one.area, "score": one.score}


def test_without_masks_there_is_nothing_to_compare():
    nothing = Detection((0.0, 0.0, 9.0, 9.0), 1, "cell", 0.9, 81)
    with pytest.raises(MaskFormatError):
        compare(answer(nothing), answer(nothing), 0.5)


def test_answers_for_different_pictures_are_refused():
    with pytest.raises(InvalidAnswerError, match="A answered for 60 x 40 pixels, B for 40 x 60"):
        compare(answer(), answer(size_hw=(60, 40)), 0.5)
