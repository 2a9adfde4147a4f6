"""server.process: what a server sets for itself before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREPARED = "from server import process; process.prepare()\n"


def run(code: str, **env: str) -> str:
    """Output of a fresh interpreter that was told nothing about threads unless `env` says so."""
    quiet = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", PREPARED + code]
    return subprocess.run(command, env={**quiet, **env}, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_matrix_products_start_no_threads() -> None:
    product = "import numpy, os; a = numpy.ones((600, 600)); a @ a; print(len(os.listdir('/proc/self/task')))"
    assert run(product) == "1\n"


def test_what_the_user_has_set_counts() -> None:
    assert run("import os; print(os.environ['OPENBLAS_NUM_THREADS'])", OPENBLAS_NUM_THREADS="3") == "3\n"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_pictures_stay_with_the_process() -> None:
    """Else each next picture of the same size costs a page fault for every 4 KiB."""
    code = """
import resource, numpy
from concurrent.futures import ThreadPoolExecutor
threads = [ThreadPoolExecutor(1) for _ in range(3)]
def pictures():
    return [numpy.ones((640, 480, 3), numpy.uint8) for _ in range(4)]
def use():
    for thread in threads:
        thread.submit(pictures).result()  # freed in this thread
for _ in range(3): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): use()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 60)
"""
    assert float(run(code)) < 200
