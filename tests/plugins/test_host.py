"""The plugin library in a host of our own: what no parser shows, and what needs no TensorRT library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins import rtx
from tests.plugins.compiling import compile_plain, compile_with_tensorrt, major_version, tensorrt_headers


@pytest.fixture(scope="module")
def host_lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What tests/plugins/host.cpp prints, on a machine that shows it no GPU."""
    library = rtx.built_library()
    host = compile_with_tensorrt("host.cpp", tmp_path_factory.mktemp("host") / "host")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([host, library], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()


def after(lines: list[str], start: str) -> str:
    return next(line.removeprefix(start) for line in lines if line.startswith(start))


@pytest.mark.parametrize(
    ("plugin", "fields"),
    [
        ("MaskRcnnNms", "iou_threshold=0.25 score_threshold=0.5 max_output=4 pre_nms_topk=6000"),
        ("PyramidRoiAlign", "output_size=14 sampling_ratio=2 aligned=1 crop_and_resize=1 level_rule=round"),
    ],
)
def test_attributes_survive_a_plan_a_clone_and_a_context(host_lines: list[str], plugin: str, fields: str) -> None:
    for step in ("made", "deserialised", "cloned", "attached"):
        assert after(host_lines, f"{step} {plugin} ") == fields


@pytest.mark.parametrize(
    ("formats", "answer"),
    [
        ("float linear", "taken"),
        ("half hwc8", "taken"),
        ("half linear", "refused"),
        ("float hwc8", "refused"),
        ("half in, float out", "refused"),
    ],
)
def test_roi_align_takes_two_forms_of_features(host_lines: list[str], formats: str, answer: str) -> None:
    assert f"{formats} {answer}" in host_lines


def test_missing_fields_are_an_error_and_no_crash(host_lines: list[str]) -> None:
    assert "log MaskRcnnNms: no attributes were given" in host_lines


def test_shapes_that_do_not_fit_are_refused_at_run_time(host_lines: list[str]) -> None:
    said = host_lines.index("nms of other scores shapes refused") - 1
    assert host_lines[said] == "log MaskRcnnNms: scores must be [N, A] as the boxes, not [2, 6]"


@pytest.mark.parametrize("step", ["nms of no images", "roi align of no rois"])
def test_nothing_to_do_is_done_without_a_launch(host_lines: list[str], step: str) -> None:
    assert f"{step} ran well" in host_lines


@pytest.mark.parametrize(
    ("step", "plugin"), [("nms without a device", "MaskRcnnNms"), ("roi align without a device", "PyramidRoiAlign")]
)
def test_cuda_errors_are_logged_and_returned(host_lines: list[str], step: str, plugin: str) -> None:
    ran = host_lines.index(f"{step} ran with an error")
    assert host_lines[ran - 1].startswith(f"log {plugin}: ")
    assert "CUDA" in host_lines[ran - 1]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libnvinfer that has a plugin registry and nothing else."""
    rtx.built_library()
    name = f"libnvinfer.so.{major_version(tensorrt_headers())}"
    output = tmp_path_factory.mktemp("registry") / name
    return compile_with_tensorrt("registry.cpp", output, "-shared", "-Xcompiler=-fPIC", f"-Xlinker=-soname={name}")


def load(*statements: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs statements in a fresh process, where libraries can be loaded with ctypes."""
    code = "\n".join(["from ctypes import CDLL", *statements])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
        check=True,
    )


def self_registering() -> Path:
    return rtx.built_library().with_name("libmaskline_plugins_registered.so")


def test_the_self_registering_library_registers_what_is_missing(registry: Path) -> None:
    done = load(
        f"registry = CDLL({str(registry)!r})",
        "print(registry.creator_count())",
        f"CDLL({str(self_registering())!r})",
        "print(registry.creator_count())",
    )
    assert done.stdout.split() == ["0", "2"]
    assert done.stderr == ""


def test_it_leaves_alone_what_is_registered(registry: Path) -> None:
    done = load(
        f"registry = CDLL({str(registry)!r})",
        f"registry.load_plugin_library({os.fsencode(rtx.built_library())!r})",
        f"CDLL({str(self_registering())!r})",
        "print(registry.creator_count())",
    )
    assert done.stdout.split() == ["2"]


def test_it_registers_its_own_plugins_beside_another_library(registry: Path, tmp_path: Path) -> None:
    """All plugin libraries have a getCreators; the first one in the process must not take the place of ours."""
    other = compile_plain('extern "C" void* getCreators(int& count) { count = 0; return nullptr; }', tmp_path / "o.so")
    done = load(
        "from ctypes import RTLD_GLOBAL",
        f"CDLL({str(other)!r}, RTLD_GLOBAL)",
        f"registry = CDLL({str(registry)!r})",
        f"CDLL({str(self_registering())!r})",
        "print(registry.creator_count())",
    )
    assert done.stdout.split() == ["2"]


def test_it_brings_tensorrt_where_it_is_the_first(registry: Path) -> None:
    """As with LD_PRELOAD; TensorRT is on the loader's path."""
    done = load(
        f"CDLL({str(self_registering())!r})",
        f"print(CDLL({registry.name!r}).creator_count())",
        LD_LIBRARY_PATH=str(registry.parent),
    )
    assert done.stdout.split() == ["2"]


def test_it_says_so_where_there_is_no_tensorrt() -> None:
    library = self_registering()
    name = f"libnvinfer.so.{major_version(tensorrt_headers())}"
    code = f"try:\n    CDLL({name!r})\nexcept OSError:\n    print('none')"
    if load(code).stdout.split() != ["none"]:
        pytest.skip("this machine has TensorRT on its library path")
    done = load(f"CDLL({str(library)!r})")
    assert "nothing was registered, for neither this process nor the library path has TensorRT" in done.stderr
