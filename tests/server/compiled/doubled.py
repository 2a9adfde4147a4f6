"""The smallest function to compile."""

from __future__ import annotations

from numba import int64

from server.compiled.compiling import compiled


@compiled(int64)
def doubled(value: int) -> int:
    return 2 * value
