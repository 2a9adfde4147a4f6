"""What a batcher counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.scheduling.admission import REFUSALS


@dataclass
class RunnerStats:
    """Counters of one runner since the start. `run_s` are the seconds of the batches that it answered."""

    batches: int = 0
    items: int = 0
    run_s: float = 0.0
    failed_batches: int = 0
    restarts: int = 0
    hung: int = 0


@dataclass
class BatcherStats:
    """Counters since the start, for metrics. `by_size` has batches that ran and their seconds, by how many items were
    in them."""

    runners: list[RunnerStats]
    by_size: dict[int, tuple[int, float]] = field(default_factory=dict)
    dropped_cancelled: int = 0
    dropped_expired: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))

    @classmethod
    def of(cls, runners: int) -> BatcherStats:
        return cls([RunnerStats() for _ in range(runners)])

    def ran(self, runner: int, items: int, run_s: float) -> None:
        own = self.runners[runner]
        own.batches += 1
        own.items += items
        own.run_s += run_s
        batches, seconds = self.by_size.get(items, (0, 0.0))
        self.by_size[items] = (batches + 1, seconds + run_s)

    @property
    def batches(self) -> int:
        return sum(runner.batches for runner in self.runners)

    @property
    def failed_batches(self) -> int:
        return sum(runner.failed_batches for runner in self.runners)

    @property
    def restarts(self) -> int:
        return sum(runner.restarts for runner in self.runners)

    @property
    def hung(self) -> int:
        return sum(runner.hung for runner in self.runners)
