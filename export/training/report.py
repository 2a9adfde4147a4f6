"""What a run shows: progress on the terminal, losses and AP in files, TensorBoard, a plot, sheets of predictions.

Files in the output folder: `losses.jsonl` and `metrics.jsonl` (a line a step and an evaluation), `curves.png`,
`predictions/step-N.png`, `tensorboard/`. On resuming, lines past the checkpoint are dropped, so that the files read
as those of one run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]


class Report:
    """Use as a context manager. `first_step` is the number of updates that are already done."""

    def __init__(self, folder: Path, steps: int, first_step: int, log_every: int) -> None:
        self.folder, self.steps, self.log_every = folder, steps, log_every
        self.losses = _keep_until(folder / "losses.jsonl", first_step)
        self.metrics = _keep_until(folder / "metrics.jsonl", first_step)
        self.console = Console()
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps, completed=first_step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._loss_file = (folder / "losses.jsonl").open("a", encoding="utf-8")
        self._metric_file = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._board.close()
        self._loss_file.close()
        self._metric_file.close()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def after_step(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        row = {"step": step, **losses, "learning_rate": learning_rate}
        self.losses.append(row)
        print(json.dumps(row), file=self._loss_file, flush=True)
        self._progress.update(self._task, completed=step, description=f"loss {losses['total']:.3f}")
        if step % self.log_every and step != self.steps:
            return
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, step)
        if not self.console.is_terminal:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            self.say(f"step {step}/{self.steps}  {shown}  lr {learning_rate:.2e}")

    def after_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self.metrics.append(row)
        print(json.dumps(row), file=self._metric_file, flush=True)
        for name, value in metrics.items():
            self._board.add_scalar(f"val/{name}", value, step)
        self.say(f"step {step}  " + "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        plot_curves(self.losses, self.metrics, self.folder / "curves.png")


def _keep_until(path: Path, last_step: int) -> list[Row]:
    """The rows of a JSON-lines file up to a step; the file is cut to them. A torn last line is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= last_step:
            rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def plot_curves(losses: Sequence[Row], metrics: Sequence[Row], path: Path) -> None:
    """Losses (smoothed over a hundredth of the run) above, average precision below, by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    names = [n for n in (losses[-1] if losses else {}) if n not in {"step", "learning_rate", "gradient_norm"}]
    for name in names:
        above.plot(*_smoothed(losses, name), label=name)
    for name in [n for n in (metrics[-1] if metrics else {}) if n != "step"]:
        below.plot([m["step"] for m in metrics], [m[name] for m in metrics], marker=".", label=name)
    above.set(ylabel="loss", yscale="log")
    below.set(ylabel="average precision", xlabel="step", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _smoothed(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    width = max(1, len(rows) // 100)
    groups = [rows[i : i + width] for i in range(0, len(rows), width)]
    means: list[Any] = [sum(r[name] for r in g) / len(g) for g in groups]
    return [g[-1]["step"] for g in groups], means
