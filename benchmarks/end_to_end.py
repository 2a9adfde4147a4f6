"""Photographs over HTTP: `maskline serve` beside the endpoint that one would write, FastAPI and torchvision's model.

    python benchmarks/end_to_end.py --pictures photos/ --json end_to_end.json --plot end_to_end.png
    python benchmarks/end_to_end.py --weights maskrcnn.pth

Mask R-CNN R50-FPN at 800 x 1333 with the same weights for all, and all cores for everyone: picture files in, boxes and
RLE masks out. Requests a second, p50 and p99, in a closed loop; then each server beside its engine called in a loop.
Weights are random ones that find 100 objects, unless --weights names torchvision's. The peer comes from the interpreter
that MASKLINE_PEER_PYTHON names, else from an environment that is made once. Needs Linux and Maskline's extras export,
server, cpu and openvino. Exit status: 0 done, 1 answers differ, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.gpu.measuring import Summary
from benchmarks.model import BuildError, DifferentAnswersError, ask, build_bundles, make_weights, worker_processes
from benchmarks.overhead import load, processes
from benchmarks.overhead.peer_python import PeersError, peer_python
from benchmarks.reporting import add_outputs, machine, publish
from benchmarks.whole_service import pictures as files
from benchmarks.whole_service.contestants import (
    BASELINE,
    ENGINES,
    LEAST_AGREEMENT,
    Contestant,
    agreeing,
    contestants,
)

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).resolve().parent / "whole_service"
CONNECTIONS = (1, 4)
SATURATED = CONNECTIONS[-1]
PICTURES = 8
CHECKED = 3
"""Pictures whose answers are compared; they also warm the server up."""


@dataclass(frozen=True)
class Turn:
    """One contestant at one load."""

    per_s: float
    latencies_s: list[float]
    rss_mib: float


Turns = dict[tuple[int, str], list[Turn]]
"""By connections and contestant."""

Loops = dict[str, list[float]]
"""Pictures a second of an engine in a loop, by contestant."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        measured = _measured(arguments)
    except DifferentAnswersError as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return 1
    except (PeersError, BuildError, processes.ServerError, load.LoadError, OSError) as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return 2
    publish(arguments, measured, table, write_plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pictures", type=Path, metavar="FOLDER", help="JPEGs and PNGs, of which eight take part (default: generated)")
    add("--weights", type=Path, metavar="FILE", help="torchvision's maskrcnn_resnet50_fpn, 91 classes, with BatchNorm")
    add("--rounds", type=int, default=3, help="how often everyone has a turn at each load (default 3)")
    add("--seconds", type=float, default=15.0, help="least length of a turn; every picture at least once (default 15)")
    add_outputs(parser)
    return parser


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    peer = peer_python(FOLDER / "requirements.txt")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = files.chosen(arguments.pictures, PICTURES, folder / "made")
        weights, bundles = _models(peer, arguments.weights, chosen, folder)
        print(f"{machine()}; {len(chosen)} pictures", flush=True)
        loops = {
            name: [sys.executable, str(FOLDER / "engine_loop.py"), engine, str(bundles[precision]), *map(str, chosen)]
            for name, (engine, precision) in ENGINES.items()
        }
        with worker_processes(loops) as engines:
            run = _Run(contestants(weights, bundles, peer), engines, chosen, arguments.seconds, folder)
            return rows(*run.rounds(arguments.rounds))


def _models(peer: str, weights: Path | None, chosen: Sequence[Path], folder: Path) -> tuple[Path, dict[str, Path]]:
    """The weights, and bundles of them by precision."""
    if weights is None:
        weights = folder / "weights.pth"
        make_weights(peer, weights, [files.at_network_size(path) for path in chosen])
    calibration = folder / "calibration"
    calibration.mkdir()
    for path in chosen:
        shutil.copy(path, calibration)
    return weights.resolve(), build_bundles(weights.resolve(), folder, calibration)


@dataclass(frozen=True)
class _Run:
    entered: Sequence[Contestant]
    engines: Mapping[str, subprocess.Popen[str]]
    pictures: Sequence[Path]
    seconds: float
    folder: Path

    def rounds(self, count: int) -> tuple[Turns, Loops]:
        """One server at a time, forwards and backwards by turns, and beside each its engine in a loop."""
        turns: Turns = {}
        loops: Loops = {}
        for number in range(count):
            answers: dict[str, list[Any]] = {}
            for one in self.entered if number % 2 == 0 else self.entered[::-1]:
                with self._serving(one) as (server, port):
                    requests = [one.request(port, path.read_bytes()) for path in self.pictures]
                    answers[one.name] = [_answer(one, port, request) for request in requests[:CHECKED]]
                    for connections in CONNECTIONS:
                        turn = _turn(server, port, requests, connections, self.seconds)
                        turns.setdefault((connections, one.name), []).append(turn)
                if one.name in self.engines:
                    answer = ask(one.name, self.engines[one.name], str(self.seconds))
                    loops.setdefault(one.name, []).append(answer["per_s"])
            check(answers)
            print(f"Round {number + 1} of {count} is over.", flush=True)
        return turns, loops

    @contextmanager
    def _serving(self, one: Contestant) -> Iterator[tuple[processes.Server, int]]:
        port = processes.free_port()
        ready, env = f"http://127.0.0.1:{port}{one.ready}", {"PYTHONPATH": str(ROOT)}
        with processes.serving(one.command(port), env, ready, self.folder / "server.log") as server:
            yield server, port


def _answer(one: Contestant, port: int, request: bytes) -> list[dict[str, Any]]:
    return one.detections(asyncio.run(load.run_all(_url(port), iter([request]), 1)).last_answer)


def _turn(server: processes.Server, port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Turn:
    """Every picture as often as any other: the last pass begins before the time is over."""
    started = time.perf_counter()
    found = asyncio.run(load.run_all(_url(port), _passes(requests, started + seconds), connections))
    took = time.perf_counter() - started
    return Turn(len(found.latencies_s) / took, found.latencies_s, server.rss_mib())


def _passes(requests: Sequence[bytes], until: float) -> Iterator[bytes]:
    yield from requests
    while time.perf_counter() < until:
        yield from requests


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/predict"


def check(answers: Mapping[str, Sequence[Any]]) -> None:
    """The answers of fp32 are the baseline's, those of int8 are some. Raises `DifferentAnswersError`."""
    for name, (_, precision) in ENGINES.items():
        part = agreeing(answers[BASELINE], answers[name])
        if precision == "fp32" and part < LEAST_AGREEMENT:
            raise DifferentAnswersError(f"{name} and {BASELINE} agree on {part:.0%} of the detections only.")
        if any(answers[BASELINE]) and not any(answers[name]):
            raise DifferentAnswersError(f"{name} finds nothing.")


def rows(turns: Turns, loops: Loops) -> list[dict[str, Any]]:
    """A row a load and contestant, and two for each engine: in a loop, and behind its server at saturation."""
    measured = []
    for (connections, name), taken in sorted(turns.items(), key=lambda item: item[0][0]):
        case, baseline = f"{connections} connection{'s' * (connections > 1)}", turns[connections, BASELINE]
        measured.append(_row(case, name, _rates(taken), _rates(baseline)) | _latencies(taken))
    for name, rates in loops.items():
        measured.append(_row(f"{name}, saturated", "engine in a loop", rates, rates))
        measured.append(_row(f"{name}, saturated", "maskline serve", _rates(turns[SATURATED, name]), rates))
    return measured


def _rates(turns: Sequence[Turn]) -> list[float]:
    return [turn.per_s for turn in turns]


def _row(case: str, variant: str, rates: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """`speedup` is this median over the baseline's."""
    summary = Summary.of(rates)
    return {
        "case": case,
        "variant": variant,
        "median": round(summary.median, 3),
        "low": round(summary.low, 3),
        "high": round(summary.high, 3),
        "unit": "requests/s",
        "speedup": round(summary.median / Summary.of(baseline).median, 3),
    }


def _latencies(turns: Sequence[Turn]) -> dict[str, Any]:
    """Of all turns together; below 100 requests, p99 is the slowest."""
    ordered = sorted(latency for turn in turns for latency in turn.latencies_s)
    return {
        "requests": len(ordered),
        "p50_ms": round(ordered[len(ordered) // 2] * 1e3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3),
        "rss_mib": round(max(turn.rss_mib for turn in turns)),
    }


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    lines = [
        f"{'':<28} {'':<22} {'requests/s':>10} {'10 % .. 90 %':>16} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} {'MiB':>6}"
    ]
    for row in measured:
        spread = f"{row['low']:.3f} .. {row['high']:.3f}"
        rest = f"{row['p50_ms']:>7} {row['p99_ms']:>7} {row['rss_mib']:>6}" if "p50_ms" in row else ""
        lines.append(
            f"{row['case']:<28} {row['variant']:<22} {row['median']:>10.3f} {spread:>16} {row['speedup']:>6.2f} {rest}"
        )
    return "\n".join(lines)


def write_plot(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Requests a second, with their spread, and p99, as bars."""
    from matplotlib.figure import Figure

    own = [row for row in measured if "p99_ms" in row]
    labels = [f"{row['variant']}, {row['case']}" for row in own]
    figure = Figure(figsize=(10, 4), layout="constrained")
    rate, latency = figure.subplots(1, 2, sharey=True)
    spread = [[row["median"] - row["low"] for row in own], [row["high"] - row["median"] for row in own]]
    rate.barh(labels, [row["median"] for row in own], xerr=spread)
    rate.invert_yaxis()
    rate.set_title("requests a second")
    latency.barh(labels, [row["p99_ms"] for row in own])
    latency.set_title("p99, ms")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
