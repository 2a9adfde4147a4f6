"""What a batcher counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.scheduling.admission import REFUSALS


@dataclass
class BatcherStats:
    """Counters since the start, for metrics. `restarts` and `hung` are its runners'; `by_size` has batches that ran and
    their seconds, by how many items were in them."""

    batches: int = 0
    items: int = 0
    by_size: dict[int, tuple[int, float]] = field(default_factory=dict)
    failed_batches: int = 0
    dropped_cancelled: int = 0
    dropped_expired: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))
    restarts: int = 0
    hung: int = 0

    def ran(self, items: int, run_s: float) -> None:
        self.batches += 1
        self.items += items
        batches, seconds = self.by_size.get(items, (0, 0.0))
        self.by_size[items] = (batches + 1, seconds + run_s)
