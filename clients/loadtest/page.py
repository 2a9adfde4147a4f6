"""What the pages of a load test and of a comparison are made of. A `row` is a run of `report.json`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from clients.loadtest.metrics import STAGES
from clients.loadtest.plots import COLOURS, Axis, Series, linear_axis, plot, stacked

Row = Mapping[str, Any]
Reports = Sequence[tuple[str, Sequence[Row]]]
"""Names and runs, the name is empty where there is only one."""

HEAD = ["load", "s", "sent", "ok", "refused", "failed", "ok/s", "mean", "p50", "p90", "p95", "p99", "max"]
LAG_HEAD = ["lag p50", "lag p99"]
REST = "rest (network, HTTP)"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #fff; --soft: #6b7280; --rule: #e5e7eb; --warn: #b45309; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --soft: #9ca3af; --rule: #374151;
       --warn: #fbbf24; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; } .soft { color: var(--soft); } .notes { color: var(--warn); }
.result { font-size: 1.3rem; } pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--rule); font-size: 13px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin: .6rem 0 .2rem; }
.legend { font-size: 13px; color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); } .grid { stroke: var(--rule); }
"""
_COPY = """
for (const button of document.querySelectorAll("button.copy")) button.onclick = () => {
  const selection = getSelection();
  selection.selectAllChildren(button.parentElement.nextElementSibling);
  document.execCommand("copy");  // also from a file, where the clipboard's own interface is not to be had
};
"""


