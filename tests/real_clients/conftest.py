"""One server with the demo model for all, and pictures to send to it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".venv" / "bin" / "maskline"
ADMIN_KEY = "admin-key-of-the-tests"


@contextlib.contextmanager
def serving(*options: str) -> Iterator[str]:
    """The address of a server with the demo model that is ready."""
    command = [COMMAND, "serve", ROOT / "models", "--port", "0", "--admin-key", ADMIN_KEY, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
            deadline = time.monotonic() + 120
            while httpx2.get(f"{url}/health/ready").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Of a server that is ready."""
    with serving() as url:
        yield url


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PNG files that the demo model finds many nuclei in."""
    folder = tmp_path_factory.mktemp("pictures")
    subprocess.run([COMMAND, "samples", folder], check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.glob("*.png"))
