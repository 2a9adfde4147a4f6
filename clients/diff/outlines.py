"""Two drawings of a picture, with what A found and with what B found: SVG over one small copy of the picture.

Drawings are `SIDE` units long; a unit is about a pixel of the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np

from clients.diff.drift import Shown
from clients.diff.pairing import Comparison, Pair, Single
from clients.loadtest.page import text
from clients.masks import to_counts
from clients.picture import load
from clients.prediction import Detection
from server.contract import polygons

SIDE = 640
QUALITY = 80

Drawn = tuple[str, Detection, str]
"""Kind, object, and what it says of itself on hover."""


def side_by_side(shown: Shown, key: str) -> str:
    """A's and B's `<figure>`. `key` is the picture's own on the page. Raises `InvalidPictureError`."""
    height, width = shown.size_hw
    scale = SIDE / max(height, width)
    box = f'viewBox="0 0 {round(width * scale)} {round(height * scale)}"'
    size = f'width="{round(width * scale)}" height="{round(height * scale)}"'
    picture = f'<image id="{key}" {size} href="{_embedded(shown)}"/>'
    sides = (("A", _in_a(shown.comparison), picture), ("B", _in_b(shown.comparison), f'<use href="#{key}"/>'))
    figures = []
    for name, drawn, ground in sides:
        paths = "".join(_path(one, scale) for one in drawn)
        label = f"{name} finds {len(drawn)} in {shown.picture.name}"
        svg = f'<svg {box} role="img" aria-label="{text(label)}">{ground}{paths}</svg>'
        figures.append(f"<figure><figcaption>{name}: {len(drawn)} found</figcaption>{svg}</figure>")
    return f'<div class="sides">{"".join(figures)}</div>'


def _embedded(shown: Shown) -> str:
    image = load(shown.picture.path)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _in_a(comparison: Comparison) -> list[Drawn]:
    """Kept ones first: what differs lies on top."""
    pairs = [("kept", p.a, _of(p)) for p in comparison.kept] + [("changed", p.a, _of(p)) for p in comparison.changed]
    return pairs + [_single("lost", one, "B") for one in comparison.lost]


def _in_b(comparison: Comparison) -> list[Drawn]:
    pairs = [("kept", p.b, _of(p)) for p in comparison.kept] + [("changed", p.b, _of(p)) for p in comparison.changed]
    return pairs + [_single("gained", one, "A") for one in comparison.gained]


def _single(kind: str, one: Single, other: str) -> Drawn:
    if one.unsure is None:
        return kind, one.found, f"{kind}: {_named(one.found)}"
    return f"{kind} unsure", one.found, f"{kind}: {_named(one.found)}, in {other} {one.unsure:.2f}"


def _named(one: Detection) -> str:
    return f"{one.label} {one.score:.2f}"


def _of(pair: Pair) -> str:
    return f"{_named(pair.a)} → {_named(pair.b)}, IoU {pair.iou:.2f}"


def _path(drawn: Drawn, scale: float) -> str:
    kind, one, hover = drawn
    counts, size_hw = to_counts(one.encoded_mask)
    rings = (ring for polygon in polygons.from_counts(counts, size_hw) for ring in polygon)
    return f'<path class="{kind}" d="{_steps(rings, scale)}"><title>{text(hover)}</title></path>'


def _steps(rings: Iterable[polygons.Ring], scale: float) -> str:
    """SVG's path of rings, in whole units."""
    parts = []
    for ring in rings:
        corners = np.rint(ring * scale).astype(np.int64)
        steps = np.diff(corners, axis=0)
        moves = (f"h{x}" if not y else f"v{y}" if not x else f"l{x} {y}" for x, y in steps[steps.any(axis=1)].tolist())
        parts.append(f"M{corners[0, 0]} {corners[0, 1]}{''.join(moves)}z")
    return "".join(parts)