def document(title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{text(title)}</title><style>{_STYLE}</style></head><body>
{body}
<script>{_COPY}</script></body></html>
"""


def text(value: object) -> str:
    return html.escape(str(value))


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{text(caption)}</figcaption>{svg}</figure>"


def table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    rows = "".join("<tr>" + "".join(f"<td>{text(shown(value))}</td>" for value in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "-" if value is None else str(value)


def result(report: Row) -> str:
    """The figure of a scenario."""
    found = report["result"]
    if not found:
        return ""
    why = f'<p class="notes">{text(found["why"])}</p>' if found["why"] else ""
    return f'<p class="result">{text(report["scenario"])}: {text(result_sentence(found))}</p>{why}'


def result_sentence(found: Row) -> str:
    value = "none" if found["value"] is None else f"{shown(float(found['value']))} {found['unit']}"
    return f"{found['metric']}: {value}{'' if found['valid'] else ' (not valid)'}"


def figures(row: Row) -> list[Any]:
    """In the order of HEAD."""
    counts = (row[key] for key in ("label", "duration_s", "sent", "ok", "refused", "failed", "throughput"))
    return [*counts, *row["latency_ms"].values()]


def runs_table(rows: Sequence[Row]) -> str:
    body = [[*figures(row), *row["generator_lag_ms"].values()] for row in rows]
    return table([*HEAD, *LAG_HEAD], body) + (
        '<p class="soft">Latency in milliseconds, from the intended send time to the whole answer, of answered '
        "requests. Throughput (ok/s) counts the answers that came inside the window. Lag is how late the generator "
        "itself sent.</p>"
    )


def note_lines(rows: Sequence[Row]) -> list[str]:
    """What is true of several runs is said once."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            labels.setdefault(note, []).append(row["label"])
    return [f"{', '.join(found)}: {note}" for note, found in labels.items()]


def notes(rows: Sequence[Row]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in note_lines(rows))
    return f'<ul class="notes">{items}</ul>' if items else ""


def answers(row: Row) -> str:
    found = row["answers"]
    if not found or not found["checked"]:
        return ""
    counts = ", ".join(f"{found[key]} {key}" for key in ("identical", "close", "different"))
    return text(f"; {found['checked']} answers held against the first pass: {counts}")


def server_table(rows: Sequence[Row]) -> str:
    """What the server said of its stages: in Server-Timing, else in /metrics; these alone tell how many waited."""
    body = []
    for row in rows:
        scraped = row["server_metrics"] or {"ms": dict.fromkeys(STAGES), "batch_size": None, "queue_depth": None}
        depth = scraped["queue_depth"] or {"mean": None, "max": None}
        in_header = any(value is not None for value in row["server_ms"].values())
        stages, batch = (row["server_ms"], row["batch_size"]) if in_header else (scraped["ms"], scraped["batch_size"])
        source = "Server-Timing" if in_header else "/metrics"
        body.append([row["label"], source, *stages.values(), batch, *depth.values()])
    if all(value is None for line in body for value in line[2:]):
        return '<p class="soft">The server sent no Server-Timing and has no /metrics that are known here.</p>'
    head = ["load", "told by", *STAGES, "batch", "waiting", "most"]
    return f"<h2>Where the server spent it (mean ms)</h2>{table(head, body)}"


def saturation(reports: Reports, knee: int | None = None) -> str:
    """Latency against throughput; the knee is a run of the only report."""
    series, colours = [], iter(COLOURS)
    for name, rows in reports:
        for rank in ("p50", "p99"):
            points = [(row["throughput"], row["latency_ms"][rank]) for row in _by_load(rows)]
            series.append(Series(f"{name} {rank}".strip(), points, next(colours)))
    points = [point for one in series for point in one.points]
    if not points:
        return "<p>No request was answered.</p>"
    if knee is not None:
        row = reports[0][1][knee]
        spot = (row["throughput"], row["latency_ms"]["p50"])
        series.append(Series(f"knee: {row['label']}", [spot], COLOURS[4], "mark"))
    x_axis = linear_axis("answers a second", [x for x, _ in points])
    return figure(
        "Latency against throughput", plot(series, x_axis, linear_axis("latency, ms", [y for _, y in points]))
    )


def _by_load(rows: Sequence[Row]) -> list[Row]:
    """Answered runs of one kind, as a line through them goes: a search tries its rates in another order, and may have
    begun with a closed loop."""
    kind = "rate" if any("rate" in row for row in rows) else "concurrency"
    return sorted((row for row in rows if row["ok"] and kind in row), key=lambda row: float(row[kind]))


def stages(rows: Sequence[Row]) -> str:
    """Mean latency by where it was spent. Where Server-Timing says nothing, /metrics do."""
    told = [(row, split) for row in rows if row["ok"] and any((split := server_split(row)).values())]
    if not told:
        return ""
    parts = []
    for name, colour in zip(STAGES, (COLOURS[5], COLOURS[1], COLOURS[2], COLOURS[3]), strict=True):
        parts.append((name, [split[name] for _, split in told], colour))
    rest = [max(0.0, row["latency_ms"]["mean"] - sum(split.values())) for row, split in told]
    names = [row["label"] for row, _ in told]
    return figure("Queue against inference", stacked(names, [*parts, (REST, rest, "#9ca3af")], "mean latency, ms"))


def server_split(row: Row) -> dict[str, float]:
    scraped = row["server_metrics"]["ms"] if row["server_metrics"] else {}
    return {stage: row["server_ms"][stage] or scraped.get(stage) or 0.0 for stage in STAGES}


def percentiles(reports: Reports) -> str:
    series = [Series(name, points, colour) for name, points, colour in _quantiles(reports)]
    if not series:
        return ""
    y_axis = linear_axis("latency, ms", [y for one in series for _, y in one.points])
    highest = max(x for one in series for x, _ in one.points)
    return figure("Latency by percentile", plot(series, Axis("percentile", 0, max(highest, 50), tail=True), y_axis))


def cumulative(reports: Reports) -> str:
    series = [Series(name, [(y, x) for x, y in points], colour) for name, points, colour in _quantiles(reports)]
    if not series:
        return ""
    x_axis = linear_axis("latency, ms", [x for one in series for x, _ in one.points])
    return figure("Cumulative distribution of the latency", plot(series, x_axis, Axis("% of answers", 0, 100)))


def _quantiles(reports: Reports) -> list[tuple[str, list[tuple[float, float]], str]]:
    """(name, [(percent, ms)...], colour) of all runs that were answered."""
    named = [(f"{name} {row['label']}".strip(), row["quantiles_ms"]) for name, rows in reports for row in rows]
    answered = [(name, points) for name, points in named if points]
    return [(name, [(x, y) for x, y in points], COLOURS[k % len(COLOURS)]) for k, (name, points) in enumerate(answered)]


def markdown(rows: Sequence[Row]) -> str:
    lines = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *([shown(value) for value in figures(row)] for row in rows)]
    pasted = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f'<h2>To paste</h2><p><button class="copy">copy</button></p><pre>{text(pasted)}</pre>'
