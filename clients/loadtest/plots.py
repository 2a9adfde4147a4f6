"""Small SVG plots, drawn by hand so that a report is one file with nothing to load."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777")

Point = tuple[float, float]
Ticks = list[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """`line` joins the points; `dots` and `bars` (x = middle of the bar) do not."""

    name: str
    points: Sequence[Point]
    colour: str
    kind: Literal["line", "dots", "bars"] = "line"


@dataclass(frozen=True)
class Axis:
    """A linear axis, or one of tail percentiles (`tail`: 90, 99, 99.9 equally far apart)."""

    label: str
    low: float
    high: float
    tail: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.tail:
            return _tail(min(value, self.high)) / _tail(self.high)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> Ticks:
        if self.tail:
            return [(p, f"p{p:g}") for p in (0, 50, 90, 99, 99.9, 99.99) if p <= self.high]
        step = _nice_step(self.high - self.low)
        first = math.ceil(self.low / step)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [((first + k) * step, f"{(first + k) * step:g}") for k in range(count)]


def linear_axis(label: str, values: Iterable[float]) -> Axis:
    """From 0 to a little above the largest value."""
    return Axis(label, 0.0, max([*values, 1e-3]) * 1.05)


def plot(series: Sequence[Series], x_axis: Axis, y_axis: Axis) -> str:
    """An `<svg>` element, with a legend above it when there is more than one series."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_axis.label)}">',
        *_grid(x_axis, y_axis),
        *(mark for one in series for mark in _marks(one, x_axis, y_axis)),
        "</svg>",
    ]
    return "\n".join([*(_legend(series) if len(series) > 1 else []), *parts])


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = []
    for value, text in x_axis.ticks():
        x = _x(x_axis, value)
        lines.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for value, text in y_axis.ticks():
        y = _y(y_axis, value)
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{text}</text>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    lines.append(f'<text x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_axis.label)}</text>')
    turned = f'transform="rotate(-90 14 {middle_y})"'
    lines.append(f'<text x="14" y="{middle_y}" {turned} text-anchor="middle">{html.escape(y_axis.label)}</text>')
    return lines


def _marks(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    places = [(_x(x_axis, x), _y(y_axis, y)) for x, y in series.points]
    if series.kind == "dots":
        return [f'<circle cx="{x}" cy="{y}" r="1.8" fill="{series.colour}" opacity="0.55"/>' for x, y in places]
    if series.kind == "bars":
        return _bars(places, series.colour)
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = [f'<circle cx="{x}" cy="{y}" r="3" fill="{series.colour}"/>' for x, y in places if len(places) <= 12]
    return [f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="2"/>', *dots]


def _bars(places: Sequence[Point], colour: str) -> list[str]:
    width = (places[1][0] - places[0][0]) * 0.92 if len(places) > 1 else 20.0
    floor = HEIGHT - BOTTOM
    return [
        f'<rect x="{x - width / 2:.1f}" y="{y}" width="{width:.1f}" height="{floor - y:.1f}" fill="{colour}" '
        'opacity="0.75"/>'
        for x, y in places
    ]


def _legend(series: Sequence[Series]) -> list[str]:
    entries = (f'<span style="color:{one.colour}">&#9632;</span> {html.escape(one.name)}' for one in series)
    return [f'<div class="legend">{" &nbsp; ".join(entries)}</div>']


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _tail(percentile: float) -> float:
    return -math.log10(1 - percentile / 100)


def _nice_step(span: float) -> float:
    rough = span / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
