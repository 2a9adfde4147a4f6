"""A TensorRT build that a person can watch and stop: rich's bars for its phases, Ctrl-C between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")


class PhaseBars:
    """The phases under way, a bar each, indented below the phase that they are part of. Threads may share it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, tuple[TaskID, int]] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            depth = self._bars[parent][1] + 1 if parent in self._bars else 0
            self._bars[phase] = self._progress.add_task("  " * depth + phase, total=steps), depth

    def advance(self, phase: str, step: int) -> None:
        with self._lock:
            if phase in self._bars:
                self._progress.update(self._bars[phase][0], completed=step + 1)

    def finish(self, phase: str) -> None:
        with self._lock:
            if phase in self._bars:
                self._progress.remove_task(self._bars.pop(phase)[0])


@contextmanager
def phase_bars(console: Console) -> Iterator[PhaseBars]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # Names of phases hold brackets, which are no markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield PhaseBars(progress)


def progress_monitor(trt: Any, bars: PhaseBars) -> Any:
    """An `IProgressMonitor` that moves the bars; after its `stop` TensorRT gives up at the next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of a module that is imported late
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._stopped = threading.Event()

        def stop(self) -> None:
            self._stopped.set()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            bars.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            bars.advance(phase_name, step)
            return not self._stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            bars.finish(phase_name)

    return Monitor()


def run_stoppable(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Runs `work` in a thread of its own: Ctrl-C reaches Python only while its main thread is not inside TensorRT.

    On Ctrl-C it calls `stop`, waits for `work` to end and raises `KeyboardInterrupt`.
    """
    with ThreadPoolExecutor(1, "tensorrt-build") as executor:
        future = executor.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            stop()
            raise
