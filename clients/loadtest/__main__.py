"""Load a server and write what it did: `report.json` and `report.html`.

    python -m clients.loadtest http://127.0.0.1:8000 samples/*.png --concurrency 1,8,32 --duration 30s
    python -m clients.loadtest http://127.0.0.1:8000 samples/*.png --rate 20 --arrivals poisson

A closed loop (--concurrency) finds the highest throughput; an open loop (--rate) shows the latency that users get
at a given traffic, queueing included. Several values make several runs, one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.errors import MissingExtraError, UnreachableError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from clients.loadtest.generator import Run
    from clients.loadtest.load import Load

REFRESH_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when something was answered, 1 when nothing was, 2 for bad usage, 130 when interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        pictures = [path.read_bytes() for path in arguments.images]
        arguments.output.mkdir(parents=True, exist_ok=True)  # a minute of load is not lost for want of a folder
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    try:
        return _load_test(arguments, pictures)
    except UnreachableError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "rich"):
            raise
        print(MissingExtraError("the load tester", error.name, "client"), file=sys.stderr)
        return 1


def _load_test(arguments: argparse.Namespace, pictures: list[bytes]) -> int:
    from rich.console import Console

    from clients.loadtest.generator import Run, Target
    from clients.loadtest.report import write_report

    target = Target(arguments.url, pictures, arguments.timeout, arguments.api_key)
    runs = [Run(target, load) for load in _loads(arguments)]
    console = Console()
    interrupted = not _execute(runs, console)
    measured = [run for run in runs if run.finished]
    if measured:
        report = write_report(arguments.output, target.url, measured)
        _print(console, measured, report["runs"])
        console.print(f"report: {arguments.output / 'report.html'}", soft_wrap=True)
    if interrupted:
        return 130
    return 0 if any(sample.ok for run in measured for sample in run.samples) else _explain(measured, target.url)


def _execute(runs: Sequence[Run], console: Console) -> bool:
    """False when interrupted from the keyboard: the runs that were finished are still reported."""

    async def one_after_another() -> None:
        with _progress(console) as progress:
            for run in runs:
                await _watched(run, progress)

    try:
        asyncio.run(one_after_another())
    except KeyboardInterrupt:
        return False
    return True


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[now]}"))
    return Progress(*columns, console=console)


async def _watched(run: Run, progress: Progress) -> None:
    task = progress.add_task(run.load.label, total=run.load.duration_s, now="warming up")

    def show() -> None:
        progress.update(task, completed=min(run.elapsed_s, run.load.duration_s), now=_now(run))

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
    return f"{run.in_flight} in flight; {counts or 'no answer yet'}"


def _print(console: Console, runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    head = ("load", "ok", "refused", "failed", "ok/s", "p50", "p90", "p99", "max", "lag")
    table = Table(title="latency and lag in ms", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for run, row in zip(runs, rows, strict=True):
        figures = [row["throughput"], *(row["latency_ms"][key] for key in ("p50", "p90", "p99", "max"))]
        figures.append(row["generator_lag_ms"]["p99"])
        counts = (str(row[key]) for key in ("ok", "refused", "failed"))
        table.add_row(run.load.label, *counts, *("-" if value is None else f"{value:.1f}" for value in figures))
    console.print(table)


def _explain(runs: Sequence[Run], url: str) -> int:
    outcomes = sorted({outcome for run in runs for outcome in run.outcomes})
    print(f"{url} answered nothing ({', '.join(outcomes) or 'nothing was sent'})", file=sys.stderr)
    return 1


def _loads(arguments: argparse.Namespace) -> list[Load]:
    from clients.loadtest.load import ClosedLoop, OpenLoop

    if arguments.rate:
        return [OpenLoop(rate, arguments.arrivals, arguments.duration) for rate in arguments.rate]
    return [ClosedLoop(concurrency, arguments.duration) for concurrency in arguments.concurrency]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", type=_url, help="the server, such as http://127.0.0.1:8000")
    parser.add_argument("images", nargs="+", type=Path, help="picture files, sent in turn as they are")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--concurrency", type=_counts, default=[1, 8, 32], metavar="N,N", help="closed loop (default 1,8,32)"
    )
    mode.add_argument("--rate", type=_rates, metavar="R,R", help="open loop, requests a second")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson", help="of the open loop")
    parser.add_argument("--duration", type=_seconds, default=30.0, help="of each run: 30s, 2m (default 30s)")
    parser.add_argument("--timeout", type=_seconds, default=60.0, help="of each request (default 60s)")
    parser.add_argument("--api-key", help="sent as a bearer token")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder of the report (default report/)")
    return parser


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text.rstrip("/")


def _counts(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError(text)
    return values


def _rates(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if not all(0 < value < float("inf") for value in values):
        raise ValueError(text)
    return values


def _seconds(text: str) -> float:
    unit = {"s": 1.0, "m": 60.0}.get(text[-1:])
    value = float(text[:-1]) * unit if unit else float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
