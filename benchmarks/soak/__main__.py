"""Leave a server alone with its users: mixed load with reloads, overload, and a stop, for as long as you like.

    python -m benchmarks.soak --minutes 30 --output soak/

Runs `maskline serve` with the fake engine, whose answers are known beforehand, so that each answer is checked: 2 % of
the requests are bad pictures, 2 % leave early, and the model is loaded again ten times in the middle. Then five times
the capacity for up to a minute, and SIGTERM under load. Writes `soak.json` and `soak.png`. Needs Linux and the extras
client, server and export. Exit status: 0 all holds, 1 something does not (it is printed), 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.overhead import processes
from benchmarks.soak import phases
from benchmarks.soak.cases import ADMIN_KEY, bad_cases, good_cases, write_bundle

PICTURES = 300
RELOADS = 10
BATCH_MS = 50
"""Eight pictures in each: slow enough that the load generator can send five times that."""
WAIT_S = 2
"""Longest wait in the queue before the server refuses."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        found = _soak(arguments.minutes * 60, arguments.output)
    except processes.ServerError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    (arguments.output / "soak.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    from benchmarks.soak.plot import write_plot

    write_plot(arguments.output / "soak.png", found)
    complaints = list(check(found))
    for name, phase in found.items():
        print(f"{name}: {json.dumps({key: value for key, value in phase.items() if key != 'rss_mib'})}")
    print("\n".join(complaints) or f"All holds. {arguments.output / 'soak.json'}")
    return 1 if complaints else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of mixed load (default 30)")
    parser.add_argument("--output", type=Path, default=Path("soak"), help="folder of the report (default soak/)")
    return parser


def _soak(seconds: float, output: Path) -> dict[str, dict[str, Any]]:
    good = good_cases(PICTURES)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "fake")
        port = processes.free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "server", str(bundle), "--engine", "fake", "--port", str(port)]
        command += ["--fake-batch-ms", str(BATCH_MS), "--max-queue-wait-s", str(WAIT_S), "--admin-key", ADMIN_KEY]
        with processes.serving(command, {}, f"{url}/health/ready", output / "server.log") as server:
            soaked = phases.Soaked(server, url, good, bad_cases(good))
            return asyncio.run(_phases(soaked, seconds))


async def _phases(soaked: phases.Soaked, seconds: float) -> dict[str, dict[str, Any]]:
    return {
        "mixed": await phases.mixed(soaked, seconds, RELOADS),
        "overload": await phases.overload(soaked, min(60, seconds / 3)),
        "terminate": await phases.terminate(soaked),
    }


def check(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What does not hold, a sentence each."""
    mixed, overload, stop = found["mixed"], found["overload"], found["terminate"]
    if mixed["unexpected_count"]:
        yield f"{mixed['unexpected_count']} requests were not answered as they should be: {mixed['unexpected']}"
    if mixed["reloads"] != RELOADS:
        yield f"Only {mixed['reloads']} of {RELOADS} reloads worked."
    for name in ("mixed", "overload"):
        if (found[name]["rss_growth"] or 0) > 0.02:
            yield f"Memory grew by {found[name]['rss_growth']:.1%} under {name} load; 2 % are allowed."
    if overload["goodput_of_peak"] < 0.9:
        yield f"Goodput under overload was {overload['goodput_of_peak']:.0%} of the peak; 90 % are wanted."
    if overload["failed"]:
        yield f"{overload['failed']} requests under overload were neither answered nor refused."
    if not overload["refused"] or overload["refusal_p50_ms"] > 50:
        yield f"{overload['refused']} refusals took {overload['refusal_p50_ms']} ms at the median; 50 are allowed."
    if overload["after_p50_ms"] > 1.5 * overload["calm_p50_ms"]:
        yield f"Latency: {overload['after_p50_ms']:.0f} ms after the overload, {overload['calm_p50_ms']:.0f} ms before."
    if stop["unanswered"] or not stop["owed"] or stop["status"] != 0:
        yield f"SIGTERM: {stop}"


if __name__ == "__main__":
    sys.exit(main())
