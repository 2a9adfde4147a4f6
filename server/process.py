"""What is set once for the whole process, before numpy is imported and the first thread is started."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""


def prepare() -> None:
    """Makes numpy's matrix products run in the thread that asks for them, and memory stay where it was freed."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads wait busily for cores that others use
    if sys.platform == "linux":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Else glibc gives the pages of every picture back, and each next one costs hundreds of page faults.

    One arena, so that what one thread freed serves another; 32 MiB is where glibc's own rule ends up.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 128 << 20)
