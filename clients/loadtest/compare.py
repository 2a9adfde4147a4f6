"""Two reports side by side: `maskline loadtest compare A B`, folders with a report.json or such files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.loadtest import page

if TYPE_CHECKING:
    from rich.table import Table

FIGURES = (("ok/s", "throughput", None), ("p50", "latency_ms", "p50"), ("p99", "latency_ms", "p99"))
HEAD = ["load", *(text for name, _, _ in FIGURES for text in (f"{name} A", "B", "B/A"))]

Report = dict[str, Any]


class NotAReportError(Exception):
    """The message is for the person at the command line."""


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 for what is not a report."""
    arguments = _parser().parse_args(argv)
    try:
        a, b = (read(path) for path in (arguments.a, arguments.b))
    except NotAReportError as error:
        print(error, file=sys.stderr)
        return 2
    rows = compared(a, b)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(_page(a, b, rows, arguments), encoding="utf-8")
    from rich.console import Console

    console = Console()
    console.print(_table(rows))
    console.print(f"comparison: {arguments.output}", soft_wrap=True)
    return 0


def read(path: Path) -> Report:
    """Raises `NotAReportError`."""
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(report, dict) and all("quantiles_ms" in row for row in report["runs"]):
            return report
    except OSError as error:
        raise NotAReportError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise NotAReportError(f"{file} is no report of a load test")


def compared(a: Report, b: Report) -> list[list[Any]]:
    """A line for each load, in the order of HEAD; empty on the side that did not have it."""
    labels = dict.fromkeys(row["label"] for report in (a, b) for row in report["runs"])
    sides = [{row["label"]: row for row in report["runs"]} for report in (a, b)]
    return [[label, *_figures(*(side.get(label) for side in sides))] for label in labels]


def _figures(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> list[Any]:
    found: list[Any] = []
    for _, key, rank in FIGURES:
        before, after = (None if row is None else row[key] if rank is None else row[key][rank] for row in (a, b))
        found += [before, after, f"{after / before:.2f}x" if before and after is not None else None]
    return found


def _page(a: Report, b: Report, rows: list[list[Any]], arguments: argparse.Namespace) -> str:
    reports = [("A", a["runs"]), ("B", b["runs"])]
    parts = [
        "<h1>Two load tests</h1>",
        *(
            f"<p>{name}: {page.text(path)}, {page.text(report['url'])}</p>{page.result(report)}"
            for name, path, report in (("A", arguments.a, a), ("B", arguments.b, b))
        ),
        page.table(HEAD, rows),
        *(page.notes(_named(name, runs)) for name, runs in reports),
        '<div class="plots">',
        page.saturation(reports),
        page.percentiles(reports),
        page.cumulative(reports),
        *(page.stages(_named(name, runs)) for name, runs in reports),
        "</div>",
    ]
    return page.document("Two load tests", parts)


def _named(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "label": f"{name} {row['label']}"} for row in rows]


def _table(rows: Sequence[Sequence[Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="latency in ms", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(page.shown, row))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtest compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="a report folder, or its report.json")
    parser.add_argument("b", type=Path, metavar="B", help="another")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="default comparison.html")
    return parser
