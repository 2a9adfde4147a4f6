"""Pictures to compare a bundle with its model on: a folder's, a COCO data set's, or generated ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from server.contract.errors import PictureError
from server.pictures.decode import Picture, decode_image

MOST = 20
"""Pictures that are taken of a folder, evenly spread over its sorted names."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mpo"}

GENERATED_HW = ((61, 203), (240, 320), (330, 200), (400, 400))
"""Sizes of the generated pictures: odd ones, small ones, both orientations; the first is long, a small canvas."""


class PicturesError(Exception):
    """There are no usable pictures; the message is for the person who named the place."""


@dataclass(frozen=True)
class Example:
    """A picture, uint8 [h, w, 3] RGB, and what to call it; `image_id` is that of its COCO data, None elsewhere."""

    name: str
    picture: Picture
    image_id: int | None = None


def read_examples(source: Path | None) -> list[Example]:
    """At most `MOST` pictures of a folder, or of COCO data (its split `val`, else its first); generated without one.

    Raises `PicturesError` that names what is missing or broken.
    """
    if source is None:
        return [Example(f"generated picture {i}", _generate(i, *size)) for i, size in enumerate(GENERATED_HW)]
    if not source.is_dir():
        raise PicturesError(f"{source} is not a folder of pictures.")
    annotations = annotation_file(source)
    found = _folder_pictures(source) if annotations is None else _coco_pictures(source, annotations)
    if not found:
        raise PicturesError(f"{source} holds no pictures.")
    chosen = np.unique(np.linspace(0, len(found) - 1, MOST).round().astype(int))
    return [Example(path.name, _read(path), image_id) for path, image_id in (found[i] for i in chosen)]


def annotation_file(folder: Path) -> Path | None:
    """The COCO file of which the pictures are taken; None: the folder is no COCO data. Raises `PicturesError`."""
    annotations = folder / "annotations"
    if not annotations.is_dir():
        return None
    files = sorted(annotations.glob("instances_*.json"), key=lambda path: (path.stem[10:] != "val", path))
    if not files:
        raise PicturesError(f"{annotations} holds no instances_SPLIT.json.")
    return files[0]


def _folder_pictures(folder: Path) -> list[tuple[Path, None]]:
    return [(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]


def _coco_pictures(folder: Path, annotations: Path) -> list[tuple[Path, int]]:
    try:
        images = [(image["file_name"], image["id"]) for image in json.loads(annotations.read_bytes())["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PicturesError(f"{annotations} is not a COCO file with a list of images.") from error
    return [(folder / annotations.stem[10:] / name, image_id) for name, image_id in sorted(images)]


def _read(path: Path) -> Picture:
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise PicturesError(f"{path} cannot be read: {error.strerror or error}.") from error
    except PictureError as error:
        raise PicturesError(f"{path}: {error}") from error


def _generate(seed: int, height: int, width: int) -> Picture:
    """Coloured ellipses and rectangles on a noisy gradient; the same for the same seed."""
    rng = np.random.default_rng(seed)
    top, bottom = rng.uniform(0, 160, (2, 3))
    gradient = np.linspace(top, bottom, height)[:, None, :]
    noisy = np.clip(gradient + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(noisy)
    draw = ImageDraw.Draw(image)
    for shape in range(24):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(4, max(width, height) / 5, 2)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (draw.ellipse if shape % 3 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    return np.asarray(image)
