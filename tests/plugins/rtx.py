"""Processes in which `import tensorrt` is NVIDIA's TensorRT for RTX: a real builder and ONNX parser without a GPU.

They are processes of their own because the loader reads LD_LIBRARY_PATH once, at their start.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from plugins.loader import PluginLibraryError, library_path

ROOT = Path(__file__).parents[2]
RTX_MAJOR = 11
"""The major version of TensorRT whose interfaces RTX shares."""

STAND_IN = Path(__file__).parent / "stand_in"


@dataclass(frozen=True)
class Case:
    """An ONNX file, and the profile to build an engine with: smallest, usual and largest shape of each input."""

    path: str
    profile: dict[str, list[list[int]]] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    parsed: bool
    plugins: list[str]  # names of the layers that are plugins
    outputs: dict[str, list[Any]]  # shape (-1: known at run time) and type
    engine: int | None  # bytes
    log: str  # warnings and errors


def require_rtx() -> None:
    """Skips the calling test where the package is not installed."""
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        pytest.skip("the package tensorrt-rtx-cu13 is not installed (Linux on x86-64 only)")


def built_library() -> Path:
    """The built plugin library; skips the calling test where there is none."""
    try:
        return library_path()
    except PluginLibraryError as error:
        pytest.skip(str(error))


def require_library() -> Path:
    """As `built_library`, of the major version that RTX can load."""
    library = built_library()
    major = ctypes.CDLL(str(library)).maskline_plugins_tensorrt_version() // 10000
    if major != RTX_MAJOR:
        pytest.skip(f"{library} was built for TensorRT {major}, and RTX has the interfaces of {RTX_MAJOR}")
    return library


def environment(folder: Path) -> dict[str, str]:
    """Environment of such a process; `folder` (empty, the test's own) comes to hold a link that it needs.

    RTX's parser opens libtensorrt_rtx.so by that name at the first plugin, and the package has only the name with a
    version.
    """
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    assert spec is not None
    assert spec.origin is not None
    library = folder / "libtensorrt_rtx.so"
    if not library.exists():
        library.symlink_to(Path(spec.origin).parent / "libtensorrt_rtx.so.1")
    return os.environ | {
        "LD_LIBRARY_PATH": _joined(str(folder), os.environ.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": _joined(str(STAND_IN), str(ROOT), os.environ.get("PYTHONPATH")),
        "CUDA_VISIBLE_DEVICES": "",  # the same with a GPU as without
    }


def run_python(folder: Path, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs Python in such a process: ("-m", "module", ...) or ("-c", "code")."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def outcomes(cases: Sequence[Case], folder: Path, library: Path | None) -> list[Outcome]:
    """What RTX's parser and builder make of the ONNX files, with the plugins of `library` or with none."""
    arguments = [json.dumps([asdict(case) for case in cases]), *([str(library)] if library else [])]
    done = run_python(folder, "-m", "tests.plugins.rtx_worker", *arguments)
    assert done.returncode == 0, done.stderr
    return [Outcome(**values) for values in json.loads(done.stdout.splitlines()[-1])]


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(path for path in paths if path)
