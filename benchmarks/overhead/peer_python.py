"""The interpreter that has the peers: MASKLINE_PEER_PYTHON, else an environment that is made once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("peers") / "requirements.txt"


class PeersError(Exception):
    """The peers cannot be installed."""


def peer_python(requirements: Path = REQUIREMENTS) -> str:
    """Raises `PeersError`."""
    return os.environ.get("MASKLINE_PEER_PYTHON") or str(_own(requirements))


def _own(requirements: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "maskline" / f"peers-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"Installing the peers into {folder} (once, about a minute) ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        _install(python, requirements)
        (folder / "installed").touch()
    return python


def _install(python: Path, requirements: Path) -> None:
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "--requirement", str(requirements)], stdout=sys.stderr, check=False).returncode:
        raise PeersError(
            "The peers could not be installed; pip's message is above. "
            "MASKLINE_PEER_PYTHON may name an interpreter that has them."
        )
