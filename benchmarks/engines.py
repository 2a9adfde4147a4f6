"""What a second engine brings: pictures a second of one queue before one engine, and before two.

    python benchmarks/engines.py --json engines.json --plot engines.png

Engines that sleep (20 ms a batch and 10 ms a picture, batches of 4), so that the figure is that of the scheduling, on
any machine: two that are alike, and two of which one is three times slower. 16 callers for each engine ask again as
soon as they are answered. `predicted` is the wait that admission predicts, over the wait that came. Needs Maskline's
extra server.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.gpu.measuring import Summary
from benchmarks.reporting import Rows, add_outputs, bars, publish
from server.contract.wire import PredictOptions
from server.engines.fake import FakeEngine
from server.models import Model, Models
from server.settings import Settings

BATCH = 4
BATCH_S, PICTURE_S = 0.02, 0.01
CASES = {
    "alike": {"one": (1.0,), "two": (1.0, 1.0)},
    "one three times slower": {"fast": (1.0,), "slow": (3.0,), "both": (1.0, 3.0)},
}
"""How many times as long each engine takes; the first variant is the baseline."""
CALLERS = 4 * BATCH
"""For each engine."""
WARM_UP_S = 0.5


@dataclass(frozen=True)
class Sample:
    """One window of one variant."""

    per_s: float
    predicted: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    rows = [row for case in CASES for row in _rows(case, arguments.rounds, arguments.seconds)]
    publish(arguments, rows, table, partial(bars, title="pictures/s"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often every variant has a turn (default 5)")
    add("--seconds", type=float, default=2.0, help="length of a turn (default 2)")
    add_outputs(parser)
    return parser


def _rows(case: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """`speedup`: this median over the baseline's."""
    samples: dict[str, list[Sample]] = {name: [] for name in CASES[case]}
    for _ in range(rounds):
        for name, slowness in CASES[case].items():
            samples[name].append(asyncio.run(_sample(slowness, seconds)))
    summaries = {name: Summary.of([sample.per_s for sample in taken]) for name, taken in samples.items()}
    baseline = next(iter(summaries.values()))
    return [
        {
            "case": case,
            "variant": name,
            "median": round(found.median, 1),
            "low": round(found.low, 1),
            "high": round(found.high, 1),
            "unit": "pictures/s",
            "speedup": round(found.median / baseline.median, 2),
            "predicted": round(Summary.of([sample.predicted for sample in samples[name]]).median, 2),
        }
        for name, found in summaries.items()
    ]


async def _sample(slowness: Sequence[float], seconds: float) -> Sample:
    engines = [FakeEngine(seconds_per_batch=BATCH_S * each, seconds_per_image=PICTURE_S * each) for each in slowness]
    left = iter(engines)
    settings = Settings(engine="fake", engines=len(engines), max_batch_size=BATCH, max_queue_wait_s=60)
    models = Models.of(settings, [lambda: next(left)])
    await models.start()
    try:
        (model,) = models
        return await _loaded(model, seconds)
    finally:
        await models.close()


async def _loaded(model: Model, seconds: float) -> Sample:
    """Of the answers that come after the warm-up."""
    begin = time.monotonic() + WARM_UP_S
    end = begin + seconds
    waits: list[tuple[float, float]] = []
    picture = _png()

    async def call() -> None:
        while time.monotonic() < end:
            predicted_s = model.serving.batcher.predicted_wait_s()
            answer = await model.serving.predict([picture], PredictOptions())
            if begin <= time.monotonic() < end:
                waits.append((predicted_s, answer.timings_ms.queue / 1e3))

    await asyncio.gather(*(call() for _ in range(CALLERS * len(model.engines))))
    predicted_s, waited_s = (sum(column) for column in zip(*waits, strict=True))
    return Sample(len(waits) / seconds, predicted_s / waited_s)


def _png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (160, 128), (200, 30, 10)).save(file, "PNG")
    return file.getvalue()


def table(measured: Rows) -> str:
    """The rows for a person."""
    lines = [f"{'':<24} {'':<6} {'pictures/s':>10} {'10 % .. 90 %':>16} {'ratio':>6} {'predicted':>9}"]
    for row in measured:
        spread = f"{row['low']:.1f} .. {row['high']:.1f}"
        lines.append(
            f"{row['case']:<24} {row['variant']:<6} {row['median']:>10.1f} {spread:>16} {row['speedup']:>6.2f} "
            f"{row['predicted']:>9.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
