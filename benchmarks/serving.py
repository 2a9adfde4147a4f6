"""What serving costs: the same small network behind `maskline serve` and behind what people use instead.

    python benchmarks/serving.py --json serving.json --plot serving.png

A thin Mask R-CNN of about 2 ms a picture, 100 KB JPEGs, at 1, 8, 32 and 64 connections. The figure is requests a second
per busy core of the server: answered requests over the CPU seconds that the server's processes took. Peers (a plain
FastAPI thread pool, LitServe, BentoML) come from MASKLINE_PEER_PYTHON, else from an environment that is made once.
Needs Linux and Maskline's extras export, server, cpu and openvino. Exit status: 0 done, 1 answers differ, 2 it cannot
run here.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.gpu.measuring import Summary
from benchmarks.overhead import load, processes
from benchmarks.overhead.contestants import BASELINE, OURS, Contestant, contestants, disagreement
from benchmarks.overhead.peer_python import PeersError, peer_python
from benchmarks.overhead.plot import write_plot
from benchmarks.reporting import add_outputs, machine, publish

ROOT = Path(__file__).resolve().parents[1]
CONNECTIONS = (1, 8, 32, 64)
PICTURES = 4
FIRST_S, WARM_UP_S = 0.5, 8.0
"""Until there is an answer to compare, and before each turn: what is made for the first time must not fall into it."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
UNIT = "requests/CPU s"


class DifferentAnswersError(Exception):
    """A contestant answers something else than ours."""


@dataclass(frozen=True)
class Sample:
    """One window of one contestant."""

    per_cpu_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    rss_mib: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        rows = _measured(arguments)
    except DifferentAnswersError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    except (PeersError, processes.ServerError, load.LoadError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    publish(arguments, rows, table, write_plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often everyone has a turn at each load (default 5)")
    add("--seconds", type=float, default=2.0, help="length of a turn (default 2)")
    add_outputs(parser)
    return parser


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.overhead import network

    with tempfile.TemporaryDirectory() as folder:
        bundle = network.write_bundle(Path(folder) / "small")
        pictures = [network.jpeg(seed) for seed in range(PICTURES)]
        print(f"{machine()}; pictures of {len(pictures[0]) // 1000} KB", flush=True)
        entered = contestants(bundle, peer_python())
        return rows(_samples(entered, pictures, Path(folder), arguments.rounds, arguments.seconds))


def _samples(
    entered: Sequence[Contestant], pictures: Sequence[bytes], folder: Path, rounds: int, seconds: float
) -> dict[tuple[int, str], list[Sample]]:
    """One server at a time, forwards and backwards by turns: what drifts meets all of them alike."""
    samples: dict[tuple[int, str], list[Sample]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for one in entered if number % 2 == 0 else entered[::-1]:
            with _serving(one, folder) as (server, port):
                requests = [one.request(port, picture) for picture in pictures]
                answers[one.name] = one.detections(_loaded(port, requests[:1], 1, FIRST_S, _nothing).last_answer)
                for connections in CONNECTIONS:
                    sample = _sample(server, port, requests, connections, seconds)
                    samples.setdefault((connections, one.name), []).append(sample)
        _check(answers)
    return samples


@contextmanager
def _serving(one: Contestant, folder: Path) -> Iterator[tuple[processes.Server, int]]:
    port = processes.free_port()
    env = {**ONE_THREAD, "BENCHMARK_BUNDLE": str(folder / "small"), "PYTHONPATH": str(ROOT)}
    ready = f"http://127.0.0.1:{port}{one.ready}"
    with processes.serving(one.command(port), env, ready, folder / "server.log") as server:
        yield server, port


def _check(answers: dict[str, list[dict[str, Any]]]) -> None:
    for name, found in answers.items():
        if difference := disagreement(answers[OURS], found):
            raise DifferentAnswersError(f"{name} answers {difference}.")


def _sample(server: processes.Server, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Sample:
    marks: list[tuple[float, float]] = []
    found = _loaded(port, requests, connections, seconds, lambda: marks.append((time.perf_counter(), server.cpu_s())))
    (started, cpu_before), (ended, cpu_after) = marks
    latencies_ms = sorted(latency * 1e3 for latency in found.latencies_s)
    answered = len(latencies_ms)
    if not answered:
        raise load.LoadError(f"Nothing was answered in {seconds:g} s.")
    return Sample(
        per_cpu_s=answered / (cpu_after - cpu_before),
        per_s=answered / (ended - started),
        p50_ms=latencies_ms[answered // 2],
        p99_ms=latencies_ms[int(answered * 0.99)],
        rss_mib=server.rss_mib(),
    )


def _loaded(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, mark: Callable[[], None]
) -> load.Load:
    url = f"http://127.0.0.1:{port}/predict"
    return asyncio.run(load.run(url, requests, connections, min(WARM_UP_S, 5 * seconds), seconds, mark, mark))


def _nothing() -> None:
    pass


def rows(samples: dict[tuple[int, str], list[Sample]]) -> list[dict[str, Any]]:
    """A row a load and contestant; `speedup` is this median over plain FastAPI's."""
    return [_row(connections, name, taken, samples[connections, BASELINE]) for (connections, name), taken in
            sorted(samples.items(), key=lambda item: item[0][0])]  # fmt: skip


def _row(connections: int, name: str, taken: Sequence[Sample], baseline: Sequence[Sample]) -> dict[str, Any]:
    figure = Summary.of([sample.per_cpu_s for sample in taken])
    other = {
        key: round(Summary.of([getattr(sample, key) for sample in taken]).median, 1)
        for key in ("per_s", "p50_ms", "p99_ms", "rss_mib")
    }
    return {
        "case": f"{connections} connection{'s' * (connections > 1)}",
        "variant": name,
        "median": round(figure.median, 1),
        "low": round(figure.low, 1),
        "high": round(figure.high, 1),
        "unit": UNIT,
        "speedup": round(figure.median / Summary.of([sample.per_cpu_s for sample in baseline]).median, 2),
        **other,
    }


def table(measured: Sequence[dict[str, Any]]) -> str:
    """The rows for a person."""
    lines = [
        f"{'':<15} {'':<20} {UNIT:>14} {'10 % .. 90 %':>15} {'ratio':>6} {'/s':>6} {'p50':>6} {'p99':>6} {'MiB':>5}"
    ]
    for row in measured:
        spread = f"{row['low']:.0f} .. {row['high']:.0f}"
        lines.append(
            f"{row['case']:<15} {row['variant']:<20} {row['median']:>14.0f} {spread:>15} {row['speedup']:>6.2f} "
            f"{row['per_s']:>6.0f} {row['p50_ms']:>6.1f} {row['p99_ms']:>6.1f} {row['rss_mib']:>5.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
