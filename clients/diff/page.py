"""The page of a comparison: one file with nothing to load. `summary` is what `diff.json` holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np

from clients.diff.drift import KINDS, MOST_SHOWN, Drift, Shown
from clients.diff.outlines import side_by_side
from clients.errors import InvalidPictureError
from clients.loadtest.page import document, figure, table, text
from clients.loadtest.plots import Axis, Series, linear_axis, plot, stacked

Summary = Mapping[str, Any]

BINS = 25
MOST_DOTS = 1500
MOST_CLASSES = 8
"""In the plot; the table has all."""
COLOURS = {"lost": "#d95f02", "gained": "#2b7bff", "changed": "#c026d3", "kept": "#0f9d76"}
NAMES = {
    "kept": "in both",
    "lost": "lost: only in A",
    "gained": "gained: only in B",
    "changed": "of another class in B",
}
OTHERS = {"lost": "B", "gained": "A"}
AP_NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium"}
AP_NAMES |= {"ap_large": "AP large", "recall": "recall"}

_STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { border: 1px solid var(--rule); border-radius: 8px; padding: .6rem .9rem; }
.tile b { display: block; font-size: 1.8rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile.gained, .tile.lost, .tile.changed, .tile.kept { border-left: 5px solid; }
.verdict { font-size: 1.25rem; margin: 1rem 0 0; }
.models td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; } .sides svg { display: block; border-radius: 4px; }
.sides figcaption { font-weight: 400; font-size: 13px; color: var(--soft); }
.key { position: sticky; top: 0; z-index: 1; background: var(--paper); padding: .5rem 0; display: flex; flex-wrap: wrap;
       gap: .3rem 1rem; align-items: center; font-size: 13px; border-bottom: 1px solid var(--rule); }
.key svg { width: 34px; height: 20px; vertical-align: middle; margin-right: .3rem; } .key label { margin-left: auto; }
@media (max-width: 600px) { .sides { grid-template-columns: 1fr; } }
.tile small { color: var(--soft); } h3 { margin: 1.6rem 0 0; overflow-wrap: anywhere; } h3 + p { margin: 0 0 .5rem; }
path.kept { fill: transparent; stroke: #19e3a8; stroke-width: 1.2; }
path.lost, path.gained, path.changed { stroke-width: 2.5; }
path.lost { stroke: %(lost)s; fill: url(#lost); stroke-dasharray: 6 3; }
path.gained { stroke: %(gained)s; fill: url(#gained); }
path.changed { stroke: %(changed)s; fill: url(#changed); stroke-dasharray: 1.5 3; stroke-linecap: round; }
path.unsure { fill: transparent; }
path:hover { stroke-width: 4; }
body:has(#kept:not(:checked)) .sides path.kept { display: none; }
@media print { .key { position: static; } .pair { break-inside: avoid; } }
"""
# Stripes, crosses and rows of dots: to be told apart also without their colours.
_PATTERNS = """
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<pattern id="lost" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<path d="M0 0v7" stroke="%(lost)s" stroke-width="2" opacity=".8"/></pattern>
<pattern id="gained" width="9" height="9" patternUnits="userSpaceOnUse">
<path d="M4.5 1.5v6M1.5 4.5h6" stroke="%(gained)s" stroke-width="1.4" opacity=".8"/></pattern>
<pattern id="changed" width="6" height="6" patternUnits="userSpaceOnUse">
<circle cx="3" cy="3" r="1.5" fill="%(changed)s"/></pattern></defs></svg>
"""


def write_page(drift: Drift, summary: Summary) -> str:
    """The page, as HTML."""
    parts = [
        f"<style>{_STYLE % COLOURS}</style>{_PATTERNS % COLOURS}",
        "<h1>What changes from A to B</h1>",
        _models(summary),
        f'<p class="verdict">{text(verdict(summary))}</p>',
        _incomplete(summary),
        _tiles(summary),
        _precision(summary["average_precision"]),
        _plots(drift, summary),
        _classes(summary),
        _pictures(drift.worst(), summary),
    ]
    return document("What changes from A to B", parts)


