"""The resizes without antialiasing in plain numpy, which says what the compiled ones have to give, to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.linear import replicated_axis, zero_border_axis


def replicated(picture: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """torch's order: along x, then along y."""
    left, right, left_weight, right_weight = replicated_axis(picture.shape[1], size_hw[1])
    upper, lower, upper_weight, lower_weight = replicated_axis(picture.shape[0], size_hw[0])
    across = picture[:, left] * left_weight[:, None] + picture[:, right] * right_weight[:, None]
    return across[upper] * upper_weight[:, None, None] + across[lower] * lower_weight[:, None, None]


def zero_border(picture: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """scikit-image's: each pixel times its two weights, added up pixel by pixel, clipped to the picture's own range."""
    upper, lower, upper_weight, lower_weight = zero_border_axis(picture.shape[0], size_hw[0])
    left, right, left_weight, right_weight = zero_border_axis(picture.shape[1], size_hw[1])
    blended = np.zeros((*size_hw, 3))
    for rows, along_y in ((upper, upper_weight), (lower, lower_weight)):
        for columns, along_x in ((left, left_weight), (right, right_weight)):
            blended += picture[rows[:, None], columns] * along_y[:, None, None] * along_x[:, None]
    return np.clip(blended, picture.min(), picture.max()).astype(np.uint8)
