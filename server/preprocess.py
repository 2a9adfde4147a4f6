"""From the bytes of a picture to a canvas for the network; pure functions on numpy arrays.

h, w: sides of the picture as a person sees it (*image* frame); H, W: sides of the padded input (*canvas* frame).
Pictures are uint8 [h, w, 3], RGB.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.contract import card
from server.contract.errors import BundleError, PictureTooLarge, UndecodablePicture, UnsupportedFormat

Picture = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

ACCEPTED_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""As Pillow names them; its JPEG reader opens MPO too."""

_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_ROUNDINGS: Final[dict[str, Callable[[float], int]]] = {
    "floor": math.floor,
    "half_up": lambda side: math.floor(side + 0.5),
    "half_even": round,
}
_OTHER_FORMATS: Final = {
    "HEIC": (4, (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PDF": (0, (b"%PDF-",)),
    "SVG": (0, (b"<svg", b"<?xml")),
}
"""Start and magic bytes of formats that people send and Pillow does not know."""


_Axis = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""For each position of a resized side: two source positions, and their weights."""


@dataclass(frozen=True)
class Limits:
    """The largest picture file and picture that are decoded. Pillow itself refuses above 178 megapixels."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000


@dataclass(frozen=True)
class Canvas:
    """A picture on its canvas."""

    image: Pixels
    """[H, W, 3], uint8 or float32 (0 to 255) as the model card asks; zero outside the window."""
    window_xyxy: tuple[int, int, int, int]
    """The picture's place in the canvas; x2/y2 exclusive."""
    size_hw: tuple[int, int]
    """The picture before it was resized."""

    @property
    def resized_hw(self) -> tuple[int, int]:
        x1, y1, x2, y2 = self.window_xyxy
        return y2 - y1, x2 - x1


def prepare(picture: Picture, settings: card.Input) -> Canvas:
    """Resizes a picture and puts it on its canvas, as the model card says."""
    h, w = picture.shape[:2]
    resized = resize_image(picture, resized_size(h, w, settings.resize), settings.resize.interpolation)
    return place(resized, (h, w), settings)


def decode_image(data: bytes, limits: Limits | None = None) -> Picture:
    """The first frame of a picture file, orientation applied, as RGB over black.

    1- to 16-bit grey is scaled from the depth of its format; 32-bit and float grey, which have no white of their own,
    are spread from their least to their greatest finite value. Raises `PictureTooLarge` (before anything is decoded),
    `UnsupportedFormat` or `UndecodablePicture`.
    """
    limits = limits or Limits()
    if len(data) > limits.max_bytes:
        raise PictureTooLarge(f"The picture has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    _silence_pillow()
    with _open(data) as image:
        w, h = image.size
        if w * h > limits.max_pixels:
            raise PictureTooLarge(f"The picture has {w} x {h} pixels; at most {limits.max_pixels} in all are accepted.")
        try:
            image.load()
            pixels = _to_rgb(image)
            orientation = _orientation(image)
        except Exception as error:  # Pillow's decoders raise a dozen kinds for broken files
            raise UndecodablePicture(f"The {image.format} picture is broken or cut off.") from error
    return np.ascontiguousarray(_upright(pixels, orientation))


def _silence_pillow() -> None:
    """Pillow warns of oddities that a caller cannot mend. Checked at every call: filters come and go with contexts."""
    if not any(f[0] == "ignore" and getattr(f[3], "pattern", None) == "PIL" for f in warnings.filters):
        warnings.filterwarnings("ignore", module="PIL")


def _open(data: bytes) -> Image.Image:
    """Reads the header only."""
    if not data:
        raise UndecodablePicture("The picture is empty: 0 bytes.")
    Image.init()  # or `formats` may name only Pillow's commonest
    try:
        return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge("The picture has far too many pixels; send a smaller one.") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds for broken headers
        if name := _other_format(data[:32]):
            accepted = ", ".join(ACCEPTED_FORMATS)
            raise UnsupportedFormat(f"{name} pictures are not accepted; send one of {accepted}.") from error
        raise UndecodablePicture("This is not a picture, or its header is broken.") from error


def _other_format(prefix: bytes) -> str | None:
    """The name of a format that is not accepted, by its magic bytes alone: its parser is never run."""
    for name, (start, magics) in _OTHER_FORMATS.items():
        if prefix[start:].startswith(magics):
            return name
    for name, (_, accept) in Image.OPEN.items():
        if name not in ACCEPTED_FORMATS and accept is not None and _accepts(name, accept, prefix[:16]):
            return name
    return None


def _accepts(name: str, accept: Callable[[bytes], Any], prefix: bytes) -> bool:
    if name == "PPM" and not prefix[2:3].isspace():  # Pillow takes any text that starts with "Py"
        return False
    try:
        return accept(prefix) is True
    except (IndexError, struct.error):  # a short prefix
        return False


def _to_rgb(image: Image.Image) -> Picture:
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(_scaled_16_bit(image))
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_spread(np.asarray(image)))
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    with_alpha = image.convert("RGBA")
    on_black = Image.new("RGB", image.size)
    on_black.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return np.asarray(on_black)


def _grey_to_rgb(grey: npt.NDArray[np.uint8]) -> Picture:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _scaled_16_bit(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Full scale is that of the file's depth: a TIFF may hold 12 bits."""
    values = np.asarray(image).astype(np.float32)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))[0]
    grey: npt.NDArray[np.uint8] = np.clip(np.rint(values * (255 / (2**bits - 1))), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 0
    return grey


def _spread(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """The least finite value to 0, the greatest to 255; NaN to 0, infinities to the end they lie at."""
    exact = values.astype(np.float64)
    finite = exact[np.isfinite(exact)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    span = high - low or 1.0
    scaled = np.clip((exact - low) / span, 0, 1) * 255
    grey: npt.NDArray[np.uint8] = np.rint(np.nan_to_num(scaled, nan=0)).astype(np.uint8)
    return grey


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8, read after loading (PNG may hold it last, TIFF has applied it by then)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block does not spoil the picture
        return 1


def _upright(pixels: Picture, orientation: int) -> Picture:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def resized_size(h: int, w: int, resize: card.Resize) -> tuple[int, int]:
    """Sides of the picture in the canvas, each at least 1 px."""
    scaled = _shortest_edge(h, w, resize) if resize.rule == "shortest_edge" else _grown(h, w, resize)
    new_h, new_w = (max(1, _ROUNDINGS[resize.rounding](side)) for side in scaled)
    return new_h, new_w


def _shortest_edge(h: int, w: int, resize: card.Resize) -> tuple[float, float]:
    """Before rounding, in each family's own order of operations: 201 x 302 at 320/480 is 319 x 479 in torchvision."""
    if resize.rounding == "floor":
        scale = min(resize.min_size / min(h, w), resize.max_size / max(h, w))
        return h * scale, w * scale
    scale = resize.min_size / min(h, w)
    new_h, new_w = (resize.min_size, scale * w) if h < w else (scale * h, resize.min_size)
    shrink = min(1.0, resize.max_size / max(new_h, new_w))
    return new_h * shrink, new_w * shrink


def _grown(h: int, w: int, resize: card.Resize) -> tuple[float, float]:
    """Matterport's rule, before rounding."""
    scale = max(1.0, resize.min_size / min(h, w))
    if round(max(h, w) * scale) > resize.max_size:
        scale = resize.max_size / max(h, w)
    return h * scale, w * scale


def resize_image(picture: Picture, size_hw: tuple[int, int], interpolation: str) -> Pixels:
    """Bilinear, in one of the three families' ways (see `card.Resize`): uint8, or float32 0 to 255 for `linear`."""
    if interpolation == "antialias":
        h, w = size_hw
        return np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BILINEAR))
    if interpolation == "linear":
        return _replicated(picture, size_hw)
    if size_hw == picture.shape[:2]:
        return picture
    return _zero_border(picture, size_hw).astype(np.uint8)  # truncates, as Matterport does


def _zero_border(picture: Picture, size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """scikit-image's resize(order=1, mode="constant"), whose order of arithmetic decides what the truncation leaves:
    each pixel times its two weights, added up pixel by pixel, then clipped to the picture's own range."""
    upper, lower, upper_weight, lower_weight = _zero_border_axis(picture.shape[0], size_hw[0])
    left, right, left_weight, right_weight = _zero_border_axis(picture.shape[1], size_hw[1])
    blended = np.zeros((*size_hw, 3))
    for rows, along_y in ((upper, upper_weight), (lower, lower_weight)):
        for columns, along_x in ((left, left_weight), (right, right_weight)):
            blended += picture[rows[:, None], columns] * along_y[:, None, None] * along_x[:, None]
    return np.clip(blended, picture.min(), picture.max())


def _replicated_axis(old: int, new: int) -> _Axis:
    """torch's interpolate(align_corners=False), in its float32."""
    scale = np.float32(old) / np.float32(new)
    source = np.maximum(np.float64(scale) * (np.arange(new) + 0.5) - 0.5, 0).astype(np.float32)  # fused in torch
    first = np.minimum(source.astype(np.int64), old - 1)
    weight = np.clip(source - first.astype(np.float32), 0, 1)
    return first, np.minimum(first + 1, old - 1), np.float32(1) - weight, weight


def _zero_border_axis(old: int, new: int) -> _Axis:
    """scikit-image's resize(order=1, mode="constant"): zeros outside the picture, float64."""
    source = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(source).astype(np.int64)
    second, weight = first + 1, source - first
    weights = (1 - weight) * (first >= 0), weight * (second < old)
    return np.maximum(first, 0), np.minimum(second, old - 1), *weights


def _replicated(picture: Picture, size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Along x, then along y (torch's order), reading only the rows that are needed."""
    left, right, left_weight, right_weight = _replicated_axis(picture.shape[1], size_hw[1])
    upper, lower, upper_weight, lower_weight = _replicated_axis(picture.shape[0], size_hw[0])
    used, places = np.unique(np.concatenate((upper, lower)), return_inverse=True)
    rows = picture[used]
    across = rows[:, left] * left_weight[:, None] + rows[:, right] * right_weight[:, None]
    above, below = across[places[: len(upper)]], across[places[len(upper) :]]
    blended: npt.NDArray[Any] = above * upper_weight[:, None, None] + below * lower_weight[:, None, None]
    return blended.astype(np.float32, copy=False)


def canvas_size(resized_hw: tuple[int, int], settings: card.Input) -> tuple[int, int]:
    """The canvas for a resized picture: its own size rounded up, or the smallest of the model's list that holds it."""
    h, w = resized_hw
    if settings.canvases == "exact":
        step = settings.size_divisor
        return math.ceil(h / step) * step, math.ceil(w / step) * step
    holding = [canvas for canvas in settings.canvases if canvas[0] >= h and canvas[1] >= w]
    if not holding:
        raise BundleError(f"No canvas of the model holds a picture resized to {h} x {w}.")
    return min(holding, key=lambda canvas: canvas[0] * canvas[1])


def place(resized: Pixels, size_hw: tuple[int, int], settings: card.Input) -> Canvas:
    """Puts a resized picture on its canvas, top left or centred, in the dtype of the model card."""
    h, w = resized.shape[:2]
    canvas_h, canvas_w = canvas_size((h, w), settings)
    top, left = ((canvas_h - h) // 2, (canvas_w - w) // 2) if settings.placement == "centre" else (0, 0)
    if settings.dtype == "uint8" and resized.dtype != np.uint8:
        resized = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    image: Any = np.zeros((canvas_h, canvas_w, 3), settings.dtype)
    image[top : top + h, left : left + w] = resized
    return Canvas(image, (left, top, left + w, top + h), size_hw)
