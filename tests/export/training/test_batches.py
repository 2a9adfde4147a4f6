"""The order of pictures, what a batch holds, and mini masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.training.batches import Batch, TrainingViews, batch_positions, load_batches, mini_masks
from export.training.config import TrainingConfig
from export.training.shapes import ShapesSet
from tests.export.training.small import SIZE, small_model_config, small_training


def views(config: TrainingConfig, count: int = 5) -> TrainingViews:
    return TrainingViews(ShapesSet(count, SIZE), small_model_config().input, config)


def batches(config: TrainingConfig, first_step: int = 0, rank: int = 0, world_size: int = 1) -> list[Batch]:
    return list(load_batches(views(config), config, first_step, rank, world_size))


def test_an_epoch_holds_every_picture_once_and_the_next_is_in_another_order() -> None:
    order = [views(small_training(), 20).picture_index(p) for p in range(40)]
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert order[:20] != order[20:]


def test_the_sequence_can_be_entered_anywhere() -> None:
    config = small_training(steps=6)
    whole, rest = batches(config), batches(config, first_step=4)
    assert len(whole) == 6
    for expected, found in zip(whole[4:], rest, strict=True):
        assert expected.positions == found.positions
        assert torch.equal(expected.images, found.images)
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(expected.objects, found.objects, strict=True))


def test_processes_and_parts_share_a_step_without_overlap() -> None:
    config = small_training(steps=2, batch_size=8, accumulate=2)
    shares = [list(batch_positions(config, 0, rank, 2)) for rank in range(2)]
    assert shares[0] == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert shares[1] == [[2, 3], [6, 7], [10, 11], [14, 15]]


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 2), (5, 2), (7, 3), (16, 5), (6, 6)])
def test_an_epoch_holds_every_picture_once_over_all_processes(batch_size: int, world_size: int) -> None:
    """23 pictures divide by none of these; shares differ by one at most."""
    config, pictures = small_training(steps=23, batch_size=batch_size), views(small_training(), 23)
    ranks = [list(batch_positions(config, 0, rank, world_size)) for rank in range(world_size)]
    steps = [list(step) for step in zip(*ranks, strict=True)]
    assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)
    seen = [pictures.picture_index(p) for step in steps for share in step for p in share]
    assert len(seen) == 23 * batch_size
    assert [sorted(seen[i : i + 23]) for i in range(0, len(seen), 23)] == [list(range(23))] * batch_size


def test_worker_processes_give_what_this_process_gives() -> None:
    here = batches(small_training(steps=2))
    there = batches(small_training(steps=2, workers=1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(here, there, strict=True))


def test_canvases_are_padded_to_the_divisor_and_windows_tell() -> None:
    config = small_training(steps=1, augment={"scale_range": [0.6, 0.7], "horizontal_flip": 0})
    batch = batches(config)[0]
    assert batch.images.shape == (2, 64, 64, 3)
    for image, window, objects in zip(batch.images, batch.windows.int().tolist(), batch.objects, strict=True):
        assert 38 <= window[2] <= 45
        assert image[window[3] :].max() == 0
        assert image[:, window[2] :].max() == 0
        assert (objects.boxes[:, 2:] <= window[2]).all()


def test_full_masks_cover_the_view() -> None:
    batch = batches(small_training(steps=1, targets={"mini_mask_size": None}))[0]
    for objects in batch.objects:
        assert objects.masks.shape[1:] == (SIZE, SIZE)
        assert objects.mask_frames.tolist() == [[0, 0, SIZE, SIZE]] * len(objects.boxes)


def test_mini_masks_are_the_cut_resized_bilinearly_with_zeros_outside() -> None:
    """Against the definition, pixel by pixel: source position (i + 1/2) length / size - 1/2."""
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[3:16, 5:12] = rng.integers(0, 2, (13, 7))
    mask[3, 5], mask[15, 11] = 1, 1
    size = 8
    expected = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) * 13 / size - 0.5, (j + 0.5) * 7 / size - 0.5
            total = 0.0
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= row < 13 and 0 <= column < 7:
                        total += (1 - abs(y - row)) * (1 - abs(x - column)) * mask[3 + row, 5 + column]
            expected[i, j] = np.round(total)
    found = mini_masks(torch.from_numpy(mask)[None], torch.tensor([[5.0, 3.0, 12.0, 16.0]]), size)
    assert found[0].tolist() == expected.tolist()


def test_mini_masks_of_nothing() -> None:
    assert mini_masks(torch.zeros(0, 9, 9, dtype=torch.uint8), torch.zeros(0, 4), 56).shape == (0, 56, 56)
