"""What the person at the terminal sees: a line for each run while it goes on, and a table at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from clients.loadtest.generator import Run
from clients.loadtest.mlperf import percentile
from clients.loadtest.page import note_lines, result_sentence, shown

REFRESH_S = 0.25
RECENT = 500
"""Answers of which the line shows percentiles."""


class Live:
    """Draws between requests, 0.3 ms at a time: rich's own thread would hold requests up for longer."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description:<16}"), BarColumn(bar_width=12), TextColumn("{task.fields[now]}")
        self._progress = Progress(*columns, console=console, auto_refresh=False)

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def first_pass(self, pictures: int) -> Callable[[], None]:
        """A line for it; to be called after each picture."""
        task = self._progress.add_task("first pass", total=pictures, now=f"{pictures} picture(s), each alone")
        self._progress.refresh()
        return lambda: self._progress.update(task, advance=1, refresh=True)

    async def watch(self, run: Run) -> None:
        """Executes the run."""
        task = self._progress.add_task(run.load.label, total=run.load.duration_s, now="warming up")

        def show() -> None:
            done_s = min(max(0.0, run.elapsed_s), run.load.duration_s)
            self._progress.update(task, completed=done_s, now=_now(run), refresh=True)

        async def refresh() -> None:
            while True:
                await asyncio.sleep(REFRESH_S)
                show()

        display = asyncio.create_task(refresh())
        try:
            await run.execute()
        finally:
            display.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await display
            show()


def _now(run: Run) -> str:
    counts = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(run.outcomes.items()))
    recent_ms = sorted(sample.latency_ms for sample in run.samples[-RECENT:] if sample.ok)
    parts = ["given up"] if run.given_up else []
    parts += [f"{max(run.elapsed_s, 0):.0f} s", f"{run.in_flight} in flight", counts or "no answer yet"]
    if recent_ms:
        parts.append(f"p50 {percentile(recent_ms, 0.5):.0f} p99 {percentile(recent_ms, 0.99):.0f} ms")
    return ", ".join(parts)


def print_report(console: Console, report: dict[str, Any]) -> None:
    head = ("load", "ok", "refused", "failed", "ok/s", "p50", "p90", "p99", "max", "lag")
    table = Table(title="latency and lag (p99) in ms", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for row in report["runs"]:
        figures = [row["throughput"], *(row["latency_ms"][key] for key in ("p50", "p90", "p99", "max"))]
        counts = [row[key] for key in ("ok", "refused", "failed")]
        table.add_row(row["label"], *map(shown, [*counts, *figures, row["generator_lag_ms"]["p99"]]))
    console.print(table)
    for line in _sentences(report["runs"], report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sentences(rows: Sequence[dict[str, Any]], report: dict[str, Any]) -> list[str]:
    lines = note_lines(rows)
    if found := report["result"]:
        lines.append(f"{report['scenario']}: {result_sentence(found)}{': ' + found['why'] if found['why'] else ''}")
    return lines
