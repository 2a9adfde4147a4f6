"""How long batches take, learned from those that ran: seconds = a * items + b for each key. Keys are anything."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from itertools import combinations
from statistics import median_low
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

SAMPLES = 16
"""Batches that count. A quarter of them may be outliers without moving the line."""
MOST_KEYS = 256
"""Keys that are remembered, the ones used last."""


class LatencyModel(Generic[Key]):
    """One line through the recent batches of each key, and one through those of all keys."""

    def __init__(self) -> None:
        self._overall = _Line()
        self._lines: OrderedDict[Key, _Line] = OrderedDict()

    def learn(self, key: Key, items: int, seconds: float) -> None:
        """A batch of `items` of that key has run."""
        line = self._lines.setdefault(key, _Line())
        self._lines.move_to_end(key)
        if len(self._lines) > MOST_KEYS:
            self._lines.popitem(last=False)
        for each in (line, self._overall):
            each.add(items, seconds)

    def run_s(self, key: Key, items: int) -> float:
        """Expected seconds of one batch. A key without any takes the line of all; 0 while nothing has run."""
        return self._lines.get(key, self._overall).at(items)

    def work_s(self, key: Key, items: int, max_batch: int) -> float:
        """Expected seconds of so many items in as few batches as may be."""
        return _in_batches(self._lines.get(key, self._overall), items, max_batch)

    def any_work_s(self, items: int, max_batch: int) -> float:
        """The same for items whose keys are not known yet."""
        return _in_batches(self._overall, items, max_batch)


def rest_s(expected_s: float, elapsed_s: float) -> float:
    """Expected rest of what has run for `elapsed_s`. Past what was expected, the later it is, the longer it lasts."""
    return abs(expected_s - elapsed_s)


class _Line:
    """Theil and Sen's: the median slope of all pairs, so that neither noise nor one slow batch turns it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)
        self._line: tuple[float, float] | None = (0.0, 0.0)

    def add(self, items: int, seconds: float) -> None:
        self._samples.append((items, seconds))
        self._line = None

    def at(self, items: int) -> float:
        if self._line is None:
            self._line = _fitted(self._samples)
        slope, base = self._line
        return slope * items + base


def _fitted(samples: Iterable[tuple[int, float]]) -> tuple[float, float]:
    """Slope and base, neither negative. Medians are the lower ones: of two samples, one may be a slow first run."""
    slopes = [(s2 - s1) / (n2 - n1) for (n1, s1), (n2, s2) in combinations(samples, 2) if n1 != n2]
    if slopes:
        slope = median_low(slopes)
        if slope <= 0:
            return 0.0, median_low(seconds for _, seconds in samples)
        base = median_low(seconds - slope * items for items, seconds in samples)
        if base >= 0:
            return slope, base
    return median_low(seconds / items for items, seconds in samples), 0.0


def _in_batches(line: _Line, items: int, max_batch: int) -> float:
    full, rest = divmod(items, max_batch)
    return full * line.at(max_batch) + (line.at(rest) if rest else 0.0)
