"""How near `maskline plan` comes: p99 that it predicts from one load test, and p99 measured at rates it never saw.

    python benchmarks/plan.py --engine fake --json plan.json --plot plan.png
    python benchmarks/plan.py --engine network

The report is of Poisson arrivals at one replica, at four rates from 25 to 80 % of what a closed loop finds it can do.
Then follow Poisson arrivals at three other rates, 35, 50 and 65 % of that, to one replica and, with `fake`, to two,
each request to one of them at random: two independent generators at half the rate are the same. Three windows a rate,
each with its own arrivals. `fake` sleeps 20 ms a batch; `network` is a thin Mask R-CNN of some 15 ms a picture on one
core: two of them and the generator would want three. Needs Linux and Maskline's extras server, cpu and client, and
export for `network`.
Exit status: 0 done, 1 a prediction is off by more than 20 %, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.overhead import network, processes
from benchmarks.reporting import Rows, add_outputs, machine, publish

ROOT = Path(__file__).resolve().parents[1]
CONCURRENCY = 16
FITTED, SHARES = (0.25, 0.42, 0.58, 0.8), (0.35, 0.5, 0.65)
"""Of the throughput at that concurrency: rates of the report, and rates that are predicted."""
REPLICAS = {"fake": (1, 2), "network": (1,)}
SHAPES = ((60, 40), (40, 60), (50, 50))
TOLERANCE = 0.2
OPTIONS = {
    "fake": ["--engine", "fake", "--fake-batch-ms", "20", "--max-batch-size", "4"],
    "network": ["--threads", "1"],
}
NETWORK_MIN_SIZE = 384


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        rows = measured(arguments.engine, arguments.seconds, arguments.windows)
    except processes.ServerError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    publish(arguments, rows, table, plot)
    return 0 if all(abs(error) <= TOLERANCE for _, _, error in _pairs(rows)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--engine", choices=OPTIONS, default="fake", help="what the replicas run (default fake)")
    add("--windows", type=int, default=3, help="how often each load is measured (default 3)")
    add("--seconds", type=float, default=20.0, help="length of a window (default 20)")
    add_outputs(parser)
    return parser


def measured(engine: str, seconds: float, windows: int) -> list[dict[str, Any]]:
    """Two rows a load: measured and predicted. Raises `ServerError`."""
    from clients.planning.plan import Planner
    from clients.planning.service import Server, Service

    print(machine(), flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        if engine == "network":
            network.write_bundle(folder / "bundle", NETWORK_MIN_SIZE)
        pictures = _pictures(engine)
        urls = [stack.enter_context(_replica(engine, index, folder)) for index in range(max(REPLICAS[engine]))]
        report = asyncio.run(_report(urls[0], pictures, seconds))
        planner = Planner(Service.of(report), Server.of(report), "poisson", 1.0)
        print(f"one replica answered {planner.service.highest:.1f} requests/s at most", flush=True)
        for replicas in REPLICAS[engine]:
            for share in SHARES:
                rate = round(share * planner.service.highest * replicas, 1)
                case = f"{engine}, {replicas} replica{'s' * (replicas > 1)}, {rate:g}/s"
                predicted = planner.forecast(rate, replicas)
                found_ms = [
                    asyncio.run(_latencies_ms(urls[:replicas], pictures, rate, seconds, window))
                    for window in range(windows)
                ]
                rows += _rows(case, found_ms, predicted.p99_s * 1e3, predicted.utilisation)
                print(table(rows[-2:]), flush=True)
    return rows


@contextmanager
def _replica(engine: str, index: int, folder: Path) -> Iterator[str]:
    """Its address. With a network it has a core, so that the generator has the other."""
    port = processes.free_port()
    command = [sys.executable, "-m", "server", *OPTIONS[engine], "--port", str(port)]
    if engine == "network":
        command = ["taskset", "--cpu-list", str(index), *command, str(folder / "bundle")]
    url = f"http://127.0.0.1:{port}"
    env = {"PYTHONPATH": str(ROOT), "MASKLINE_LOG_LEVEL": "error"}
    with processes.serving(command, env, f"{url}/health/ready", folder / f"{index}.log"):
        yield url


def _pictures(engine: str) -> list[bytes]:
    """Small ones of three shapes for the fake engine, so that the machine has little to do but wait."""
    from PIL import Image

    if engine == "network":
        return [network.jpeg(seed) for seed in range(4)]
    files = [io.BytesIO() for _ in SHAPES]
    for file, size in zip(files, SHAPES, strict=True):
        Image.new("RGB", size, "gray").save(file, "JPEG")
    return [file.getvalue() for file in files]


async def _report(url: str, pictures: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """What `maskline loadtest --rate ...` would write, as far as a plan reads it."""
    from clients.loadtest.generator import Run, Target
    from clients.loadtest.load import ClosedLoop, OpenLoop
    from clients.loadtest.summary import summarise

    target = Target(url, pictures)
    saturated = Run(target, ClosedLoop(CONCURRENCY, seconds / 3))
    await saturated.execute()
    most = summarise(saturated)["throughput"]
    runs = [Run(target, OpenLoop(share * most, "poisson", seconds)) for share in FITTED]
    for run in runs:
        await run.execute()
    return {"server": runs[-1].scrapes.server(), "runs": [summarise(run) for run in [*runs, saturated]]}


async def _latencies_ms(
    urls: Sequence[str], pictures: Sequence[bytes], rate: float, seconds: float, window: int
) -> list[float]:
    """Of Poisson arrivals that are dealt out at random."""
    from clients.loadtest.generator import Run, Target
    from clients.loadtest.load import OpenLoop

    runs = [
        Run(Target(url, pictures), OpenLoop(rate / len(urls), "poisson", seconds, seed=100 * window + index + 1))
        for index, url in enumerate(urls)
    ]
    await asyncio.gather(*(run.execute() for run in runs))
    return [sample.latency_ms for run in runs for sample in run.samples if sample.ok]


def _rows(
    case: str, found_ms: Sequence[Sequence[float]], predicted_ms: float, utilisation: float
) -> list[dict[str, Any]]:
    """`median` is p99 of all windows together, `low` and `high` that of the lowest and the highest window."""
    windows = sorted(map(_p99, found_ms))
    median = _p99([latency for window in found_ms for latency in window])
    one = {"case": case, "unit": "ms, p99"}
    return [
        {**one, "variant": "measured", "median": median, "low": windows[0], "high": windows[-1], "speedup": 1.0},
        {
            **one,
            "variant": "predicted",
            **dict.fromkeys(("median", "low", "high"), predicted_ms),
            "speedup": median / predicted_ms,
            "utilisation": utilisation,
        },
    ]


def _p99(values: Sequence[float]) -> float:
    from clients.loadtest.mlperf import percentile

    return percentile(sorted(values), 0.99)


def _pairs(rows: Rows) -> list[tuple[Any, Any, float]]:
    """(measured, predicted, how far off that is) of each load."""
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [(found, predicted, predicted["median"] / found["median"] - 1) for found, predicted in pairs]


def table(rows: Rows) -> str:
    """The rows for a person."""
    lines = [f"{'':<28} {'busy':>5} {'measured p99, ms':>17} {'windows':>15} {'predicted':>10} {'off':>6}"]
    for found, predicted, error in _pairs(rows):
        windows = f"{found['low']:.0f} .. {found['high']:.0f}"
        lines.append(
            f"{found['case']:<28} {predicted['utilisation']:>5.0%} {found['median']:>17.1f} {windows:>15} "
            f"{predicted['median']:>10.1f} {error:>+6.0%}"
        )
    return "\n".join(lines)


def plot(path: Path, rows: Rows) -> None:
    """Predicted against measured, with the band of 20 %."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    pairs = _pairs(rows)
    most = 1.15 * max(max(found["high"], predicted["median"]) for found, predicted, _ in pairs)
    axes.fill_between([0, most], [0, most * (1 - TOLERANCE)], [0, most * (1 + TOLERANCE)], alpha=0.15, label="20 %")
    for found, predicted, _ in pairs:
        spread = [[found["median"] - found["low"]], [found["high"] - found["median"]]]
        axes.errorbar(found["median"], predicted["median"], xerr=spread, fmt="o", capsize=3, label=found["case"])
    axes.set(xlabel="p99 measured, ms", ylabel="p99 predicted, ms", xlim=(0, most), ylim=(0, most))
    axes.legend(fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
