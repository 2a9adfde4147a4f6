"""What is known of one request: its log line, its metrics, its trace and its `Server-Timing` are made of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from server.contract.wire import ModelRef, Timings

if TYPE_CHECKING:
    from server.serving import Answer


@dataclass(frozen=True, slots=True)
class Stage:
    """`ended` is of `time.monotonic`."""

    seconds: float
    ended: float


class Progress(dict[str, Stage]):
    """Stages that a request has been through, by name. Its pictures run side by side: the slowest counts."""

    canvas_hw: tuple[int, int] | None = None
    """What the engine got; of several pictures, the one that was queued last."""

    def passed(self, name: str, seconds: float, ended: float | None = None) -> None:
        """Without `ended` it is just over."""
        if name not in self or seconds > self[name].seconds:
            self[name] = Stage(seconds, time.monotonic() if ended is None else ended)


@dataclass(slots=True)
class Record:
    """One request and its answer, so far. `path` has no query; `route` is the template that matched, if one did."""

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    trace_id: str = ""
    span: Any = None
    """OpenTelemetry's, where there is a trace."""
    route: str = ""
    status: int = 0
    """0: no answer yet."""
    bytes_in: int = 0
    bytes_out: int = 0
    model: ModelRef | None = None
    pictures: int = 0
    batch_size: int = 0
    progress: Progress = field(default_factory=Progress)
    timings_ms: Timings | None = None
    """Of an answer; an error has only `progress`."""

    def answered(self, answer: Answer) -> None:
        self.timings_ms = answer.timings_ms
        self.batch_size = answer.batch_size

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    @property
    def server_timing(self) -> str:
        """The header's value; empty for a request that went through no stage."""
        if not self.progress:
            return ""
        total_ms = self.seconds * 1e3 if self.timings_ms is None else self.timings_ms.total
        parts = [f"{name};dur={stage.seconds * 1e3:.3f}" for name, stage in self.progress.items()]
        parts.append(f"total;dur={total_ms:.3f}")
        if self.batch_size:
            parts.append(f'batch;desc="{self.batch_size}"')
            if self.progress.canvas_hw:
                parts.append('canvas;desc="{}x{}"'.format(*self.progress.canvas_hw))
        return ", ".join(parts)
