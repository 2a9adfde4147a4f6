"""A server in a process of its own that takes exactly so long for each request, one after another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

StartServer = Callable[[float], str]


@pytest.fixture
def fixed_service() -> Iterator[StartServer]:
    """Starts one that takes so many milliseconds, and returns its address."""
    processes = []

    def start(service_ms: float) -> str:
        command = [sys.executable, "-m", "tests.clients.loadtest.fixed_service", str(service_ms)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        processes.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{process.stdout.readline().strip()}"

    yield start
    for process in processes:
        process.terminate()
        process.communicate()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"any bytes" * 200)
    return path
