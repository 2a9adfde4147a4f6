"""The figures of benchmarks/serving.py as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Requests per busy core, with their spread, and latency, over the number of connections."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    per_core, latency = figure.subplots(1, 2)
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        places = range(len(own))
        median = [row["median"] for row in own]
        spread = ([row["median"] - row["low"] for row in own], [row["high"] - row["median"] for row in own])
        per_core.errorbar(places, median, spread, label=name, marker="o", capsize=3)
        latency.plot(places, [row["p99_ms"] for row in own], label=name, marker="o")
    for axes, title in ((per_core, "requests a second per busy core"), (latency, "p99 latency, ms")):
        axes.set_title(title)
        axes.set_xticks(range(len(own)), [row["case"].split()[0] for row in own])
        axes.set_xlabel("connections")
        axes.set_ylim(bottom=0)
    per_core.legend()
    figure.savefig(path)
