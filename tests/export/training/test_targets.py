"""Anchor, RoI and mask targets on arrays small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from export.training.config import TargetConfig
from export.training.targets import ImageObjects, anchor_targets, mask_targets, roi_targets

UNIT = (1.0, 1.0, 1.0, 1.0)
STD = (0.1, 0.1, 0.2, 0.2)
ALL = replace(TargetConfig(), rpn_anchors_per_image=10_000, rois_per_image=10_000)


def rows(*boxes: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def objects(boxes: Tensor, crowds: Tensor | None = None, class_ids: list[int] | None = None) -> ImageObjects:
    ids = torch.tensor(class_ids if class_ids is not None else [1] * len(boxes), dtype=torch.long)
    masks = torch.ones(len(boxes), 4, 4, dtype=torch.uint8)
    return ImageObjects(boxes, ids, masks, boxes, rows() if crowds is None else crowds)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_anchors_are_positive_negative_or_neutral_by_iou() -> None:
    anchors = rows(
        (0, 0, 10, 10),  # IoU 1
        (0, 0, 10, 8),  # 0.8
        (0, 0, 10, 5),  # 0.5: neither
        (0, 0, 10, 2.9),  # 0.29
        (50, 50, 60, 60),  # 0
    )
    found = anchor_targets(anchors, objects(rows((0, 0, 10, 10))), UNIT, ALL, generator())
    assert found.labels.tolist() == [1, 1, 0, -1, -1]
    assert found.deltas[0].tolist() == [0, 0, 0, 0]
    # from (0, 0, 10, 8) to (0, 0, 10, 10): the centre moves by 1 of 8, the height grows by 10 / 8
    assert found.deltas[1].tolist() == pytest.approx([0, 1 / 8, 0, np.log(10 / 8)])
    assert found.deltas[2:].abs().max() == 0


def test_every_anchor_that_ties_for_an_objects_best_is_positive() -> None:
    anchors = rows((0, 0, 10, 10), (10, 0, 20, 10), (4, 0, 14, 10), (100, 0, 110, 10))
    # overlaps the first two by 2 x 10 of 180 and the third by 8 x 10 of 120
    boxes = rows((8, 0, 12, 10))
    found = anchor_targets(anchors, objects(boxes), UNIT, ALL, generator())
    assert found.labels.tolist() == [-1, -1, 1, -1]
    found = anchor_targets(anchors[[0, 1, 3]], objects(boxes), UNIT, ALL, generator())
    assert found.labels.tolist() == [1, 1, -1]


def test_an_object_that_no_anchor_touches_makes_none_positive() -> None:
    found = anchor_targets(rows((0, 0, 10, 10)), objects(rows((50, 50, 60, 60))), UNIT, ALL, generator())
    assert found.labels.tolist() == [-1]


def test_anchors_on_a_crowd_are_never_negative() -> None:
    anchors = rows((0, 0, 10, 10), (20, 20, 30, 30), (70, 70, 80, 80))
    crowds = rows((18, 18, 40, 40))
    found = anchor_targets(anchors, objects(rows((0, 0, 10, 10)), crowds), UNIT, ALL, generator())
    assert found.labels.tolist() == [1, 0, -1]
    found = anchor_targets(anchors, objects(rows(), crowds), UNIT, ALL, generator())
    assert found.labels.tolist() == [-1, 0, -1]


def test_a_picture_without_objects_has_negative_anchors_only() -> None:
    found = anchor_targets(rows((0, 0, 10, 10), (5, 5, 9, 9)), objects(rows()), UNIT, ALL, generator())
    assert found.labels.tolist() == [-1, -1]
    assert found.deltas.abs().max() == 0


def test_anchors_are_thinned_to_the_limit_by_the_generator() -> None:
    anchors = rows(*[(0, 0, 10, 10 - 0.01 * i) for i in range(30)], *[(50, 50, 60 + i, 60) for i in range(100)])
    config = replace(TargetConfig(), rpn_anchors_per_image=40)
    boxes = objects(rows((0, 0, 10, 10)))
    found = anchor_targets(anchors, boxes, UNIT, config, generator(1))
    assert (found.labels == 1).sum() == 20
    assert (found.labels == -1).sum() == 20
    assert torch.equal(found.labels, anchor_targets(anchors, boxes, UNIT, config, generator(1)).labels)
    assert not torch.equal(found.labels, anchor_targets(anchors, boxes, UNIT, config, generator(2)).labels)


def test_rois_take_class_box_and_object_of_the_best_overlap() -> None:
    proposals = rows((0, 0, 10, 10), (20, 20, 30, 29), (0, 0, 10, 4), (60, 60, 70, 70))
    boxes = rows((20, 20, 30, 30), (0, 0, 10, 10))
    config = replace(ALL, fill_negatives=True)
    found = roi_targets(proposals, objects(boxes, class_ids=[3, 2]), STD, config, generator())
    by_box = {tuple(b): i for i, b in enumerate(found.boxes.tolist())}
    assert len(by_box) == 4
    first, second = by_box[0, 0, 10, 10], by_box[20, 20, 30, 29]
    assert found.class_ids[[first, second]].tolist() == [2, 3]
    assert found.object_index[[first, second]].tolist() == [1, 0]
    # centre 24.5 to 25 of height 9; height 9 to 10; in units of the standard deviations
    assert found.deltas[second].tolist() == pytest.approx([0, 0.5 / 9 / 0.1, 0, np.log(10 / 9) / 0.2], abs=1e-5)
    assert found.class_ids[[by_box[0, 0, 10, 4], by_box[60, 60, 70, 70]]].tolist() == [0, 0]
    assert found.deltas[2:].abs().max() == 0


def test_negatives_keep_their_ratio_to_the_positives() -> None:
    proposals = torch.cat([rows((0, 0, 10, 10)).repeat(10, 1), rows((60, 60, 70, 70)).repeat(50, 1)])
    boxes = objects(rows((0, 0, 10, 10)))
    config = replace(TargetConfig(), rois_per_image=30)
    found = roi_targets(proposals, boxes, STD, config, generator())
    # at most int(30 x 0.33) = 9 positives, int(9 / 0.33) - 9 = 18 negatives
    assert (found.class_ids > 0).sum() == 9
    assert (found.class_ids == 0).sum() == 18
    found = roi_targets(proposals, boxes, STD, replace(config, fill_negatives=True), generator())
    assert (found.class_ids == 0).sum() == 21


def test_no_positive_no_rois_unless_negatives_fill() -> None:
    proposals = rows((60, 60, 70, 70), (0, 0, 5, 5))
    assert len(roi_targets(proposals, objects(rows()), STD, ALL, generator()).boxes) == 0
    filled = roi_targets(proposals, objects(rows()), STD, replace(ALL, fill_negatives=True), generator())
    assert filled.class_ids.tolist() == [0, 0]


def test_rois_on_a_crowd_are_never_negative() -> None:
    proposals = rows((0, 0, 10, 10), (20, 20, 30, 30), (60, 60, 70, 70))
    marked = objects(rows((0, 0, 10, 10)), rows((15, 15, 40, 40)))
    found = roi_targets(proposals, marked, STD, replace(ALL, fill_negatives=True), generator())
    assert sorted(found.boxes.tolist()) == [[0, 0, 10, 10], [60, 60, 70, 70]]


def test_ground_truth_boxes_join_the_proposals_when_asked() -> None:
    boxes = objects(rows((0, 0, 10, 10)))
    config = replace(ALL, append_gt_boxes=True)
    found = roi_targets(rows(), boxes, STD, config, generator())
    assert found.boxes.tolist() == [[0, 0, 10, 10]]
    assert found.deltas.abs().max() == 0


def test_a_mask_target_is_the_mask_as_the_roi_sees_it() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, :, 4:] = 1
    frame, owner = rows((0, 0, 8, 8)), torch.tensor([0])
    whole = mask_targets(mask, frame, owner, rows((0, 0, 8, 8)), 4)
    assert whole[0].tolist() == [[0, 0, 1, 1]] * 4
    right = mask_targets(mask, frame, owner, rows((4, 0, 8, 8)), 4)
    assert right[0].tolist() == [[1, 1, 1, 1]] * 4
    # the right half of this RoI lies outside the frame, where there is no object
    beyond = mask_targets(mask, frame, owner, rows((4, 0, 12, 8)), 4)
    assert beyond[0].tolist() == [[1, 1, 0, 0]] * 4


def test_mask_targets_do_not_depend_on_the_frame_the_mask_is_kept_in() -> None:
    full = torch.zeros(1, 32, 32, dtype=torch.uint8)
    full[0, 8:24, 4:20] = 1
    full[0, 8:16, 4:12] = 0
    box, owner = rows((4, 8, 20, 24)), torch.tensor([0, 0])
    rois = rows((4, 8, 20, 24), (0, 4, 16, 20))
    from_full = mask_targets(full, rows((0, 0, 32, 32)), owner, rois, 8)
    from_cut = mask_targets(full[:, 8:24, 4:20], box, owner, rois, 8)
    assert torch.equal(from_full, from_cut)


def test_corner_sampling_is_crop_and_resize() -> None:
    """Against the operator's definition, in loops: y = y1 (H - 1) + i (y2 - y1) (H - 1) / (S - 1), zero outside."""
    rng = np.random.default_rng(0)
    mask, box, size = rng.integers(0, 2, (12, 10)), (-0.2, 0.1, 0.7, 0.9), 6
    expected = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y = (box[1] + i * (box[3] - box[1]) / (size - 1)) * 11
            x = (box[0] + j * (box[2] - box[0]) / (size - 1)) * 9
            if 0 <= y <= 11 and 0 <= x <= 9:
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, 11), min(x0 + 1, 9)
                top = mask[y0, x0] * (1 - (x - x0)) + mask[y0, x1] * (x - x0)
                bottom = mask[y1, x0] * (1 - (x - x0)) + mask[y1, x1] * (x - x0)
                expected[i, j] = np.round(top * (1 - (y - y0)) + bottom * (y - y0))
    masks = torch.from_numpy(mask.astype(np.uint8))[None]
    found = mask_targets(masks, rows((0, 0, 1, 1)), torch.tensor([0]), rows(box), size, corners=True)
    assert found[0].tolist() == expected.tolist()
