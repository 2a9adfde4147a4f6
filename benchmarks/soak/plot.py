"""The memory of a soaked server as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_plot(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Resident memory over the seconds of the mixed load and of the overload."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("mixed", "overload"), strict=True):
        axes.plot(found[name]["rss_mib"])
        axes.set_title(f"{name} load")
        axes.set_xlabel("seconds")
        axes.set_ylabel("resident memory, MiB")
        axes.set_ylim(bottom=0)
    figure.savefig(path)