def verdict(summary: Summary) -> str:
    """One sentence."""
    objects, found = summary["objects"], summary["pictures"]["compared"]
    if summary["different"]:
        below = summary["below_threshold_in_other"]
        return (
            f"{objects['kept']:,} objects in both; {objects['lost']:,} lost ({below['lost']:,} fell below the "
            f"threshold); {objects['gained']:,} gained ({below['gained']:,} rose above it); {objects['changed']:,} of "
            f"another class. {summary['pictures']['different']:,} of {found:,} pictures differ."
        )
    lowest, largest = summary["mask_iou"]["min"], summary["score_change"]["largest"]
    if not objects["kept"]:
        return f"No difference: nothing is found in {found:,} pictures."
    many = f"{objects['kept']:,} objects in {found:,} pictures"
    if lowest == 1 and not largest:
        return f"No difference: {many}, every mask and every score the same."
    return (
        f"No object is lost, gained or of another class: {many}, masks with an IoU of {lowest:.3f} or more, "
        f"scores that differ by {largest:.2g} or less."
    )


def _models(summary: Summary) -> str:
    rows = "".join(
        f"<tr><td><b>{name.upper()}</b></td><td>{text(summary[name]['source'])}</td>"
        f'<td class="soft">{text(summary[name]["model"] or "")}</td></tr>'
        for name in ("a", "b")
    )
    return (
        f'<div class="scroll"><table class="models" style="width:auto"><tbody>{rows}</tbody></table></div>'
        f'<p class="soft">{summary["pictures"]["compared"]:,} pictures of {text(summary["images"])}. Objects with a '
        f"score of {summary['score_threshold']:g} or more; the same object is one whose masks have an IoU of "
        f"{summary['iou_threshold']:g} or more.</p>"
    )


def _incomplete(summary: Summary) -> str:
    lines = [f"{one['file_name']}: {one['why']}" for one in summary["failed"]]
    if summary["not_compared"]:
        lines.append(f"Not compared, because the run was ended: {summary['not_compared']:,} pictures.")
    return f'<ul class="notes">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>' if lines else ""


def _tiles(summary: Summary) -> str:
    def tile(value: str, name: str, kind: str = "") -> str:
        colour = f' style="border-left-color:{COLOURS[kind]}"' if kind else ""
        return f'<div class="tile {kind}"{colour}><b>{value}</b>{name}</div>'

    below = summary["below_threshold_in_other"]
    notes = {k: f"<br><small>{n:,} in {o} below the threshold</small>" for k, o in OTHERS.items() if (n := below[k])}
    figures = [tile(f"{summary['objects'][k]:,}", NAMES[k] + notes.get(k, ""), k) for k in KINDS]
    iou, moved = summary["mask_iou"]["mean"], summary["score_change"]["mean"]
    if iou is not None:
        figures += [
            tile(f"{iou:.4f}", "mean IoU of masks in both"),
            tile(f"{moved:+.4f}", "mean change of their scores"),
        ]
    return f'<div class="tiles">{"".join(figures)}</div>'


def _precision(found: Summary | None) -> str:
    if not found:
        return ""
    body = [
        [AP_NAMES[key], *(cell for kind in ("box", "mask") for cell in _before_and_after(*found[kind][key]))]
        for key in AP_NAMES
    ]
    head = ["", *(text for kind in ("box", "mask") for text in (f"{kind} A", f"{kind} B", "change"))]
    unknown = found["classes_not_annotated"]
    left_out = f" Not annotated, so left out: {', '.join(unknown)}." if unknown else ""
    note = f"{found['pictures']:,} annotated pictures, all detections down to the models' own limits.{left_out}"
    return f'<h2>Average precision</h2>{table(head, body)}<p class="soft">{text(note)}</p>'


