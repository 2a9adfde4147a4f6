"""`make plugins`: what it finds, installs and hands to cmake, and what it says when headers are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins import build


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "NvInferRuntime.h").touch()
    return folder


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No CUDA, no cmake, no TensorRT; a folder on PATH that takes programs, and a build folder of the test's own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("TENSORRT_ROOT", raising=False)
    monkeypatch.setattr(build, "TOOLKIT_DIRS", ())
    monkeypatch.setattr(build, "HEADER_DIRS", ())
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    return programs


def program(path: Path, *, version: str = "cmake version 3.31.0", status: int = 0) -> Path:
    """An executable that prints `version` where asked for it, and else notes its arguments beside itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "if '--version' in sys.argv:\n"
        f"    sys.exit(print({version!r}))\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(path.with_suffix('.calls'))!r}, 'a'))\n"
        f"sys.exit({status})\n"
    )
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.with_suffix(".calls").read_text().splitlines()]


def test_cmake_gets_the_compiler_the_headers_and_the_architectures(
    bare_machine: Path, headers: Path, tmp_path: Path
) -> None:
    cmake, nvcc = program(bare_machine / "cmake"), program(bare_machine / "nvcc")
    assert build.main(["--tensorrt-include-dir", str(headers), "--architectures", "80;90"]) == 0
    configure, compile_ = calls(cmake)
    assert f"-DCMAKE_CUDA_COMPILER={nvcc}" in configure
    assert f"-DTENSORRT_INCLUDE_DIR={headers}" in configure
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90" in configure
    assert f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={tmp_path / 'build'}" in configure
    assert compile_[0] == "--build"


def test_without_architectures_the_project_s_own_count(bare_machine: Path, headers: Path) -> None:
    cmake, _ = program(bare_machine / "cmake"), program(bare_machine / "nvcc")
    assert build.main(["--tensorrt-include-dir", str(headers)]) == 0
    assert not [word for word in calls(cmake)[0] if "ARCHITECTURES" in word]


def test_without_headers_it_says_where_to_get_them(bare_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([]) == 3
    said = capsys.readouterr().err
    for remedy in ("libnvinfer-headers-dev", "TensorRT container", "make plugins TENSORRT_INCLUDE_DIR="):
        assert remedy in said


def test_a_named_folder_without_headers_is_named(
    bare_machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--tensorrt-include-dir", str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path / 'nowhere'} has no NvInferRuntime.h." in capsys.readouterr().err


def test_a_compiler_that_fails_is_an_error(
    bare_machine: Path, headers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bare_machine / "nvcc")
    program(bare_machine / "cmake", status=1)
    assert build.main(["--tensorrt-include-dir", str(headers)]) == 2
    assert "cmake failed; its own message is above." in capsys.readouterr().err


def test_headers_of_an_unpacked_tensorrt_come_first(
    bare_machine: Path, headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "HEADER_DIRS", (headers,))
    assert build.find_headers(None, {}) == headers
    unpacked = tmp_path / "TensorRT" / "include"
    unpacked.mkdir(parents=True)
    (unpacked / "NvInferRuntime.h").touch()
    assert build.find_headers(None, {"TENSORRT_ROOT": str(unpacked.parent)}) == unpacked


def test_nvcc_of_cuda_home_then_of_path_then_of_the_toolkit(tmp_path: Path) -> None:
    homes = {name: program(tmp_path / name / "bin" / "nvcc") for name in ("home", "path", "toolkit")}
    environ = {"CUDA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path" / "bin")}
    toolkits = [tmp_path / "toolkit"]
    assert build.find_nvcc(environ, toolkits) == homes["home"]
    assert build.find_nvcc({**environ, "CUDA_HOME": str(tmp_path / "none")}, toolkits) == homes["path"]
    assert build.find_nvcc({"PATH": ""}, toolkits) == homes["toolkit"]
    assert build.find_nvcc({"PATH": ""}, []) is None


def test_what_is_missing_comes_as_wheels_into_the_build_folder(
    bare_machine: Path, headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bare_machine / "cmake", version="cmake version 3.22.1")  # too old
    installed: dict[str, tuple[str, ...]] = {}

    def install(folder: Path, *requirements: str) -> None:
        installed[folder.name] = requirements
        names = {"cuda": "nvidia/cu13/bin/nvcc", "cmake-wheel": "cmake/data/bin/cmake"}
        program(folder / names[folder.name])

    monkeypatch.setattr(build, "_pip_install", install)
    assert build.main(["--tensorrt-include-dir", str(headers)]) == 0
    assert {"nvidia-cuda-nvcc==13.0.*", "nvidia-cuda-runtime==13.0.*"} <= set(installed["cuda"])
    assert installed["cmake-wheel"] == ("cmake>=3.24",)
    toolkit = tmp_path / "build" / "cuda" / "nvidia" / "cu13"
    assert (toolkit / "lib64").readlink() == Path("lib")
    configure, _ = calls(tmp_path / "build" / "cmake-wheel" / "cmake" / "data" / "bin" / "cmake")
    assert f"-DCMAKE_CUDA_COMPILER={toolkit / 'bin' / 'nvcc'}" in configure
    installed.clear()
    assert build.main(["--tensorrt-include-dir", str(headers)]) == 0
    assert installed == {}


def test_a_failing_pip_is_an_error(bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(build.BuildError, match=r"pip could not install cmake>=3\.24"):
        build.install_cmake(tmp_path / "cmake-wheel")


def test_cmake_alone_says_where_to_get_headers(tmp_path: Path) -> None:
    nvcc, cmake = build.find_nvcc(os.environ, build.TOOLKIT_DIRS), build.find_cmake()
    if nvcc is None or cmake is None:
        pytest.skip("there is no nvcc or no recent cmake")
    settings = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DTENSORRT_INCLUDE_DIR={tmp_path}"]
    command = [cmake, "-S", build.SOURCES, "-B", tmp_path / "tree", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "libnvinfer-headers-dev" in done.stderr


def test_it_runs_as_a_script(tmp_path: Path) -> None:
    script = Path(build.__file__)
    done = subprocess.run(
        [sys.executable, script, "--tensorrt-include-dir", "absent"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("plugins: absent has no NvInferRuntime.h.")
