"""Polygons of masks against pycocotools, Pillow and a plain test of pixel centres."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from server.contract import polygons, rle

Polygons = list[list[np.ndarray]]

# Large enough for holes with islands in them; few distinct rows and columns, repeated, are what masks are made of.
masks = st.one_of(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 10), st.integers(1, 10))),
    st.builds(
        lambda grid, rows, columns: np.repeat(np.repeat(grid, rows, axis=0), columns, axis=1),
        hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
        st.integers(1, 9),
        st.integers(1, 9),
    ),
)


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


CASES = {
    "one pixel": drawn("...", ".#.", "..."),
    "the whole picture": drawn("###", "###"),
    "all borders": drawn("#####", "#...#", "#####"),
    "two parts": drawn("##..#", "##..#"),
    "two parts that touch at a corner": drawn("##..", "##..", "..##", "..##"),
    "the other diagonal": drawn("..##", "..##", "##..", "##.."),
    "a hole": drawn("####", "#..#", "####"),
    "two holes that touch at a corner": drawn("####", "#.##", "##.#", "####"),
    "a hole that touches the outside at a corner": drawn(".###", "#.##", "####"),
    "an island in a hole": drawn("#####", "#...#", "#.#.#", "#...#", "#####"),
    "an island that touches the ring at a corner": drawn("#####", "##..#", "#.#.#", "#...#", "#####"),
    "runs that go on in the next column": drawn("##.", ".##"),
    "checks": np.indices((6, 7)).sum(axis=0) % 2 == 0,
}
cases = pytest.mark.parametrize("mask", CASES.values(), ids=CASES.keys())


def polygons_of(mask: np.ndarray) -> Polygons:
    return polygons.from_counts(rle.from_mask(mask), mask.shape)


def by_pixel_centres(rings: list[np.ndarray], size_hw: tuple[int, int]) -> np.ndarray:
    """A pixel is set where a ray from its centre to the right crosses an odd number of lines."""
    y, x = np.indices(size_hw) + 0.5
    inside = np.zeros(size_hw, np.bool_)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            if y1 != y2:
                inside ^= ((y1 <= y) != (y2 <= y)) & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


def by_pycocotools(found: Polygons, size_hw: tuple[int, int]) -> np.ndarray:
    """Exteriors minus holes; it fills one ring at a time."""
    mask = np.zeros(size_hw, np.bool_)
    for exterior, *holes in found:
        part = filled_by_pycocotools(exterior, size_hw)
        for hole in holes:
            part &= ~filled_by_pycocotools(hole, size_hw)
        mask |= part
    return mask


def filled_by_pycocotools(ring: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    (their_rle,) = coco.frPyObjects([ring.ravel().astype(float).tolist()], *size_hw)
    return coco.decode(their_rle).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def parts_by_flooding(mask: np.ndarray) -> int:
    """Number of parts whose pixels share edges."""
    left, count = {(int(y), int(x)) for y, x in np.argwhere(mask)}, 0
    while left:
        count += 1
        reached = [left.pop()]
        while reached:
            y, x = reached.pop()
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            reached += near
    return count


def check(mask: np.ndarray) -> Polygons:
    found = polygons_of(mask)
    np.testing.assert_array_equal(by_pixel_centres([ring for rings in found for ring in rings], mask.shape), mask)
    np.testing.assert_array_equal(rle.to_mask(polygons.to_counts(found, mask.shape), mask.shape), mask)
    assert len(found) == parts_by_flooding(mask)
    for rings in found:
        part = by_pixel_centres(rings, mask.shape)
        assert parts_by_flooding(part) == 1
        for index, ring in enumerate(rings):
            check_ring(ring, is_hole=index > 0)
    return found


def check_ring(ring: np.ndarray, is_hole: bool) -> None:
    """Simple, along pixel edges, without corners on a line, and turned as it should be."""
    assert len({(x, y) for x, y in ring.tolist()}) == len(ring)
    steps = np.roll(ring, -1, axis=0) - ring
    along_x = steps[:, 1] == 0
    assert ((steps == 0).sum(axis=1) == 1).all()
    assert (along_x != np.roll(along_x, 1)).all()
    x, y = ring.T
    is_clockwise = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0  # with y downwards
    assert is_clockwise != is_hole


@settings(deadline=None, max_examples=200)
@given(masks)
def test_polygons_hold_exactly_the_mask(mask: np.ndarray) -> None:
    found = check(mask)

    if mask.any():
        theirs = by_pycocotools(found, mask.shape)
        assert theirs.sum() == 0 or mask.sum() <= 100 or iou(theirs, mask) >= 0.99


@cases
def test_hand_drawn(mask: np.ndarray) -> None:
    check(mask)


def test_corners_of_a_part_with_a_hole() -> None:
    ((exterior, hole),) = polygons_of(CASES["a hole"])

    assert exterior.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert hole.tolist() == [[1, 2], [3, 2], [3, 1], [1, 1]]


def test_an_empty_mask_has_no_polygons() -> None:
    empty = np.zeros((3, 4), np.bool_)

    assert polygons_of(empty) == []
    np.testing.assert_array_equal(polygons.to_counts([], (3, 4)), rle.from_mask(empty))


def test_runs_without_length_change_nothing() -> None:
    plain = polygons.from_counts(np.array([2, 3, 7]), (4, 3))
    odd = polygons.from_counts(np.array([0, 0, 2, 1, 0, 2, 3, 0, 4, 0]), (4, 3))

    np.testing.assert_equal(odd, plain)


def blob(size: int, seed: int) -> np.ndarray:
    """A wobbly disc with a round hole."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size)) - size / 2
    radius = size * (0.4 + 0.06 * np.sin(5 * np.arctan2(y, x) + rng.random() * 6))
    hole = np.hypot(y - size * 0.1, x) < size * 0.1
    return (np.hypot(y, x) < radius) & ~hole


