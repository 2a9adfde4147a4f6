"""What each model has answered so far, as Triton's statistics count it: requests and seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from server.contract.wire import ModelRef
from server.record import Record


@dataclass(slots=True)
class Sum:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class ModelStatistics:
    """Of one model. `stages` are those of requests that succeeded; `pictures` were in these."""

    success: Sum = field(default_factory=Sum)
    fail: Sum = field(default_factory=Sum)
    stages: dict[str, Sum] = field(default_factory=dict)
    pictures: int = 0
    last_answer_ms: int = 0
    """Since 1970; 0: none yet."""

    def answered(self, record: Record) -> None:
        self.success.add(record.seconds)
        for name, stage in record.progress.items():
            self.stages.setdefault(name, Sum()).add(stage.seconds)
        self.pictures += record.pictures
        self.last_answer_ms = int(time.time() * 1e3)


class Statistics:
    """Of all models that have been asked, through whichever protocol."""

    def __init__(self) -> None:
        self._models: dict[ModelRef, ModelStatistics] = {}

    def done(self, record: Record) -> None:
        """Counts a request whose answer has gone out, or failed to."""
        if record.model is None:
            return
        statistics = self._models.setdefault(record.model, ModelStatistics())
        if record.status == 200:
            statistics.answered(record)
        else:
            statistics.fail.add(record.seconds)

    def of(self, model: ModelRef) -> ModelStatistics:
        return self._models.get(model, ModelStatistics())

    def keep(self, models: Collection[ModelRef]) -> None:
        """Forgets all others."""
        self._models = {model: found for model, found in self._models.items() if model in models}
