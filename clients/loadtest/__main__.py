"""Load a server and write what it did: `report.json` and `report.html`.

    maskline loadtest http://127.0.0.1:8000 pictures/ --concurrency 1,8,32 --duration 30s
    maskline loadtest http://127.0.0.1:8000 pictures/ --rate 20 --arrivals poisson
    maskline loadtest http://127.0.0.1:8000 pictures/ --scenario server --target-latency 200ms
    maskline loadtest compare report-before report-after

A closed loop (--concurrency) finds the highest throughput; an open loop (--rate) shows the latency that users get
at a given traffic, queueing included. Several values make several runs, one after another. The scenarios are MLPerf's.
docs/load-testing.md says how to read the report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.durations import seconds
from clients.errors import MissingExtraError, UnreachableError
from clients.folder import find
from clients.loadtest.adapters import AdapterError, adapter

if TYPE_CHECKING:
    from rich.console import Console

    from clients.loadtest.generator import Run, Target
    from clients.loadtest.load import Load

CONCURRENCY = [1, 8, 32]
SCENARIOS = ("singlestream", "multistream", "server", "offline")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when something was answered, 1 when nothing was, 2 for bad usage, 130 when interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["compare"]:
            from clients.loadtest import compare

            return compare.main(given[1:])
        return _load_test(*_parsed(given))
    except UnreachableError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in ("aiohttp", "rich"):
            raise
        print(MissingExtraError("the load tester", error.name, "client"), file=sys.stderr)
        return 1


def _parsed(given: Sequence[str]) -> tuple[argparse.Namespace, list[bytes]]:
    """The command line, and the pictures that it names. Ends the program where it cannot be meant so."""
    parser = _parser()
    arguments = parser.parse_args(given)
    if clash := _clash(arguments):
        parser.error(clash)
    try:
        pictures = [one.path.read_bytes() for one in find(arguments.images, [arguments.output])]
        arguments.output.mkdir(parents=True, exist_ok=True)  # a minute of load is not lost for want of a folder
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if not pictures:
        parser.error(f"{arguments.images[0]}: no pictures there")
    return arguments, pictures


def _clash(arguments: argparse.Namespace) -> str | None:
    scenario = arguments.scenario
    if arguments.concurrency and scenario not in (None, "offline"):
        return f"--concurrency does not go with --scenario {scenario}"
    if arguments.rate and scenario not in (None, "server"):
        return f"--rate does not go with --scenario {scenario}"
    if scenario and max(len(arguments.concurrency or []), len(arguments.rate or [])) > 1:
        return f"--scenario {scenario} takes one value"
    if arguments.arrivals == "constant" and not (arguments.rate and scenario is None):
        return "--arrivals constant is for an open loop: give its --rate"
    return None


def _load_test(arguments: argparse.Namespace, pictures: list[bytes]) -> int:
    from rich.console import Console

    from clients.loadtest.generator import Target
    from clients.loadtest.report import write_report
    from clients.loadtest.terminal import print_report

    try:
        kind = adapter(arguments.adapter, arguments.url, arguments.api_key)
    except AdapterError as error:
        print(error, file=sys.stderr)
        return 2
    target = Target(arguments.url, pictures, arguments.timeout, arguments.api_key, kind, arguments.metrics)
    console = Console()
    runs: list[Run] = []
    result, interrupted = None, False
    try:
        result = _execute(runs, target, arguments, console)
    except KeyboardInterrupt:
        interrupted = True
    measured = [run for run in runs if run.finished]
    if measured:
        report = write_report(arguments.output, target.url, measured, arguments.scenario, result)
        print_report(console, report)
        console.print(f"report: {arguments.output / 'report.html'}", soft_wrap=True)
    if interrupted:
        return 130
    return 0 if any(sample.ok for run in measured for sample in run.samples) else _explain(measured, target.url)


def _execute(runs: list[Run], target: Target, arguments: argparse.Namespace, console: Console) -> dict[str, Any] | None:
    """Puts every run into `runs` as it begins; returns the result of a scenario."""
    from clients.loadtest import event_loop, scenarios
    from clients.loadtest.first_pass import first_pass
    from clients.loadtest.generator import Run
    from clients.loadtest.terminal import Live

    async def whole(live: Live) -> dict[str, Any] | None:
        answers = await first_pass(target, live.first_pass(len(target.pictures)))

        async def measure(load: Load) -> Run:
            runs.append(Run(target, load, answers.fresh()))
            await live.watch(runs[-1])
            return runs[-1]

        if arguments.scenario is None:
            for load in _loads(arguments):
                await measure(load)
            return None
        rate = arguments.rate[0] if arguments.rate else None
        concurrency = max(arguments.concurrency or CONCURRENCY)
        return await scenarios.execute(
            arguments.scenario, measure, arguments.duration, concurrency, arguments.target_latency * 1e3, rate
        )

    with Live(console) as live:
        return event_loop.run(whole(live))


def _explain(runs: Sequence[Run], url: str) -> int:
    outcomes = sorted({outcome for run in runs for outcome in run.outcomes})
    print(f"{url} answered nothing ({', '.join(outcomes) or 'nothing was sent'})", file=sys.stderr)
    return 1


def _loads(arguments: argparse.Namespace) -> list[Load]:
    from clients.loadtest.load import ClosedLoop, OpenLoop

    if arguments.rate:
        return [OpenLoop(rate, arguments.arrivals, arguments.duration) for rate in arguments.rate]
    return [ClosedLoop(concurrency, arguments.duration) for concurrency in arguments.concurrency or CONCURRENCY]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("url", type=_url, help="the server, such as http://127.0.0.1:8000; with most adapters, the endpoint")
    add("images", nargs="+", type=Path, help="picture files, or folders with all below them; sent as they are")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--concurrency", type=_counts, metavar="N,N", help="closed loop (default 1,8,32)")
    mode.add_argument("--rate", type=_rates, metavar="R,R", help="open loop, requests a second")
    add("--arrivals", choices=("poisson", "constant"), default="poisson", help="of the open loop (default poisson)")
    add("--scenario", choices=SCENARIOS, help="MLPerf's; server looks for the highest rate unless --rate is given")
    add("--target-latency", type=seconds, default=0.2, metavar="TIME", help="p99 of server (default 200ms)")
    add("--duration", type=seconds, default=30.0, metavar="TIME", help="of each run: 30s, 2m (default 30s)")
    add("--timeout", type=seconds, default=60.0, metavar="TIME", help="of each request (default 60s)")
    add("--adapter", default="maskline", metavar="KIND", help="maskline, raw, multipart=FIELD, json=FIELD, v2=MODEL")
    add("--metrics", metavar="URL", help="of the server's Prometheus metrics (default: /metrics of the server)")
    add("--api-key", metavar="KEY", help="sent as a bearer token")
    add("--output", type=Path, default=Path("report"), metavar="DIR", help="folder of the report (default report/)")
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


if __name__ == "__main__":
    sys.exit(main())
