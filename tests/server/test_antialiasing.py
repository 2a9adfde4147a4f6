"""The compiled resize against Pillow's own, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.antialiasing import resize_into


def pillow(picture: np.ndarray, h: int, w: int) -> np.ndarray:
    """Along x, then along y: in one step, Pillow 13 takes the axes of some pictures in the other order."""
    across = Image.fromarray(picture).resize((w, picture.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(across.resize((w, h), Image.Resampling.BILINEAR))


def ours(picture: np.ndarray, h: int, w: int) -> np.ndarray:
    result = np.zeros((h, w, 3), np.uint8)
    resize_into(picture, result)
    return result


def noise(h: int, w: int, seed: int = 0, levels: tuple[int, ...] = tuple(range(256))) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.uint8(levels), (h, w, 3))


SIDE = st.one_of(st.integers(1, 8), st.integers(1, 300))


@given(
    h=SIDE, w=SIDE, new_h=SIDE, new_w=SIDE, seed=st.integers(0, 99),
    levels=st.sampled_from([(0, 255), (255,), (0, 1, 127, 128, 254, 255), tuple(range(256))]),
)  # fmt: skip
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_pixel_is_pillows(h: int, w: int, new_h: int, new_w: int, seed: int, levels: tuple[int, ...]) -> None:
    picture = noise(h, w, seed, levels)

    np.testing.assert_array_equal(ours(picture, new_h, new_w), pillow(picture, new_h, new_w))


@given(
    h=SIDE, w=SIDE, new_h=SIDE, new_w=SIDE,
    edges=st.tuples(*[st.sampled_from([0, 0.25, 0.5, 0.75]) for _ in range(4)]),
)  # fmt: skip
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_pixel_of_a_box_is_pillows(
    h: int, w: int, new_h: int, new_w: int, edges: tuple[float, float, float, float]
) -> None:
    """A box that begins and ends within pixels, at places that Pillow's float32 has too; it takes no empty one."""
    left, top, right, bottom = edges
    box = (min(left, w / 4), min(top, h / 4), w - min(right, w / 4), h - min(bottom, h / 4))
    picture, result = noise(h, w), np.zeros((new_h, new_w, 3), np.uint8)

    resize_into(picture, result, box)

    across = Image.fromarray(picture).resize((new_w, h), Image.Resampling.BILINEAR, (box[0], 0, box[2], h))
    expected = across.resize((new_w, new_h), Image.Resampling.BILINEAR, (0, box[1], new_w, box[3]))
    np.testing.assert_array_equal(result, np.asarray(expected))


@pytest.mark.parametrize(
    ("size_hw", "new_hw"),
    [
        pytest.param((1, 20_000), (1, 3), id="a line"),
        pytest.param((20_000, 1), (7, 1), id="a column"),
        pytest.param((30_000, 3), (1, 1), id="to one pixel"),
        pytest.param((1, 1), (500, 700), id="from one pixel"),
        pytest.param((3, 5), (900, 2), id="taller and narrower"),
        pytest.param((1500, 1000), (800, 533), id="as a photograph"),
        pytest.param((127, 130), (127, 64), id="same height"),
        pytest.param((129, 64), (40, 64), id="same width"),
        pytest.param((129, 64), (129, 64), id="same size"),
    ],
)
def test_odd_sizes(size_hw: tuple[int, int], new_hw: tuple[int, int]) -> None:
    picture = noise(*size_hw)

    np.testing.assert_array_equal(ours(picture, *new_hw), pillow(picture, *new_hw))


def test_a_box_far_down_a_tall_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (700, 9, 3), np.uint8)
    result = np.empty((20, 9, 3), np.uint8)
    resize_into(picture, result, (0, 400, 9, 500))
    expected = Image.fromarray(picture).resize((9, 20), Image.Resampling.BILINEAR, (0, 400, 9, 500))
    assert np.array_equal(result, expected)


def test_views_are_read_and_filled() -> None:
    """Turned, mirrored, one grey band for three, and into the window of a canvas that stays as it was around it."""
    grey = np.broadcast_to(noise(90, 70)[:, :, :1], (90, 70, 3))
    for picture in (noise(90, 70).swapaxes(0, 1), noise(90, 70)[::-1, ::-1], grey):
        canvas = np.full((60, 80, 3), 7, np.uint8)

        resize_into(picture, canvas[10:50, 5:65])

        np.testing.assert_array_equal(canvas[10:50, 5:65], pillow(np.ascontiguousarray(picture), 40, 60))
        canvas[10:50, 5:65] = 7
        assert (canvas == 7).all()