def _before_and_after(a: float | None, b: float | None) -> list[str]:
    if a is None or b is None:
        return ["-", "-", "-"]
    return [f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"]


def _plots(drift: Drift, summary: Summary) -> str:
    figures = [_spread(summary)] if summary["by_picture"] else []
    if len(drift.ious):
        figures += [_ious(drift), _score_changes(drift), _scores(drift)]
    return f'<h2>Objects</h2><div class="plots">{"".join(figures)}</div>' if figures else ""


def _spread(summary: Summary) -> str:
    """Whether few pictures changed much, or all of them a little."""
    changes = sorted((one["change"] for one in summary["by_picture"]), reverse=True)
    step = len(changes) // MOST_DOTS + 1
    points = [(float(k), change) for k, change in enumerate(changes, start=1)][::step]
    axes = linear_axis("pictures", [float(len(changes))]), linear_axis("change, objects", changes)
    return figure("How the change is spread", plot([Series("picture, objects", points, COLOURS["lost"])], *axes))


def _ious(drift: Drift) -> str:
    axis = Axis("IoU of the masks", 0.5, 1.0)
    return figure("How well the masks agree", _histogram("IoU, objects", np.array(drift.ious), axis, COLOURS["kept"]))


def _score_changes(drift: Drift) -> str:
    moved = np.subtract(drift.scores[1], drift.scores[0])
    most = max(float(np.abs(moved).max()), 1e-4)
    axis = Axis("score in B less score in A", -most, most)
    return figure("How much the scores move", _histogram("change, objects", moved, axis, COLOURS["gained"]))


def _histogram(name: str, values: Any, axis: Axis, colour: str) -> str:
    counts, edges = np.histogram(np.clip(values, axis.low, axis.high), bins=BINS, range=(axis.low, axis.high))
    bars = [(float(x), float(n)) for x, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)]
    return plot([Series(name, bars, colour, "bars")], axis, linear_axis("objects", [float(counts.max())]))


def _scores(drift: Drift) -> str:
    step = len(drift.ious) // MOST_DOTS + 1
    points = list(zip(drift.scores[0][::step], drift.scores[1][::step], strict=True))
    low = drift.score_threshold
    low = low if low < 1 else 0.0
    series = [
        Series("an object in both", points, COLOURS["kept"], "dots"),
        Series("the same score", [(low, low), (1.0, 1.0)], "#9ca3af"),
    ]
    axes = (Axis("score in A", low, 1.0), Axis("score in B", low, 1.0))
    return figure("Score in A against score in B", plot(series, *axes))


def _classes(summary: Summary) -> str:
    if len(summary["classes"]) < 2 and not summary["class_changes"]:
        return ""
    body = [[name, *(counts[kind] for kind in KINDS)] for name, counts in summary["classes"].items()]
    changes = [[one["from"], one["to"], one["objects"]] for one in summary["class_changes"]]
    swapped = f"<h2>Other classes</h2>{table(['in A', 'in B', 'objects'], changes)}" if changes else ""
    drawn = _by_class(summary) if summary["different"] and len(body) > 1 else ""
    return f"<h2>Classes</h2>{drawn}{table(['class', *(NAMES[kind] for kind in KINDS)], body)}{swapped}"


def _by_class(summary: Summary) -> str:
    names = sorted(summary["classes"], key=lambda name: -sum(summary["classes"][name][kind] for kind in KINDS[1:]))
    names = names[:MOST_CLASSES]
    parts = [(NAMES[k], [float(summary["classes"][n][k]) for n in names], COLOURS[k]) for k in KINDS[1:]]
    drawn = figure("Differences by class: that in A, of gained ones that in B", stacked(names, parts, "objects"))
    return f'<div class="plots">{drawn}</div>'


def _pictures(worst: Sequence[Shown], summary: Summary) -> str:
    if not worst:
        return ""
    moved = sum(one["change"] > 0 for one in summary["by_picture"])
    left_out = f" The other {moved - len(worst):,} that changed are in the JSON file." if moved > len(worst) else ""
    note = f"Those with the most change first, {MOST_SHOWN} at most.{left_out} Point at an outline to see what it is."
    sections = "".join(_sections(worst))
    return f'<h2>Pictures</h2><p class="soft">{text(note)}</p>{_key()}{sections}'


def _sections(worst: Sequence[Shown]) -> Iterator[str]:
    for number, shown in enumerate(worst):
        counts = {kind: len(getattr(shown.comparison, kind)) for kind in KINDS}
        line = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count or kind == "kept")
        try:
            drawn = side_by_side(shown, f"p{number}")
        except InvalidPictureError as error:
            drawn = f'<p class="notes">{text(error)}</p>'
        yield f'<section class="pair"><h3>{text(shown.picture.name)}</h3><p class="soft">{line}</p>{drawn}</section>'


def _key() -> str:
    def entry(kind: str, name: str) -> str:
        return f'<span><svg viewBox="0 0 34 20"><path class="{kind}" d="M3 3h28v14h-28z"/></svg>{name}</span>'

    marks = {**NAMES, "lost unsure": "not filled: in the other below the threshold"}
    switch = '<label><input type="checkbox" id="kept" checked> show what is in both</label>'
    return f'<div class="key">{"".join(starmap(entry, marks.items()))}{switch}</div>'
