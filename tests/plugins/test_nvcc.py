"""The kernels compile with nvcc alone, without warnings and without TensorRT."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from plugins import build

ARCHITECTURES = (75, 120)
"""The oldest and the newest that plugins/CMakeLists.txt names."""


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = build.find_nvcc(os.environ, (*build.TOOLKIT_DIRS, build.BUILD / "cuda" / "nvidia" / "cu13"))
    if found is None:
        pytest.skip("nvcc is neither in CUDA_HOME, nor on PATH, nor in /usr/local/cuda")
    return found


@pytest.mark.parametrize("kernel", ["nms", "roi_align"])
def test_the_kernel_compiles_for_the_oldest_and_the_newest_gpu(kernel: str, nvcc: Path, tmp_path: Path) -> None:
    source = build.SOURCES / kernel / "kernel.cu"
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    strict = ["-std=c++17", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    files = ["-I", str(build.SOURCES), "-c", str(source), "-o", str(tmp_path / "kernel.o")]
    done = subprocess.run([str(nvcc), *strict, *targets, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
