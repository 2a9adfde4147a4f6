"""Views: whatever is done to the picture is done to its masks, and boxes follow from the masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from export.model.config import InputConfig
from export.training.augment import View, mask_boxes, training_view
from export.training.config import AugmentConfig
from export.training.dataset import Picture

HEIGHT, WIDTH = 40, 60
STILL = AugmentConfig(horizontal_flip=0.0)
AS_IT_IS = InputConfig(min_size=HEIGHT, max_size=WIDTH)


def masks() -> NDArray[np.uint8]:
    made = np.zeros((3, HEIGHT, WIDTH), dtype=np.uint8)
    made[0, 4:20, 6:18] = 1
    made[0, 4:8, 6:10] = 0
    made[1, 22:38, 30:58] = 1
    made[2, 30:34, 2:6] = 1
    return made


def picture(crowd: tuple[bool, ...] = (False, False, False)) -> Picture:
    """Objects painted 200, 120 and 60 on black, so that the picture shows where each has gone."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for mask, grey in zip(masks(), (200, 120, 60), strict=True):
        image[mask == 1] = grey
    return Picture(
        name="painted",
        image=image,
        rles=tuple(coco_mask.encode(np.asfortranarray(m)) for m in masks()),
        class_ids=np.array([1, 2, 3]),
        crowd=np.array(crowd),
    )


def view(augment: AugmentConfig, seed: int = 0, rule: InputConfig = AS_IT_IS, of: Picture | None = None) -> View:
    return training_view(of or picture(), rule, augment, np.random.default_rng(seed))


def assert_masks_lie_on_their_paint(found: View, tolerance: float) -> None:
    """Inside each mask the picture shows its object's grey; boxes are the masks' own."""
    for mask, class_id in zip(found.masks, found.class_ids, strict=True):
        shown = found.image[mask == 1][:, 0].astype(float)
        assert np.mean(np.abs(shown - (200, 120, 60)[class_id - 1]) < 40) >= 1 - tolerance
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.boxes.astype(int), strict=True):
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def test_without_augmentation_the_view_is_the_picture() -> None:
    found = view(STILL)
    assert np.array_equal(found.image, picture().image)
    assert np.array_equal(found.masks, masks())
    assert found.boxes.tolist() == [[6, 4, 18, 20], [30, 22, 58, 38], [2, 30, 6, 34]]
    assert found.class_ids.tolist() == [1, 2, 3]
    assert found.crowd_boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "augment",
    [
        pytest.param(replace(STILL, horizontal_flip=1.0), id="horizontal"),
        pytest.param(replace(STILL, vertical_flip=1.0), id="vertical"),
        pytest.param(replace(STILL, quarter_turns=True), id="turns"),
        pytest.param(replace(STILL, crop=24), id="crop"),
        pytest.param(replace(STILL, horizontal_flip=0.5, vertical_flip=0.5, quarter_turns=True, crop=24), id="all"),
    ],
)
def test_masks_move_with_the_picture(augment: AugmentConfig) -> None:
    for seed in range(12):
        assert_masks_lie_on_their_paint(view(augment, seed), tolerance=0.0)


def test_a_horizontal_flip_mirrors_boxes() -> None:
    found = view(replace(STILL, horizontal_flip=1.0))
    assert found.boxes.tolist() == [[42, 4, 54, 20], [2, 22, 30, 38], [54, 30, 58, 34]]


def test_masks_are_scaled_with_the_picture() -> None:
    # the resize blends the objects' outermost pixels with the black around them, and slivers are nothing else
    augment = replace(STILL, scale_range=(0.7, 2.0), crop=40, horizontal_flip=0.5, min_area=80)
    for seed in range(12):
        assert_masks_lie_on_their_paint(view(augment, seed), tolerance=0.35)


def test_the_input_rule_scales_the_picture() -> None:
    found = view(STILL, rule=InputConfig(min_size=80, max_size=120))
    assert found.image.shape == (80, 120, 3)
    assert found.boxes.tolist() == [[12, 8, 36, 40], [60, 44, 116, 76], [4, 60, 12, 68]]


def test_crops_hold_an_object_and_stay_inside() -> None:
    for seed in range(30):
        found = view(replace(STILL, crop=16, crop_near_object=1.0, min_area=1), seed)
        assert found.image.shape == (16, 16, 3)
        assert len(found.boxes) + len(found.crowd_boxes) >= 1


def test_objects_with_too_little_left_count_as_crowd_and_crowds_are_no_objects() -> None:
    found = view(replace(STILL, min_area=20))
    assert found.class_ids.tolist() == [1, 2]
    assert found.crowd_boxes.tolist() == [[2, 30, 6, 34]]
    found = view(STILL, of=picture(crowd=(True, False, False)))
    assert found.class_ids.tolist() == [2, 3]
    assert found.crowd_boxes.tolist() == [[6, 4, 18, 20]]


def test_a_picture_without_objects_gives_an_empty_view() -> None:
    bare = Picture("bare", picture().image, (), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_))
    found = view(replace(STILL, crop=16, quarter_turns=True), of=bare)
    assert found.masks.shape == (0, 16, 16)
    assert found.boxes.shape == (0, 4)


def test_inverted_grey_is_grey_and_inverted() -> None:
    coloured = picture()
    coloured.image[..., 1] //= 2
    found = view(replace(STILL, inverted_grey=1.0), of=coloured)
    assert np.ptp(found.image, axis=2).max() == 0
    expected = 255 - coloured.image.astype(float).mean(2)
    assert np.abs(found.image[..., 0] - expected).max() <= 1


def test_brightness_and_contrast_never_clip() -> None:
    """A dim picture keeps its objects: differences survive whatever is drawn."""
    dim = picture()
    dim.image[:] = dim.image // 10
    levels = set()
    for seed in range(40):
        image = view(replace(STILL, brightness=0.3, contrast=0.7), seed, of=dim).image
        assert len(np.unique(image)) == 4
        levels.add((int(image.min()), int(image.max())))
    assert len(levels) > 20


def test_boxes_of_masks() -> None:
    made = np.zeros((3, 5, 6), dtype=np.uint8)
    made[0, 2, 3] = 1
    made[1, 0:5, 0:6] = 1
    assert mask_boxes(made).tolist() == [[3, 2, 4, 3], [0, 0, 6, 5], [0, 0, 0, 0]]
