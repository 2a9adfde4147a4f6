"""What `maskline predict` tells the person in front of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clients.folder import PictureFile

if TYPE_CHECKING:
    from rich.progress import Progress

    from clients.prediction import Prediction

TABLE_ROWS = 25


class Shown:
    """On standard output a table for one picture, a line each for several; with outputs, a progress bar instead.

    The bar is on standard error, where that is a terminal, and so are errors and the last line.
    """

    def __init__(self, writes: bool, prints: bool) -> None:
        """`writes`: there are outputs; `prints`: one of them is standard output."""
        self.answered = self.objects = self.there_already = 0
        self.total: int | None = None
        self._writes, self._prints = writes, prints
        self._progress = _progress(visible=writes)

    def start(self, total: int, there_already: int) -> None:
        self.total, self.there_already = total, there_already
        self._progress.add_task("", total=total)
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def answer(self, picture: PictureFile, prediction: Prediction) -> None:
        self.answered += 1
        self.objects += len(prediction)
        if self.total == 1 and not self._prints:
            _print_table(picture, prediction)
        elif not self._writes:
            print(f"{picture.name}: {len(prediction)} found", flush=True)

    def step(self) -> None:
        self._progress.advance(self._progress.task_ids[0])

    def say(self, sentence: str) -> None:
        """Above the bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def summary(self, outputs: list[Path]) -> None:
        if outputs and self.total not in (None, 1):
            already = f" ({self.there_already} were there already)" if self.there_already else ""
            counted = f"{self.answered} of {self.total} pictures answered{already}, {self.objects} objects"
            print(f"{counted}: {', '.join(map(str, outputs))}", file=sys.stderr)


def _progress(visible: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    disable = not (visible and console.is_terminal)
    return Progress(*columns, console=console, disable=disable, transient=True, redirect_stdout=False)


def _print_table(picture: PictureFile, prediction: Prediction) -> None:
    from rich.console import Console
    from rich.table import Table

    more = len(prediction) - TABLE_ROWS
    caption = f"and {more} more; --output results.json has all" if more > 0 else None
    table = Table(title=f"{picture.path.name}: {len(prediction)} found", caption=caption)
    for name in ("#", "class", "score", "x1", "y1", "x2", "y2", "area"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for k, one in enumerate(prediction.detections[:TABLE_ROWS], start=1):
        table.add_row(str(k), one.label, f"{one.score:.3f}", *(f"{edge:.1f}" for edge in one.box), str(one.area))
    Console().print(table)
