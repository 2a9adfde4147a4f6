"""The pictures that are posted: of a folder, or made by the project's own generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

FORMATS = {".jpg", ".jpeg", ".png"}
MIN_SIZE, MAX_SIZE = 800, 1333
"""Of the network: pixels of the shorter and, at most, of the longer side."""


def chosen(folder: Path | None, most: int, made: Path) -> list[Path]:
    """So many at most, spread over a folder's pictures by name; without a folder, samples that are written to `made`.

    Raises `FileNotFoundError` where there is no picture.
    """
    if folder is None:
        from clients.samples import write_samples

        return write_samples(made)[:most]
    found = sorted(path.resolve() for path in folder.iterdir() if path.suffix.lower() in FORMATS)
    if not found:
        raise FileNotFoundError(f"{folder} has no JPEG or PNG.")
    count = min(most, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def at_network_size(path: Path) -> npt.NDArray[np.uint8]:
    """RGB [h, w, 3]."""
    picture = Image.open(path).convert("RGB")
    scale = min(MIN_SIZE / min(picture.size), MAX_SIZE / max(picture.size))
    return np.asarray(picture.resize((int(picture.width * scale), int(picture.height * scale))))
