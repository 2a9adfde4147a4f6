"""Compiled masks to run lengths against the plain paste of every pixel, and against pycocotools' own text."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from server.contract import rle
from server.pasting import PasteRule, compress, paste
from tests.server.compiled.plain_paste import paste_to_rle

RULES: list[PasteRule] = ["detectron2", "torchvision", "matterport"]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def masks_of(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Three masks [3, size, size]; most kinds are full of ties at one half."""
    shape = (3, size, size)
    if kind == "tenths":
        return (rng.integers(0, 11, shape) / 10).astype(np.float32)
    if kind == "near":  # closer to one half than a sample that is clear of it
        return (0.5 + rng.uniform(-3e-6, 3e-6, shape)).astype(np.float32)
    if kind == "flat":
        return np.full(shape, rng.choice([0, 0.5, 0.6, 1]), np.float32)
    if kind == "ones":
        return rng.integers(0, 2, shape).astype(np.float32)
    return rng.random(shape, dtype=np.float32)


@given(
    kind=st.sampled_from(["noise", "tenths", "near", "flat", "ones"]),
    size=st.sampled_from([1, 2, 7, 14, 28]),
    h=st.integers(1, 90),
    w=st.integers(1, 90),
    grid=st.sampled_from([0, 1, 2, 3]),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_every_pixel_is_that_of_the_plain_paste(
    kind: str, size: int, h: int, w: int, grid: int, rule: PasteRule, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    masks = masks_of(kind, size, rng)
    corners = rng.uniform(-40, 90, (3, 2))
    boxes = np.concatenate((corners, corners + rng.choice([0.3, 3, 40, 120]) * rng.random((3, 2))), axis=1)
    if grid:  # whole pixels, halves, thirds
        boxes = np.round(boxes * grid) / grid
    boxes = boxes.astype(np.float32)

    pasted = paste(masks, boxes, (h, w), rule)

    expected = [paste_to_rle(mask, box, (h, w), rule) for mask, box in zip(masks, boxes, strict=True)]
    assert [runs.tolist() for runs in pasted] == [runs.tolist() for runs in expected]
    assert compress(pasted) == rle.compress_all(expected)


@pytest.mark.parametrize("rule", RULES)
def test_a_large_picture_full_of_edges(rule: PasteRule) -> None:
    """Many more run lengths than there is room for at first; a mask that reaches top and bottom joins its columns."""
    rng = np.random.default_rng(5)
    masks = rng.random((2, 28, 28), dtype=np.float32)
    masks[1, :, 5:9] = 1
    h, w = 1800, 700
    boxes = np.float32([[3.3, -20.7, 690.1, 1830.2], [0, -300, 700, 2100]])

    pasted = paste(masks, boxes, (h, w), rule)

    for mask, box, runs, text in zip(masks, boxes, pasted, compress(pasted), strict=True):
        assert runs.tolist() == paste_to_rle(mask, box, (h, w), rule).tolist()
        decoded = coco.decode({"size": [h, w], "counts": text})
        assert coco.encode(np.asfortranarray(decoded))["counts"] == text.encode()


def test_many_detections_after_those_that_filled_the_room() -> None:
    """An object outside the picture has a run length, too."""
    for outside in range(600, 1400, 53):
        masks = np.random.default_rng(outside).random((outside + 1, 28, 28), dtype=np.float32)
        boxes = np.tile(np.float32([-9, -9, -2, -2]), (outside + 1, 1))
        boxes[0] = [0, 0, outside, 700]

        runs = paste(masks, boxes, (700, 1400), "detectron2")

        assert runs[0].tolist() == paste_to_rle(masks[0], boxes[0], (700, 1400), "detectron2").tolist()
        assert all(one.tolist() == [700 * 1400] for one in runs[1:])


def test_no_detections() -> None:
    pasted = paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (5, 6), "detectron2")

    assert (pasted, compress(pasted)) == ([], [])


def test_arrays_that_cannot_be_written_or_are_views_are_read() -> None:
    """An engine may hand over one mask for all detections, and its own memory."""
    one = np.tri(28, dtype=np.float32)
    boxes = np.frombuffer(np.float32([[1, 2, 30, 20], [4, 4, 9, 9]]).tobytes(), np.float32).reshape(2, 4)

    pasted = paste(np.broadcast_to(one, (2, 28, 28)), boxes, (40, 50), "detectron2")

    expected = [paste_to_rle(one, box, (40, 50), "detectron2").tolist() for box in boxes]
    assert [runs.tolist() for runs in pasted] == expected


def test_other_threads_run_meanwhile() -> None:
    masks = np.random.default_rng(1).random((300, 28, 28), dtype=np.float32)
    boxes = np.tile(np.float32([0, 0, 1500, 1500]), (300, 1))
    paste(masks[:1], boxes[:1], (1500, 1500), "detectron2")  # compiled from here on
    worker = threading.Thread(target=paste, args=(masks, boxes, (1500, 1500), "detectron2"))
    worker.start()
    turns = 0
    while worker.is_alive():
        turns += 1
        time.sleep(0.001)

    assert turns > 20  # with the GIL held there would be one


def test_where_no_folder_can_be_written_it_is_compiled_all_the_same(tmp_path: Path) -> None:
    """NUMBA_CACHE_DIR names a file: to numba, a place that cannot be used."""
    (tmp_path / "file").touch()
    code = "import tests.server.compiled.doubled as module\nprint(module.doubled(21))"
    for folder in (tmp_path / "file", tmp_path / "new"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (result.stdout, result.returncode) == ("42\n", 0), result.stderr
    assert list((tmp_path / "new").rglob("*.nbc"))
