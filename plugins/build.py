"""Builds the TensorRT plugin library: `make plugins`.

Takes nvcc from CUDA_HOME, PATH or /usr/local/cuda, and cmake from PATH; what is missing comes as wheels into
plugins/build. Of TensorRT only the headers are needed. Leaves plugins/build/libmaskline_plugins.so and
plugins/build/libmaskline_plugins_registered.so (README.md says which is for whom).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
BUILD = SOURCES / "build"

CUDA_LINE = "13.0"
COMPILER_WHEELS = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
TOOLKIT_DIRS = (Path("/usr/local/cuda"),)
HEADER_DIRS = tuple(
    Path(folder)
    for folder in (
        "/usr/include",
        "/usr/include/x86_64-linux-gnu",
        "/usr/include/aarch64-linux-gnu",
        "/usr/local/tensorrt/include",
    )
)
CMAKE_AT_LEAST = (3, 24)

NO_HEADERS = (
    "TensorRT's headers (NvInferRuntime.h) were not found; the library itself is not needed. Install "
    "libnvinfer-headers-dev from NVIDIA's apt repository, or build inside NVIDIA's TensorRT container, or take the "
    "folder include/ of NVIDIA's public TensorRT repository and name it: "
    "make plugins TENSORRT_INCLUDE_DIR=/path/to/include"
)


class BuildError(Exception):
    """A sentence that says what is missing and what to do."""

    status = 2


class NoHeadersError(BuildError):
    """TensorRT's headers are not on this machine."""

    status = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2, for missing headers 3, with a sentence on stderr."""
    options = _parser().parse_args(argv)
    try:
        headers = find_headers(options.tensorrt_include_dir, os.environ)
        nvcc = find_nvcc(os.environ, TOOLKIT_DIRS) or install_nvcc(BUILD / "cuda")
        build(find_cmake() or install_cmake(BUILD / "cmake-wheel"), nvcc, headers, options.architectures)
    except BuildError as error:
        print(f"plugins: {error}", file=sys.stderr)
        return error.status
    print(f"Built {BUILD / 'libmaskline_plugins.so'} with {nvcc} and the headers in {headers}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plugins/build.py", description="Builds the TensorRT plugin library.")
    parser.add_argument(
        "--tensorrt-include-dir", type=Path, metavar="DIR", help="folder of NvInferRuntime.h (default: searched for)"
    )
    parser.add_argument(
        "--architectures",
        metavar="LIST",
        help="CUDA architectures, as in '80;90' (default: 75 to 120, and PTX for later ones)",
    )
    return parser


def find_headers(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder of TensorRT's headers: `given`, else the first that has them. Raises BuildError, NoHeadersError."""
    if given is not None:
        if not _has_headers(given):
            raise BuildError(f"{given} has no NvInferRuntime.h. {NO_HEADERS}")
        return given.resolve()
    roots = [Path(environ["TENSORRT_ROOT"], "include")] if environ.get("TENSORRT_ROOT") else []
    found = next(filter(_has_headers, [*roots, *HEADER_DIRS]), None)
    if found is None:
        raise NoHeadersError(NO_HEADERS)
    return found


def _has_headers(folder: Path) -> bool:
    return (folder / "NvInferRuntime.h").is_file()


def find_nvcc(environ: Mapping[str, str], toolkits: Iterable[Path]) -> Path | None:
    """nvcc of CUDA_HOME, of PATH, or of one of the toolkits, in this order."""
    homes = [Path(environ["CUDA_HOME"])] if environ.get("CUDA_HOME") else []
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    candidates = [home / "bin" / "nvcc" for home in homes]
    candidates += [Path(on_path)] if on_path else []
    candidates += [toolkit / "bin" / "nvcc" for toolkit in toolkits]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def install_nvcc(folder: Path) -> Path:
    """nvcc of the CUDA compiler wheels, in `folder`. Raises BuildError."""
    root = folder / "nvidia" / "cu13"
    nvcc = root / "bin" / "nvcc"
    if not nvcc.is_file():
        print(f"There is no nvcc: installing the CUDA {CUDA_LINE} compiler (about 100 MB) into {folder} ...")
        _pip_install(folder, *(f"{wheel}=={CUDA_LINE}.*" for wheel in COMPILER_WHEELS))
        # nvcc looks for its libraries in lib64, where the wheels do not put them.
        (root / "lib64").symlink_to("lib")
    return nvcc


def find_cmake() -> Path | None:
    """cmake of PATH, if it is recent enough."""
    cmake = shutil.which("cmake")
    if cmake is None:
        return None
    version = re.search(r"version (\d+)\.(\d+)", _output_of(cmake, "--version"))
    return Path(cmake) if version and tuple(map(int, version.groups())) >= CMAKE_AT_LEAST else None


def install_cmake(folder: Path) -> Path:
    """cmake of the wheel, in `folder`. Raises BuildError."""
    cmake = folder / "cmake" / "data" / "bin" / "cmake"
    if not cmake.is_file():
        print(f"There is no cmake of {'.'.join(map(str, CMAKE_AT_LEAST))} or newer: installing one into {folder} ...")
        _pip_install(folder, "cmake>=3.24")
    return cmake


def _pip_install(folder: Path, *requirements: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "--no-deps", "--upgrade", "--target", str(folder), *requirements]
    if subprocess.run(command, check=False).returncode:
        raise BuildError(f"pip could not install {' '.join(requirements)}; its own message is above.")


def build(cmake: Path, nvcc: Path, headers: Path, architectures: str | None) -> None:
    """Compiles the libraries into BUILD. Raises BuildError; the compilers' own messages are on the terminal."""
    settings = [
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DTENSORRT_INCLUDE_DIR={headers}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={BUILD}",
    ]
    settings += [f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"] if architectures else []
    tree = BUILD / "cmake"
    # Fresh: a cache remembers a compiler and headers that may have gone since.
    _run(cmake, "--fresh", "-S", str(SOURCES), "-B", str(tree), *settings)
    _run(cmake, "--build", str(tree), "--parallel", str(os.cpu_count() or 1))


def _run(program: Path, *arguments: str) -> None:
    if subprocess.run([program, *arguments], check=False).returncode:
        raise BuildError(f"{program.name} failed; its own message is above.")


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