@pytest.mark.parametrize("size", [13, 20, 60, 200])
def test_pycocotools_gives_the_same_mask(size: int) -> None:
    for seed in range(5):
        mask = blob(size, seed)
        assert mask.sum() > 80
        assert iou(by_pycocotools(polygons_of(mask), mask.shape), mask) >= 0.99


def test_pillow_adds_no_more_than_the_line() -> None:
    """As the module says: it paints the pixels under the line, which lies on the grid."""
    mask = blob(200, 0)
    image = Image.new("1", (200, 200))
    ((exterior, hole),) = polygons_of(mask)
    ImageDraw.Draw(image).polygon([(x, y) for x, y in exterior.tolist()], fill=1)
    image_of_hole = Image.new("1", (200, 200))
    ImageDraw.Draw(image_of_hole).polygon([(x, y) for x, y in hole.tolist()], fill=1)
    theirs = np.asarray(image) & ~np.asarray(image_of_hole)

    assert 0.96 <= iou(theirs, mask) < 1


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(3, 7), st.just(2)), elements=st.floats(-9, 25, width=32)),
    st.integers(1, 15),
    st.integers(1, 15),
)
def test_any_polygon_becomes_the_mask_of_its_pixel_centres(ring: np.ndarray, h: int, w: int) -> None:
    expected = by_pixel_centres([ring], (h, w))
    for shift in ((1e-6, 0), (-1e-6, 0), (0, 1e-6), (0, -1e-6)):  # a centre on a line: rounding would decide
        assume((expected == by_pixel_centres([ring + shift], (h, w))).all())

    for given_ring in (ring, np.vstack((ring, ring[:1]))):
        np.testing.assert_array_equal(rle.to_mask(polygons.to_counts([[given_ring]], (h, w)), (h, w)), expected)


@pytest.mark.parametrize(
    "ring",
    [
        [[0, 0], [1, 0, 2]],
        [[0, 0], ["a", 1]],
        [0, 1, 2],
        [[0, 1, 2]],
        [[0, float("nan")], [1, 1]],
        [[0, 1e400], [1, 1]],
    ],
)
def test_what_is_no_ring(ring: list[object]) -> None:
    with pytest.raises(rle.RleError, match="ring"):
        polygons.to_counts([[ring]], (4, 4))  # type: ignore[list-item]


def test_a_hundred_masks_of_a_large_picture_take_no_time_for_its_pixels() -> None:
    small = blob(200, 1)
    size_hw = (3000, 4000)
    mask = np.zeros(size_hw, np.bool_)
    mask[1000:1200, 2000:2200] = small
    counts = rle.from_mask(mask)

    started = time.perf_counter()
    for _ in range(100):
        found = polygons.from_counts(counts, size_hw)
    assert time.perf_counter() - started < 2  # 30 ms where this was written; 100 masks of 12 megapixels take 10 s
    np.testing.assert_equal([ring - (2000, 1000) for ring in found[0]], polygons_of(small)[0])
