"""The codec against pycocotools, which defines the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from server.contract import rle

# pycocotools 2.0.11 hands numpy 2 an array in the manner of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Neighbours of equal value are what masks are made of: few distinct columns, repeated.
masks = st.one_of(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.builds(
        lambda columns, times: np.repeat(columns, times, axis=1),
        hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 4))),
        st.integers(1, 30),
    ),
)


def pycocotools_counts(mask: np.ndarray) -> str:
    counts: bytes = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii")


@settings(deadline=None, max_examples=150)
@given(masks)
def test_same_text_pixels_area_and_box_as_pycocotools(mask: np.ndarray) -> None:
    text = pycocotools_counts(mask)
    size_hw = mask.shape
    their_rle = {"size": list(size_hw), "counts": text}

    assert rle.compress(rle.from_mask(mask)) == text
    counts = rle.decompress(text, size_hw)
    np.testing.assert_array_equal(rle.to_mask(counts, size_hw), mask)
    assert rle.area(counts) == int(coco.area(their_rle))
    assert list(rle.bbox(counts, size_hw)) == coco.toBbox(their_rle).astype(int).tolist()


@settings(deadline=None, max_examples=100)
@given(masks, st.data())
def test_parts_of_a_mask(mask: np.ndarray, data: st.DataObject) -> None:
    counts, (h, w) = rle.from_mask(mask), mask.shape
    x1, x2 = sorted(data.draw(st.tuples(st.integers(0, w), st.integers(0, w))))
    y1, y2 = sorted(data.draw(st.tuples(st.integers(0, h), st.integers(0, h))))

    np.testing.assert_array_equal(rle.crop(counts, mask.shape, (x1, y1, x2, y2)), mask[y1:y2, x1:x2])
    painted = np.zeros_like(mask)
    for x, top, bottom in zip(*rle.column_runs(counts, h), strict=True):
        assert top < bottom
        assert not painted[top:bottom, x].any()
        painted[top:bottom, x] = True
    np.testing.assert_array_equal(painted, mask)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_the_mask_of_any_runs(runs: list[tuple[int, int]]) -> None:
    flat, flipped = np.zeros(30, np.bool_), np.zeros(30, np.bool_)
    for start, stop in map(sorted, runs):
        flat[start:stop] = True
        flipped[start:stop] ^= True
    starts, stops = np.array([sorted(run) for run in runs], np.int64).reshape(-1, 2).T

    assert rle.from_runs(starts, stops, 30).tolist() == rle.from_mask(flat[:, None]).tolist()
    flips = np.concatenate((starts, stops))
    assert rle.from_flips(flips, 30).tolist() == rle.from_mask(flipped[:, None]).tolist()


@pytest.mark.parametrize("first_run", [0, 15, 16, 31, 32, 511, 512, 16383, 16384, 524_287, 524_288, 11_999_999])
def test_first_runs_where_the_number_of_characters_changes(first_run: int) -> None:
    mask = np.zeros((4000, 3000), np.bool_)
    mask[first_run % 4000, first_run // 4000] = True
    text = pycocotools_counts(mask)

    assert rle.compress(rle.from_mask(mask)) == text
    assert rle.decompress(text, (4000, 3000)).tolist()[:2] == [first_run, 1]


def test_a_long_and_then_a_short_run_makes_a_negative_difference() -> None:
    mask = np.zeros((1080, 1920), np.bool_)
    mask[5:1000, 5] = True
    mask[0, 1900] = True
    text = pycocotools_counts(mask)

    assert rle.compress(rle.from_mask(mask)) == text
    np.testing.assert_array_equal(rle.to_mask(rle.decompress(text, (1080, 1920)), (1080, 1920)), mask)


def test_a_hand_drawn_mask() -> None:
    mask = np.array(
        [
            [0, 0, 1],
            [0, 1, 1],
        ]
    )

    counts = rle.from_mask(mask)

    assert counts.tolist() == [3, 3]
    assert rle.bbox(counts, (2, 3)) == (1, 0, 2, 2)


def test_many_masks_at_once_are_the_same_as_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    many = [rng.random((h, w)) < share for h, w, share in [(1, 1, 0), (1, 1, 1), (30, 20, 0.5), (7, 300, 0.02)]]

    together = rle.compress_all([rle.from_mask(mask) for mask in many])

    assert together == [pycocotools_counts(mask) for mask in many]
    assert rle.compress_all([]) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("3!", "outside", id="below the alphabet"),
        pytest.param("3z", "outside", id="above the alphabet"),
        pytest.param("3\u00e9", "ASCII", id="not ASCII"),
        pytest.param("3`", "middle of a number", id="cut off"),
        pytest.param("oooooooooooooooooooo0", "too large", id="number without end"),
        pytest.param("5122N1O", "negative", id="negative run through a difference"),
        pytest.param("3d0", "add up", id="runs beyond the mask"),
        pytest.param("32", "add up", id="runs short of the mask"),
        pytest.param("", "add up", id="no runs"),
    ],
)
def test_malformed_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(rle.RleError, match=words):
        rle.decompress(text, (4, 4))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        pytest.param([3, 2], "add up", id="too few"),
        pytest.param([3, 20], "add up", id="too many"),
        pytest.param([-1, 17], "negative", id="negative"),
        pytest.param([3.0, 13.0], "whole numbers", id="fractions"),
        pytest.param(["3", "13"], "whole numbers", id="text"),
        pytest.param([2**70], "whole numbers", id="beyond 64 bits"),
        pytest.param([2**62, 2**62, 2**62, 2**62, 16], "add up", id="a sum that wraps around"),
        pytest.param([[3, 13]], "whole numbers", id="nested"),
        pytest.param([3, [13]], "flat", id="ragged"),
    ],
)
def test_malformed_counts_are_refused(counts: list[int], words: str) -> None:
    with pytest.raises(rle.RleError, match=words):
        rle.check(counts, (4, 4))


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(rle.RleError, match="cannot be"):
        rle.check([16], (-4, -4))


@pytest.mark.parametrize("counts", [[2, 0, 3, 4, 7], [0, 0, 0, 5, 11], [3, 13, 0]])
def test_empty_runs_mean_what_they_mean_to_pycocotools(counts: list[int]) -> None:
    theirs = coco.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4)

    np.testing.assert_array_equal(rle.to_mask(rle.check(counts, (4, 4)), (4, 4)), coco.decode(theirs))


@pytest.mark.parametrize("size_hw", [(0, 0), (0, 3), (3, 0)])
def test_a_mask_without_pixels(size_hw: tuple[int, int]) -> None:
    counts = rle.from_mask(np.zeros(size_hw, np.bool_))

    assert counts.tolist() == [0]
    assert rle.to_mask(rle.decompress(rle.compress(counts), size_hw), size_hw).shape == size_hw
    assert rle.bbox(counts, size_hw) == (0, 0, 0, 0)


@settings(deadline=None, max_examples=200)
@given(masks, st.integers(0, 10**6), st.integers(40, 120), st.booleans())
def test_a_changed_character_is_refused_or_read_as_pycocotools_reads_it(
    mask: np.ndarray, place: int, byte: int, insert: bool
) -> None:
    raw = bytearray(pycocotools_counts(mask).encode())
    place %= len(raw)
    raw[place : place + (not insert)] = bytes([byte])
    try:
        counts = rle.decompress(bytes(raw), mask.shape)
    except rle.RleError:
        return
    theirs = coco.decode({"size": list(mask.shape), "counts": bytes(raw)})
    np.testing.assert_array_equal(rle.to_mask(counts, mask.shape), theirs)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40))
def test_any_bytes_at_all_raise_nothing_else(raw: bytes) -> None:
    try:
        counts = rle.decompress(raw, (6, 5))
    except rle.RleError:
        return
    assert counts.sum() == 30
