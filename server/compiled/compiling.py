"""Python that numba compiles: without the GIL, once a machine, kept on disk.

Numba rather than a C extension: the project is installed from its sources on machines without a compiler, and numba has
wheels for Linux, macOS and Windows. It costs 0.3 s at start, and some seconds the first time on a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*arguments: Any) -> Callable[[F], F]:
    """Compiles a function for one signature when its module is imported, or reads it from disk.

    Numba keeps it beside the source, else in the user's cache, or where NUMBA_CACHE_DIR says; where nothing can be
    written, every process compiles for itself.
    """

    def compile_(function: F) -> F:
        try:
            result: F = numba.njit(arguments, cache=True, **_OPTIONS)(function)
        except (RuntimeError, OSError):  # no folder that can be written, a full disk
            result = numba.njit(arguments, **_OPTIONS)(function)
        return result

    return compile_


def called(function: F) -> F:
    """For the compiled functions of the same module to call."""
    result: F = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return result


def inlined(function: F) -> F:
    """The same for an inner loop: a call costs some 20 ns, to inline one some time to compile."""
    result: F = numba.njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return result


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def read_only(dtype: Any, dimensions: int) -> types.Array:
    """The type of a contiguous array that is only read; one that can be written fits too."""
    return types.Array(dtype, dimensions, "C", readonly=True)
