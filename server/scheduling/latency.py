"""How long batches take, learned from those that ran: seconds = a * items + b for each key. Keys are anything."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable
from itertools import combinations
from statistics import median_low
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

SAMPLES = 16
"""Batches that count for the line. A quarter of them may be outliers without turning it."""
AGEING = 0.8
"""Weight of a batch against the next one, for how high the line lies: a machine slows down and recovers in seconds."""
MOST_OFF = 3.0
"""How many times slower than the line a batch counts at most: one that hung for a minute must not count in full."""
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
    """Theil and Sen's, the median slope of all pairs, raised to the mean of the newest batches: waits are sums."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)
        self._line: tuple[float, float] | None = (0.0, 0.0)

    def add(self, items: int, seconds: float) -> None:
        self._samples.append((items, seconds))
        self._line = None

    def at(self, items: int) -> float:
        if self._line is None:
            slope, base = _median_line(self._samples)
            level = _level(self._samples, slope, base)
            self._line = (slope * level, base * level)
        slope, base = self._line
        return slope * items + base


def _median_line(samples: Collection[tuple[int, float]]) -> tuple[float, float]:
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


def _level(samples: Collection[tuple[int, float]], slope: float, base: float) -> float:
    """Mean of how many times slower than the line they were, the newest (the last) weighing most."""
    total = weights = 0.0
    for items, seconds in samples:
        line = slope * items + base
        total = total * AGEING + (min(seconds / line, MOST_OFF) if line else 1.0)
        weights = weights * AGEING + 1.0
    return total / weights


def _in_batches(line: _Line, items: int, max_batch: int) -> float:
    full, rest = divmod(items, max_batch)
    return full * line.at(max_batch) + (line.at(rest) if rest else 0.0)
