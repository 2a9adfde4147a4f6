"""The compiled resizes without antialiasing against plain ones, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.preprocess import resize_image
from tests.server.compiled.plain_linear import replicated, zero_border

PLAIN = {"linear": replicated, "linear_zero_border": zero_border}
SIDE = st.one_of(st.integers(1, 8), st.integers(1, 200))


def noise(h: int, w: int, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (h, w, 3), np.uint8)


@pytest.mark.parametrize("interpolation", PLAIN)
@given(
    h=SIDE, w=SIDE, new_h=SIDE, new_w=SIDE, seed=st.integers(0, 99),
    levels=st.sampled_from([(0, 256), (100, 101), (254, 256), (90, 110)]),
)  # fmt: skip
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_value_is_the_plain_ones(
    interpolation: str, h: int, w: int, new_h: int, new_w: int, seed: int, levels: tuple[int, int]
) -> None:
    picture = noise(h, w, seed, *levels)
    if (h, w) == (new_h, new_w):
        expected = picture.astype(PLAIN[interpolation](picture, (h, w)).dtype)
    else:
        expected = PLAIN[interpolation](picture, (new_h, new_w))

    resized = resize_image(picture, (new_h, new_w), interpolation)

    assert resized.dtype == expected.dtype
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.parametrize("interpolation", PLAIN)
def test_views_are_read(interpolation: str) -> None:
    """Turned, mirrored, one grey band for three."""
    grey = np.broadcast_to(noise(90, 70)[:, :, :1], (90, 70, 3))
    for picture in (noise(90, 70).swapaxes(0, 1), noise(90, 70)[::-1, ::-1], grey):
        expected = PLAIN[interpolation](np.ascontiguousarray(picture), (40, 60))

        np.testing.assert_array_equal(resize_image(picture, (40, 60), interpolation), expected)
