"""Python that numba compiles: without the GIL, once a machine, kept on disk.

Numba rather than a C extension: the project is installed from its sources on machines without a compiler, and numba
has wheels for Linux, macOS and Windows. It costs a third of a second at start, and some seconds the first time on a
machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numba
from numba import types

F = TypeVar("F", bound=Callable[..., Any])

_njit: Any = partial(numba.njit, nogil=True, error_model="numpy")
_part: Any = partial(_njit, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def compiled(*arguments: Any) -> Callable[[F], F]:
    """Compiles a function for one signature when its module is imported, or reads it from disk.

    Numba keeps it beside the source, else in the user's cache, or where NUMBA_CACHE_DIR says; where nothing can be
    written, every process compiles for itself.
    """

    def compile_(function: F) -> F:
        try:
            result: F = _njit(arguments, cache=True)(function)
        except (RuntimeError, OSError):  # no folder that can be written, a full disk
            result = _njit(arguments)(function)
        return result

    return compile_


def called(function: F) -> F:
    """For the compiled functions of the same module to call."""
    result: F = _part(function)
    return result


def inlined(function: F) -> F:
    """The same for an inner loop: a call costs some 20 ns, inlining only time to compile."""
    result: F = _part(forceinline=True)(function)
    return result


def read_only(dtype: Any, dimensions: int) -> types.Array:
    """The type of a contiguous array that is only read; one that can be written fits too."""
    return types.Array(dtype, dimensions, "C", readonly=True)
