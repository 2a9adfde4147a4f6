"""Outlines in the browser enclose exactly the pixels of the mask, as pycocotools writes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from tests.browser.page import Page

FILLED = """
const [counts, height, width, tolerance] = arguments;
const part = (name) => import(`${location.origin}/static/${name}`);
Promise.all([part("rle.js"), part("outline.js")]).then(([rle, outline]) => {
  const context = new OffscreenCanvas(width, height).getContext("2d"), runs = rle.runsOf(counts);
  context.fill(outline.pathOf(outline.ringsOf(runs, height), tolerance), "evenodd");
  const alpha = context.getImageData(0, 0, width, height).data.filter((_, k) => k % 4 === 3);
  const place = (k) => (k % width) * height + Math.floor(k / width);
  done([[...alpha], Array.from({ length: width * height }, (_, k) => rle.isSet(runs, place(k)))]);
});
"""


def noise_mask(part: float) -> npt.NDArray[np.uint8]:
    return (np.random.default_rng(1).random((23, 31)) < part).astype(np.uint8)


def ring() -> npt.NDArray[np.uint8]:
    """Two parts, one of which has a hole with an island in it."""
    mask = np.zeros((40, 50), np.uint8)
    mask[2:30, 3:30] = 1
    mask[8:24, 9:24] = 0
    mask[14:18, 15:19] = 1
    mask[33:40, 44:50] = 1
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(noise_mask(0.5), id="noise, with corners that touch"),
        pytest.param(noise_mask(0.05), id="single pixels"),
        pytest.param(noise_mask(0.97), id="single holes"),
        pytest.param(ring(), id="a hole with an island"),
        pytest.param(np.ones((9, 5), np.uint8), id="all of it"),
        pytest.param(np.zeros((9, 5), np.uint8), id="none of it"),
        pytest.param(np.ones((1, 1), np.uint8), id="one pixel"),
    ],
)
def test_an_outline_encloses_the_masks_pixels(page: Page, mask: npt.NDArray[np.uint8]) -> None:
    counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
    alpha, is_set = page.run_async(FILLED, counts, *mask.shape, 0)
    assert np.array_equal(np.array(is_set).reshape(mask.shape), mask == 1)
    assert np.array_equal(np.array(alpha).reshape(mask.shape), mask * 255)


def test_an_outline_for_a_small_display_is_within_its_tolerance(page: Page) -> None:
    rows, columns = np.mgrid[:200, :200]
    disc = (np.hypot(rows - 100, columns - 100) < 80).astype(np.uint8)
    counts = coco.encode(np.asfortranarray(disc))["counts"].decode()
    alpha, _ = page.run_async(FILLED, counts, *disc.shape, 2)
    differs = (np.array(alpha).reshape(disc.shape) > 127) != (disc == 1)
    distance = np.abs(np.hypot(rows - 100, columns - 100) - 80)
    assert distance[differs].max(initial=0) < 3.5
