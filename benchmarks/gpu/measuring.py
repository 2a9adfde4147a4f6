"""Times of variants, in turns, and the rows that come out of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

Run = Callable[[int], object]
"""Does the work once, on the input set of this number."""

Timer = Callable[[Callable[[], object]], float]
"""Microseconds that something took."""

WARM_UPS = 3


@dataclass(frozen=True)
class Summary:
    """Microseconds: the median, and the tenth and the ninetieth percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Summary:
        if len(times) < 2:
            return cls(times[0], times[0], times[0])
        tenths = statistics.quantiles(times, n=10, method="inclusive")
        return cls(statistics.median(times), tenths[0], tenths[-1])


def measure(variants: Mapping[str, Run], sets: int, repetitions: int, timer: Timer) -> dict[str, Summary]:
    """Every variant on every input set, in turns: what drifts (clocks, other work) meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(sets):
        bound = {name: partial(run, number) for name, run in variants.items()}
        for run in bound.values():
            for _ in range(WARM_UPS):
                run()
        for repetition in range(repetitions):
            for name in _rotated(list(bound), repetition):
                times[name].append(timer(bound[name]))
    return {name: Summary.of(taken) for name, taken in times.items()}


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def rows(
    case: str, summaries: Mapping[str, Summary], baseline: str, moved_bytes: Mapping[str, int], copy_gb_s: float
) -> list[dict[str, Any]]:
    """A row a variant. `speedup`: the baseline's median over this one's.

    `bandwidth_fraction`, of variants in `moved_bytes`: bytes that have to be moved, over the time, as a fraction of
    what a plain copy moves on the same device.
    """
    return [
        {
            "case": case,
            "variant": name,
            "median": round(summary.median, 2),
            "low": round(summary.low, 2),
            "high": round(summary.high, 2),
            "unit": "us",
            "speedup": round(summaries[baseline].median / summary.median, 2),
        }
        | _bandwidth(moved_bytes.get(name), summary.median, copy_gb_s)
        for name, summary in summaries.items()
    ]


def _bandwidth(moved: int | None, microseconds: float, copy_gb_s: float) -> dict[str, float]:
    if moved is None:
        return {}
    return {"bandwidth_fraction": round(moved / (microseconds * 1e3) / copy_gb_s, 3)}


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    lines = [f"{'case':<44} {'variant':<32} {'median':>10} {'10 % .. 90 %':>20} {'ratio':>6} {'of copy':>7}"]
    for row in measured:
        spread = f"{row['low']:.1f} .. {row['high']:.1f}"
        fraction = f"{row['bandwidth_fraction']:.0%}" if "bandwidth_fraction" in row else ""
        lines.append(
            f"{row['case']:<44} {row['variant']:<32} {row['median']:>7.1f} {row['unit']} {spread:>20} "
            f"{row['speedup']:>6.2f} {fraction:>7}"
        )
    return "\n".join(lines)


def write_report(path: Path, machine: str, measured: Sequence[Mapping[str, Any]]) -> None:
    """`{machine, date, rows}`, as all benchmarks write it."""
    report = {"machine": machine, "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": list(measured)}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
