"""C++ programs and libraries of the tests, compiled against TensorRT's headers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from plugins import build
from plugins.loader import library_path

HERE = Path(__file__).parent


def compile_with_tensorrt(source: str, output: Path, *options: str) -> Path:
    """Compiles a source file of this folder with nvcc, which knows CUDA's headers; skips where one is missing."""
    nvcc = build.find_nvcc(os.environ, (*build.TOOLKIT_DIRS, build.BUILD / "cuda" / "nvidia" / "cu13"))
    if nvcc is None:
        pytest.skip("there is no nvcc")
    includes = ["-isystem", str(tensorrt_headers())]
    command = [nvcc, "-std=c++17", *includes, *options, "-o", output, HERE / source, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def compile_plain(source: str, output: Path) -> Path:
    """Compiles C++ source text into a shared library; skips where there is no compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    command = [compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(output)]
    subprocess.run(command, input=source, text=True, check=True)
    return output


def tensorrt_headers() -> Path:
    """Those that the library under test was built with, else those of this machine; skips where there are none."""
    cache = library_path().parent / "cmake" / "CMakeCache.txt"
    built_with = re.search(r"^TENSORRT_INCLUDE_DIR:PATH=(.+)$", cache.read_text() if cache.is_file() else "", re.M)
    try:
        return build.find_headers(Path(built_with[1]) if built_with else None, os.environ)
    except build.BuildError as error:
        pytest.skip(str(error))


def major_version(headers: Path) -> int:
    """TensorRT's major version, as its headers say it."""
    text = (headers / "NvInferVersion.h").read_text()
    number = re.search(r"#define (?:TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR) (\d+)", text)
    assert number is not None
    return int(number[1])
