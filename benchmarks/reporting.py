"""What the scripts do with their figures: print them, and write them and draw them where that is asked for."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.measuring import write_report

Rows = Sequence[Mapping[str, Any]]


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options that `publish` looks at."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there")


def publish(
    arguments: argparse.Namespace,
    rows: list[dict[str, Any]],
    table: Callable[[Rows], str],
    plot: Callable[[Path, Rows], None],
) -> None:
    print(table(rows))
    if arguments.json:
        write_report(arguments.json, machine(), rows)
    if arguments.plot:
        plot(arguments.plot, rows)


def bars(path: Path, rows: Rows, title: str, *, log: bool = False) -> None:
    """The medians of each case's variants; `title` stands behind the case."""
    from matplotlib.figure import Figure

    cases = dict.fromkeys(row["case"] for row in rows)
    figure = Figure(figsize=(4.5 * len(cases), 1 + 0.3 * len({row["variant"] for row in rows})), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), sharey=True, squeeze=False)[0], cases, strict=True):
        own = [row for row in rows if row["case"] == case]
        axes.barh([row["variant"] for row in own], [row["median"] for row in own], log=log)
        axes.set_title(f"{case}: {title}")
    figure.savefig(path)


def machine() -> str:
    """Processor, cores, Python."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    return f"{models[0] if models else platform.machine()}, {len(models)} CPUs, Python {platform.python_version()}"
