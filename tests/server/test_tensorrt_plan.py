"""Which plans the TensorRT engine takes on which machines, and what runs instead of those that it does not take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from server.contract.errors import EngineUnavailable
from server.engines import create_engine
from server.engines.onnxruntime_ import OnnxRuntimeEngine
from server.engines.tensorrt_ import TensorRtEngine
from server.engines.tensorrt_plan import fits
from server.repository import Bundle, load_bundle
from tests.server import fake_cuda, fake_tensorrt
from tests.server.plan_bundle import PROFILES, write_plan_bundle
from tests.server.running import write_bundle
from tests.server.tiny_onnx import tiny_onnx


def unavailable(bundle: Path, *words: str) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        create_engine("tensorrt", load_bundle(bundle))
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param({"tensorrt": "11.2.0.14"}, ["11.2.0.14 only", "11.1.0.106 is"], id="another TensorRT"),
        pytest.param({"tensorrt": "11.2+"}, ["11.2 and later"], id="an older TensorRT than a compatible plan's"),
        pytest.param({"compute_capability": "8.9"}, ["8.9 only", "H100", "9.0"], id="another GPU"),
        pytest.param({"compute_capability": "10.0+"}, ["10.0 and later"], id="an older GPU than a compatible plan's"),
        pytest.param({"profiles": PROFILES[:2]}, ["canvas"], id="a canvas without a profile"),
        pytest.param({"plan": b"no plan"}, ["Magic tag does not match."], id="corrupted"),
        pytest.param({"plan": b""}, ["Magic tag does not match."], id="empty"),
    ],
)
def test_plans_that_do_not_fit(
    tmp_path: Path, tensorrt: fake_tensorrt.TensorRt, entry: dict[str, Any], words: list[str]
) -> None:
    bundle = write_plan_bundle(tmp_path / "plan", **entry)
    unavailable(bundle, "model.plan", *words, f"maskline build --weights WEIGHTS --engine tensorrt --output {bundle}")
    assert tensorrt.cuda.held() == []


def test_plan_of_another_model(tmp_path: Path, tensorrt: fake_tensorrt.TensorRt) -> None:
    bundle = write_plan_bundle(tmp_path / "plan")
    text = (bundle / "model.json").read_text()
    (bundle / "model.json").write_text(text.replace('"dtype":"uint8"', '"dtype":"float32"'))
    unavailable(bundle, "images uint8", "maskline build")


def test_bundle_without_a_plan(tmp_path: Path, tensorrt: fake_tensorrt.TensorRt) -> None:
    bundle = write_bundle(tmp_path / "tiny", tiny_onnx())
    unavailable(bundle, "no file for the engine tensorrt", f"--engine tensorrt --output {bundle}")


@pytest.mark.parametrize("module", ["tensorrt", "cuda.bindings"])
def test_packages_that_are_not_installed(
    plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    unavailable(plan_bundle.path, "pip install 'maskline[tensorrt]'")


@pytest.mark.parametrize("error", ["cudaErrorNoDevice", "cudaErrorInsufficientDriver"])
def test_no_gpu(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt, error: str) -> None:
    tensorrt.cuda.failures["cudaGetDeviceCount"] = fake_cuda.cudaError_t[error]
    unavailable(plan_bundle.path, error, "nvidia-smi", "--engine onnxruntime")


def test_too_little_memory(plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt) -> None:
    tensorrt.cuda.failures["cudaHostAlloc"] = fake_cuda.cudaError_t.cudaErrorMemoryAllocation
    unavailable(plan_bundle.path, "H100", "out of memory", "--max-batch")
    assert tensorrt.cuda.held() == []


@pytest.fixture
def no_plugins(tensorrt: fake_tensorrt.TensorRt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tensorrt.has_plugins = False
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(tmp_path / "nothing.so"))


@pytest.mark.usefixtures("no_plugins")
def test_no_plugin_library(plan_bundle: Bundle) -> None:
    unavailable(plan_bundle.path, "nothing.so", "make plugins")


@pytest.mark.usefixtures("no_plugins")
def test_only_compatible_plans_run_the_programs_that_they_carry(
    tmp_path: Path, tensorrt: fake_tensorrt.TensorRt
) -> None:
    compatible = write_plan_bundle(tmp_path / "compatible", tensorrt="10.9.0+", compute_capability="8.0+")
    TensorRtEngine(load_bundle(compatible)).close()
    tensorrt.has_plugins = True
    TensorRtEngine(load_bundle(write_plan_bundle(tmp_path / "other"))).close()
    assert tensorrt.ran_code == [True, False]


@pytest.mark.parametrize(
    ("plan", "here", "does"),
    [
        ("11.1.0.106", "11.1.0.106", True),
        ("11.1.0.106", "11.1.0", True),
        ("11.1", "11.1.0.106", True),
        ("11.1.0.106", "11.1.0.107", False),
        ("11.1.0.106", "11.2.0.106", False),
        ("10.7.0", "10.7.0.post1", True),
        ("10.9.0.34+", "10.10.0.31", True),
        ("10.9.0.34+", "11.0", True),
        ("10.10.0+", "10.9.0.34", False),
        ("9.0", "9.0", True),
        ("8.0+", "9.0", True),
        ("8.0+", "7.5", False),
        ("8.9", "8.6", False),
    ],
)
def test_which_versions_fit(plan: str, here: str, does: bool) -> None:
    assert fits(plan, here) is does


# What `auto` takes


def engine_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "server.engines"]


def test_auto_takes_the_plan(
    plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(create_engine("auto", plan_bundle), TensorRtEngine)
    assert engine_lines(caplog) == []


def test_auto_passes_over_a_plan_and_says_why(
    plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.cuda.failures["cudaGetDeviceCount"] = fake_cuda.cudaError_t.cudaErrorNoDevice
    assert isinstance(create_engine("auto", plan_bundle, threads=1), OnnxRuntimeEngine)
    (line,) = engine_lines(caplog)
    assert "on 1 CPU thread" in line
    assert "cudaErrorNoDevice" in line


def test_auto_says_why_nothing_runs(
    plan_bundle: Bundle, tensorrt: fake_tensorrt.TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt.cuda.failures["cudaGetDeviceCount"] = fake_cuda.cudaError_t.cudaErrorNoDevice
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match=r"cudaErrorNoDevice.* ONNX Runtime cannot run it instead: .*not inst"):
        create_engine("auto", plan_bundle)


@pytest.mark.usefixtures("cuda")
def test_auto_is_silent_without_a_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "tiny", tiny_onnx()))
    assert isinstance(create_engine("auto", bundle, threads=1), OnnxRuntimeEngine)
    assert engine_lines(caplog) == []
