"""What the comparisons of all pictures come to. Of most pictures only numbers are kept."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clients.diff.pairing import IOU_THRESHOLD, Comparison, compare
from clients.folder import PictureFile
from clients.prediction import Prediction

MOST_SHOWN = 24
"""Pictures that the page shows."""

KINDS = ("kept", "lost", "gained", "changed")


@dataclass(frozen=True)
class Shown:
    """A picture that the page shows. `size_hw`: of the picture."""

    picture: PictureFile
    size_hw: tuple[int, int]
    comparison: Comparison


@dataclass
class Drift:
    """`add` pictures, then read. `score_threshold`: objects less sure are not looked at."""

    score_threshold: float
    models: tuple[str, str] | None = None
    """Names and versions, as the answers say them."""
    ious: array[float] = field(default_factory=lambda: array("d"))
    scores: tuple[array[float], array[float]] = field(default_factory=lambda: (array("d"), array("d")))
    """In A and in B, of the kept objects, as are `ious`."""
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    """By class, how many objects of each kind; `changed`: from this class to another."""
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """From a class to a class."""
    unsure: Counter[str] = field(default_factory=Counter)
    """How many of the `lost` and of the `gained` are in the other answer below the threshold."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    _worst: list[tuple[float, int, Shown]] = field(default_factory=list)

    def add(self, picture: PictureFile, a: Prediction, b: Prediction) -> None:
        """Raises the errors of `compare`."""
        comparison = compare(a, b, self.score_threshold)
        self.models = self.models or (f"{a.model} {a.version}", f"{b.model} {b.version}")
        counts = {kind: len(getattr(comparison, kind)) for kind in KINDS}
        self.pictures.append({"file_name": str(picture.name), "change": comparison.change, **counts})
        self._count(comparison)
        if comparison.change > 0:
            entry = (comparison.change, -len(self.pictures), Shown(picture, (a.height, a.width), comparison))
            (heapq.heappush if len(self._worst) < MOST_SHOWN else heapq.heappushpop)(self._worst, entry)

    def worst(self) -> list[Shown]:
        """The pictures with the most change, that with most first."""
        return [shown for _, _, shown in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)]

    def total(self, kind: str) -> int:
        """How many objects of one of `KINDS`."""
        return sum(counts[kind] for counts in self.classes.values())

    @property
    def is_different(self) -> bool:
        """Whether any object is lost, gained or of another class."""
        return any(self.total(kind) for kind in KINDS[1:])

    def summary(self) -> dict[str, Any]:
        """All figures, for a program."""
        kept = np.array(self.ious)
        moved = np.subtract(self.scores[1], self.scores[0])
        changed = sum(any(one[kind] for kind in KINDS[1:]) for one in self.pictures)
        return {
            "score_threshold": self.score_threshold,
            "iou_threshold": IOU_THRESHOLD,
            "different": self.is_different,
            "objects": {kind: self.total(kind) for kind in KINDS},
            "below_threshold_in_other": {kind: self.unsure[kind] for kind in ("lost", "gained")},
            "mask_iou": {"mean": _or_none(kept, np.mean), "min": _or_none(kept, np.min)},
            "score_change": {"mean": _or_none(moved, np.mean), "largest": _or_none(np.abs(moved), np.max)},
            "classes": {name: {kind: counts[kind] for kind in KINDS} for name, counts in sorted(self.classes.items())},
            "class_changes": [{"from": a, "to": b, "objects": n} for (a, b), n in self.changes.most_common()],
            "pictures": {"compared": len(self.pictures), "different": changed},
            "by_picture": self.pictures,
        }

    def _count(self, comparison: Comparison) -> None:
        for pair in comparison.kept:
            self.ious.append(pair.iou)
            self.scores[0].append(pair.a.score)
            self.scores[1].append(pair.b.score)
            self._one(pair.a.label, "kept")
        for pair in comparison.changed:
            self._one(pair.a.label, "changed")
            self.changes[pair.a.label, pair.b.label] += 1
        for kind in ("lost", "gained"):
            for one in getattr(comparison, kind):
                self._one(one.found.label, kind)
                self.unsure[kind] += one.unsure is not None

    def _one(self, label: str, kind: str) -> None:
        self.classes.setdefault(label, Counter())[kind] += 1


def _or_none(values: Any, of: Any) -> float | None:
    return float(of(values)) if len(values) else None
