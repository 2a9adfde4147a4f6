"""`report.json` and the one-file `report.html` of a load test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.loadtest import page
from clients.loadtest.generator import Run, Sample
from clients.loadtest.plots import COLOURS, Series, linear_axis, plot
from clients.loadtest.summary import summarise

MAX_DOTS = 1500
BINS = 40
SLICES = 40


def write_report(
    folder: Path, url: str, runs: Sequence[Run], scenario: str | None = None, result: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write both files into `folder` and return what `report.json` holds. `result`: of a scenario."""
    rows = [summarise(run) for run in runs]
    report = {
        "url": url,
        "scenario": scenario,
        "result": result,
        "adapter": runs[0].target.adapter.name,
        "pictures": len(runs[0].target.pictures),
        "server": runs[-1].scrapes.server(),
        "knee": knee(rows),
        "runs": rows,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_page(report, runs), encoding="utf-8")
    return report


def knee(rows: Sequence[dict[str, Any]]) -> int | None:
    """The run beyond which latency grows faster than throughput: the one with the highest ratio of them (Kleinrock's
    power). None for fewer than three runs."""
    powers = {k: row["throughput"] / row["latency_ms"]["p50"] for k, row in enumerate(rows) if row["ok"]}
    return max(powers, key=powers.__getitem__) if len(powers) >= 3 else None


def _page(report: dict[str, Any], runs: Sequence[Run]) -> str:
    rows = report["runs"]
    sections = "".join(
        _run_section(run, row, COLOURS[k % len(COLOURS)]) for k, (run, row) in enumerate(zip(runs, rows, strict=True))
    )
    many = f"{report['pictures']} picture(s), every pass over them in a random order"
    parts = [
        f'<h1>Load test</h1><p class="soft">{page.text(report["url"])}, {many}</p>',
        page.result(report),
        page.runs_table(rows),
        page.notes(rows),
        page.server_table(rows),
        '<h2>All runs</h2><div class="plots">',
        page.saturation([("", rows)], report["knee"]),
        page.stages(rows),
        page.percentiles([("", rows)]),
        page.cumulative([("", rows)]),
        f"</div>{sections}",
        page.markdown(rows),
    ]
    return page.document(f"Load test of {report['url']}", parts)


def _run_section(run: Run, row: dict[str, Any], colour: str) -> str:
    outcomes = ", ".join(f"{count} x {page.text(outcome)}" for outcome, count in row["outcomes"].items())
    plots = _over_time(run, colour) + _histogram(run, colour) + _stages_over_time(run) + _depth(run, colour)
    steady = {True: "steady", False: "not steady", None: "too few answers to tell whether it was steady"}
    facts = f"{outcomes or 'nothing was sent'}; {steady[row['stability']['steady']]}{page.answers(row)}"
    return f'<h2>{page.text(row["label"])}</h2><p class="soft">{facts}</p><div class="plots">{plots}</div>'


def _answered(run: Run) -> list[Sample]:
    return [sample for sample in run.samples if sample.ok]


def _histogram(run: Run, colour: str) -> str:
    values_ms = [sample.latency_ms for sample in _answered(run)]
    if not values_ms:
        return ""
    counts, edges = np.histogram(values_ms, bins=BINS, range=(0, max(values_ms)))
    bars = [(float(x), float(n)) for x, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)]
    x_axis, y_axis = linear_axis("latency, ms", values_ms), linear_axis("requests", [float(max(counts))])
    return page.figure("Histogram of the latency", plot([Series("ms, requests", bars, colour, "bars")], x_axis, y_axis))


def _over_time(run: Run, colour: str) -> str:
    if not run.samples:
        return ""
    answered = _thinned([(s.due_s, s.latency_ms) for s in run.samples if s.ok])
    others = _thinned([(s.due_s, s.latency_ms) for s in run.samples if not s.ok])
    series = [Series("answered", answered, colour, "dots")]
    if others:
        series.append(Series("refused or failed", others, "#111111" if colour == "#dc2626" else "#dc2626", "dots"))
    x_axis = linear_axis("seconds from the start of the window", [s.due_s for s in run.samples])
    y_axis = linear_axis("latency, ms", [y for one in series for _, y in one.points])
    return page.figure("Latency over time", plot(series, x_axis, y_axis))


def _stages_over_time(run: Run) -> str:
    """Means of what the server said of requests that were sent in the same fortieth of the window."""
    told = [sample for sample in _answered(run) if "queue" in sample.server_ms or "inference" in sample.server_ms]
    if not told:
        return ""
    width_s = run.duration_s / SLICES
    series = []
    for name, colour in (("queue", COLOURS[1]), ("inference", COLOURS[2])):
        slices: dict[int, list[float]] = {}
        for sample in told:
            slices.setdefault(int(sample.due_s / width_s), []).append(sample.server_ms.get(name, 0.0))
        points = [((k + 0.5) * width_s, float(np.mean(values))) for k, values in sorted(slices.items())]
        series.append(Series(name, points, colour))
    x_axis = linear_axis("seconds from the start of the window", [run.duration_s])
    y_axis = linear_axis("in the server, ms", [y for one in series for _, y in one.points])
    return page.figure("Queue and inference over time", plot(series, x_axis, y_axis))


def _depth(run: Run, colour: str) -> str:
    points = run.scrapes.depths()
    if len(points) < 2:
        return ""
    x_axis = linear_axis("seconds from the first look at /metrics", [x for x, _ in points])
    y_axis = linear_axis("pictures waiting", [1.0, *(y for _, y in points)])
    return page.figure("Queue depth over time", plot([Series("waiting", points, colour)], x_axis, y_axis))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points[:: len(points) // MAX_DOTS + 1]
