"""Holds the answers under load against a first pass, in which every picture was asked for alone.

Batches must not change what is found. Under load an answer is only told apart from those seen before; whether two
different ones mean the same is looked at after the run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_KEPT = 2000
"""Different answers kept for a look after the run."""

SCORE_TOLERANCE = 0.02
BOX_TOLERANCE_PX = 2.0
AREA_TOLERANCE = 0.05
NUMBER_TOLERANCE = 0.01
_OF_THE_REQUEST = {"request_id", "id", "inference_id", "timings_ms", "time", "batch_size"}
_DTYPES = {
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
}

Difference = Callable[[bytes, bytes], str | None]


class Answers:
    """What each picture was answered first, and what it was answered in the run."""

    def __init__(self, first: dict[int, bytes], adapter: str) -> None:
        """`first`: the answers of the first pass by picture; others are not checked."""
        self.first = {picture: own_part(content, adapter) for picture, content in first.items()}
        self._adapter = adapter
        self._others: Counter[tuple[int, bytes]] = Counter()
        self._identical = 0

    def note(self, picture: int, content: bytes) -> None:
        expected = self.first.get(picture)
        if expected is None:
            return
        own = own_part(content, self._adapter)
        if own == expected:
            self._identical += 1
        elif (picture, own) in self._others or len(self._others) < MOST_KEPT:
            self._others[picture, own] += 1

    def fresh(self) -> Answers:
        """For the next run, with the same first pass."""
        new = Answers({}, self._adapter)
        new.first = self.first
        return new

    def summary(self) -> dict[str, Any]:
        """Counts of answers, and the first difference that was found."""
        find = _DIFFERENCES.get(self._adapter, json_difference)
        close, different, example = 0, 0, None
        for (picture, own), count in self._others.items():
            found = find(self.first[picture], own)
            if found is None:
                close += count
            else:
                different += count
                example = example or f"picture {picture + 1}: {found}"
        counts = {"identical": self._identical, "close": close, "different": different}
        return {"checked": self._identical + close + different, **counts, "example": example}


def own_part(content: bytes, adapter: str) -> bytes:
    """An answer of Maskline without what belongs to the request: its id, its timings, its batch."""
    if adapter != "maskline":
        return content
    start, stop = content.find(b'"images"'), content.rfind(b'"timings_ms"')
    return content[start:stop].rstrip(b", \r\n") if 0 <= start < stop else content


def detections_difference(expected: bytes, got: bytes) -> str | None:
    """None where the same objects were found; those at the score threshold may be there or not."""
    try:
        before, after = (json.loads(b"{" + part + b"}")["images"][0]["detections"] for part in (expected, got))
    except (ValueError, LookupError, TypeError):
        return json_difference(expected, got)
    unmatched = list(after)
    lost = []
    for one in before:
        match = next((other for other in unmatched if _same(one, other)), None)
        if match is None:
            lost.append(one)
        else:
            unmatched.remove(match)
    lowest = min((one["score"] for one in [*before, *after]), default=0.0)
    for word, left in (("lost", lost), ("new", unmatched)):
        for one in left:
            if one["score"] > lowest + SCORE_TOLERANCE:
                return f"{word}: {one['class_name']} {one['score']:.3f} at {one['box']}"
    return None


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    boxes = zip(one["box"], other["box"], strict=True)
    return (
        one["class_id"] == other["class_id"]
        and abs(one["score"] - other["score"]) <= SCORE_TOLERANCE
        and all(abs(a - b) <= BOX_TOLERANCE_PX for a, b in boxes)
        and abs(one["area"] - other["area"]) <= AREA_TOLERANCE * max(one["area"], other["area"]) + BOX_TOLERANCE_PX
    )


def json_difference(expected: bytes, got: bytes) -> str | None:
    """Where two JSON answers differ by more than rounding, or that they are not JSON."""
    try:
        return _difference(json.loads(expected), json.loads(got), "$")
    except ValueError:
        return f"{len(expected)} bytes, then {len(got)} other bytes"


def _difference(expected: Any, got: Any, where: str) -> str | None:
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        pairs = [(expected[key], got[key], f"{where}.{key}") for key in expected if key not in _OF_THE_REQUEST]
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = [(a, b, f"{where}[{k}]") for k, (a, b) in enumerate(zip(expected, got, strict=True))]
    elif expected == got or _close(expected, got):
        return None
    else:
        return f"{where}: {_short(expected)}, then {_short(got)}"
    return next((found for one in pairs if (found := _difference(*one)) is not None), None)


def _close(expected: Any, got: Any) -> bool:
    numbers = isinstance(expected, int | float) and isinstance(got, int | float)
    return numbers and abs(expected - got) <= NUMBER_TOLERANCE * max(1.0, abs(expected), abs(got))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def tensors_difference(expected: bytes, got: bytes) -> str | None:
    """Of two answers of the Open Inference protocol. Numbers may differ by rounding, text in whatever way."""
    try:
        before, after = _tensors(expected), _tensors(got)
    except (ValueError, LookupError):
        return f"{len(expected)} bytes, then {len(got)} other bytes"
    if before.keys() != after.keys():
        return f"outputs {sorted(before)}, then {sorted(after)}"
    for name, values in before.items():
        if values.shape != after[name].shape:
            return f"{name}: {values.size} values, then {after[name].size}"
        if not np.allclose(values, after[name], NUMBER_TOLERANCE, NUMBER_TOLERANCE):
            return f"{name}: up to {np.abs(values - after[name]).max():.3g} apart"
    return None


def _tensors(content: bytes) -> dict[str, npt.NDArray[np.float64]]:
    """The numbers by output; a binary answer has them behind its JSON, in the order of the outputs."""
    head, at = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    found = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        kind = _DTYPES.get(output["datatype"])
        if kind is not None:
            data = np.frombuffer(content[at : at + size], kind) if size else np.array(output["data"])
            found[output["name"]] = data.astype(np.float64).ravel()
        at += size
    return found


_DIFFERENCES: dict[str, Difference] = {"maskline": detections_difference, "v2": tensors_difference}
