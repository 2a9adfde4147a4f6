"""Spans of time as a command line has them."""

from __future__ import annotations

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0}


def seconds(text: str) -> float:
    """`200ms`, `30s`, `2m` or `30` -> seconds, more than 0. Raises `ValueError`."""
    unit = next((unit for unit in _UNITS_S if text.endswith(unit)), "")
    value = float(text.removesuffix(unit)) * _UNITS_S.get(unit, 1.0)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
