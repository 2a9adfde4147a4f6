"""Small SVG plots, drawn by hand: a report is one file with nothing to load. Points tell their values on hover."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777")

FEW = 60
"""So many points of a line are marked, and labelled on hover."""

Point = tuple[float, float]
Ticks = list[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """`line` joins the points; `dots` and `bars` (x = middle of the bar) do not; `mark` is one ringed point."""

    name: str
    points: Sequence[Point]
    colour: str
    kind: Literal["line", "dots", "bars", "mark"] = "line"


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
    marks = [mark for one in series for mark in _marks(one, x_axis, y_axis)]
    svg = _svg(y_axis.label, [*_x_ticks(x_axis), *_y_axis(y_axis), *marks])
    return "\n".join([*(_legend(series) if len(series) > 1 else []), svg])


def stacked(names: Sequence[str], parts: Sequence[tuple[str, Sequence[float], str]], y_label: str) -> str:
    """A bar for each of `names`, of `parts`: (name, height in each bar, colour), from the bottom up."""
    totals = [sum(heights[k] for _, heights, _ in parts) for k in range(len(names))]
    y_axis, x_axis = linear_axis(y_label, totals), Axis("", 0, len(names))
    width = 0.6 * (WIDTH - LEFT - RIGHT) / len(names)
    marks, floors = [], [0.0] * len(names)
    for name, heights, colour in parts:
        for k, height in enumerate(heights):
            top, bottom = _y(y_axis, floors[k] + height), _y(y_axis, floors[k])
            hover = f"{names[k]}: {name} {height:.4g} {y_label.rpartition(' ')[2]}"
            marks.append(_rect(_x(x_axis, k + 0.5) - width / 2, top, width, bottom - top, colour, hover))
            floors[k] += height
    labels = [_text(_x(x_axis, k + 0.5), HEIGHT - BOTTOM + 16, name) for k, name in enumerate(_short(names))]
    legend = _legend([Series(name, [], colour) for name, _, colour in parts])
    return "\n".join([*legend, _svg(y_label, [*_y_axis(y_axis), *marks, *labels])])


def _svg(label: str, parts: Sequence[str]) -> str:
    return "\n".join(
        [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">', *parts, "</svg>"]
    )


def _x_ticks(axis: Axis) -> list[str]:
    bottom = HEIGHT - BOTTOM
    lines = []
    for value, text in axis.ticks():
        x = _x(axis, value)
        lines.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
        lines.append(_text(x, bottom + 16, text))
    return [*lines, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axis.label)]


def _y_axis(axis: Axis) -> list[str]:
    right, middle = WIDTH - RIGHT, (TOP + HEIGHT - BOTTOM) / 2
    lines = []
    for value, text in axis.ticks():
        y = _y(axis, value)
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{text}</text>')
    turned = f'transform="rotate(-90 14 {middle})"'
    return [*lines, f'<text x="14" y="{middle}" {turned} text-anchor="middle">{html.escape(axis.label)}</text>']


def _marks(series: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    places = [(_x(x_axis, x), _y(y_axis, y)) for x, y in series.points]
    hovers = [f"{series.name}: {x:.4g}, {y:.4g}" for x, y in series.points]
    match series.kind:
        case "dots":
            return [_circle(place, 1.8, series.colour, "", 0.55) for place in places]
        case "bars":
            return _bars(places, hovers, series.colour)
        case "mark":
            return [_ring(place, series.name, series.colour) for place in places]
    path = " ".join(f"{x},{y}" for x, y in places)
    line = f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="2"/>'
    marked = zip(places, hovers, strict=True) if len(places) <= FEW else ()
    return [line, *(_circle(place, 3, series.colour, hover) for place, hover in marked)]


def _bars(places: Sequence[Point], hovers: Sequence[str], colour: str) -> list[str]:
    width = (places[1][0] - places[0][0]) * 0.92 if len(places) > 1 else 20.0
    floor = HEIGHT - BOTTOM
    return [
        _rect(x - width / 2, y, width, floor - y, colour, hover) for (x, y), hover in zip(places, hovers, strict=True)
    ]


def _rect(x: float, y: float, width: float, height: float, colour: str, hover: str) -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}"'
    return f'<rect {size} fill="{colour}" opacity="0.8">{_title(hover)}</rect>'


def _circle(place: Point, radius: float, colour: str, hover: str, opacity: float = 1) -> str:
    spot = f'cx="{place[0]}" cy="{place[1]}" r="{radius}" fill="{colour}" opacity="{opacity}"'
    return f"<circle {spot}>{_title(hover)}</circle>" if hover else f"<circle {spot}/>"


def _ring(place: Point, name: str, colour: str) -> str:
    x, y = place
    anchor, dx = ("end", -11) if x > WIDTH / 2 else ("start", 11)
    label = f'<text x="{x + dx}" y="{y - 9}" text-anchor="{anchor}">{html.escape(name)}</text>'
    return f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="{colour}" stroke-width="2"/>{label}'


def _title(text: str) -> str:
    return f"<title>{html.escape(text)}</title>"


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle">{html.escape(text)}</text>'


def _short(names: Sequence[str]) -> list[str]:
    """As much as fits below the bars; the whole name shows on hover."""
    room = int(80 / len(names))
    if max(map(len, names)) <= room:
        return list(names)
    return [name.removeprefix("concurrency ")[:room] for name in names]


def _legend(series: Sequence[Series]) -> list[str]:
    shown = [one for one in series if one.kind != "mark"]
    entries = (f'<span style="color:{one.colour}">&#9632;</span> {html.escape(one.name)}' for one in shown)
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
