"""`report.json` and the one-file `report.html`."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.loadtest.generator import Run, Sample
from clients.loadtest.plots import COLOURS, Axis, Series, linear_axis, plot
from clients.loadtest.summary import SERVER_STAGES, summarise

MAX_DOTS = 1500
BINS = 40

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #fff; --soft: #6b7280; --rule: #e5e7eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --soft: #9ca3af; --rule: #374151; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin: .6rem 0 .2rem; }
.legend { font-size: 13px; color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); } .grid { stroke: var(--rule); }
"""


def write_report(folder: Path, url: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Write both files into `folder` and return what `report.json` holds."""
    rows = [summarise(run.load, run.samples) for run in runs]
    report = {"url": url, "scenario": None, "runs": rows}
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_page(url, runs, rows), encoding="utf-8")
    return report


def _page(url: str, runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Load test of {html.escape(url)}</title><style>{_STYLE}</style></head><body>
<h1>Load test</h1><p class="soft">{html.escape(url)}, {len(runs[0].target.pictures)} picture(s) sent in turn</p>
{_table(runs, rows)}
<p class="soft">Latency in milliseconds, from the intended send time to the whole answer, of answered requests.
Throughput counts the answers that came inside the window. Lag is how late the generator itself sent.</p>
{_server_table(runs, rows)}
<h2>All runs</h2><div class="plots">{_percentile_plot(runs)}{_saturation_plot(rows)}</div>
{"".join(_run_section(run, COLOURS[k % len(COLOURS)]) for k, run in enumerate(runs))}
</body></html>
"""


def _table(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
    head = ["load", "s", "sent", "ok", "refused", "failed", "ok/s"]
    head += ["mean", "p50", "p90", "p95", "p99", "max", "lag p50", "lag p99"]
    counts = ("duration_s", "sent", "ok", "refused", "failed", "throughput")
    body = [
        [run.load.label, *(row[key] for key in counts), *row["latency_ms"].values(), *row["generator_lag_ms"].values()]
        for run, row in zip(runs, rows, strict=True)
    ]
    return _html_table(head, body)


def _server_table(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
    if all(value is None for row in rows for value in row["server_ms"].values()):
        return '<p class="soft">The server sent no Server-Timing.</p>'
    body = [[run.load.label, *row["server_ms"].values()] for run, row in zip(runs, rows, strict=True)]
    return f"<h2>Where the server spent it (mean ms)</h2>{_html_table(['load', *SERVER_STAGES], body)}"


def _html_table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{text}</th>" for text in head)
    rows = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return "-" if value is None else html.escape(str(value))


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"


def _answered(run: Run) -> list[Sample]:
    return [sample for sample in run.samples if sample.ok]


def _percentile_plot(runs: Sequence[Run]) -> str:
    series = [_percentile_series(run, COLOURS[k % len(COLOURS)]) for k, run in enumerate(runs)]
    series = [one for one in series if one.points]
    if not series:
        return "<p>No request was answered.</p>"
    y_axis = linear_axis("latency, ms", [y for one in series for _, y in one.points])
    highest = max(x for one in series for x, _ in one.points)
    return _figure("Latency by percentile", plot(series, Axis("percentile", 0, highest, tail=True), y_axis))


def _percentile_series(run: Run, colour: str) -> Series:
    values_ms = [sample.latency_ms for sample in _answered(run)]
    if not values_ms:
        return Series(run.load.label, [], colour)
    # No further into the tail than the sample reaches: 100 answers say nothing of p99.9.
    last = -np.log10(1 / (len(values_ms) + 1))
    ranks = 100 * (1 - 10 ** -np.linspace(0, last, 80))
    return Series(run.load.label, list(zip(ranks, np.percentile(values_ms, ranks), strict=True)), colour)


def _saturation_plot(rows: Sequence[dict[str, Any]]) -> str:
    answered = [row for row in rows if row["ok"]]
    if len(answered) < 2:
        return ""
    lines = [
        Series(rank, [(row["throughput"], row["latency_ms"][rank]) for row in answered], colour)
        for rank, colour in zip(("p50", "p99"), COLOURS, strict=False)
    ]
    x_axis = linear_axis("answers a second", [row["throughput"] for row in answered])
    y_axis = linear_axis("latency, ms", [row["latency_ms"]["p99"] for row in answered])
    return _figure("Latency against throughput", plot(lines, x_axis, y_axis))


def _run_section(run: Run, colour: str) -> str:
    outcomes = ", ".join(f"{count} x {html.escape(outcome)}" for outcome, count in sorted(run.outcomes.items()))
    plots = _histogram(run, colour) + _over_time(run, colour)
    return f'<h2>{html.escape(run.load.label)}</h2><p class="soft">{outcomes}</p><div class="plots">{plots}</div>'


def _histogram(run: Run, colour: str) -> str:
    values_ms = [sample.latency_ms for sample in _answered(run)]
    if not values_ms:
        return ""
    counts, edges = np.histogram(values_ms, bins=BINS, range=(0, max(values_ms)))
    bars = [(float(x), float(n)) for x, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)]
    x_axis, y_axis = linear_axis("latency, ms", values_ms), linear_axis("requests", [float(max(counts))])
    return _figure("Histogram", plot([Series(run.load.label, bars, colour, "bars")], x_axis, y_axis))


def _over_time(run: Run, colour: str) -> str:
    if not run.samples:
        return ""
    answered = _thinned([(s.intended_s, s.latency_ms) for s in run.samples if s.ok])
    others = _thinned([(s.intended_s, s.latency_ms) for s in run.samples if not s.ok])
    series = [Series("answered", answered, colour, "dots")]
    if others:
        series.append(Series("refused or failed", others, "#111111" if colour == "#dc2626" else "#dc2626", "dots"))
    x_axis = linear_axis("intended send time, s", [s.intended_s for s in run.samples])
    y_axis = linear_axis("latency, ms", [y for one in series for _, y in one.points])
    return _figure("Latency over time", plot(series, x_axis, y_axis))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points[:: len(points) // MAX_DOTS + 1]
