from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from server.contract.errors import BundleError, EngineFailed, EngineLost, EngineUnavailable
from server.engines import EngineName, create_engine, onnxruntime_
from server.engines.base import Detections
from server.engines.fake import FakeEngine
from server.engines.onnxruntime_ import OnnxRuntimeEngine, usable_cpus
from server.repository import Bundle, load_bundle
from tests.server.running import noise, write_bundle
from tests.server.tiny_onnx import MASK_SIZE, tiny_onnx

CPU_ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "tiny", tiny_onnx()))


@pytest.fixture
def both(tmp_path: Path) -> Bundle:
    """A bundle with a file for each of the engines of a CPU."""
    folder = write_bundle(tmp_path / "both", tiny_onnx())
    card = load_bundle(folder).card
    files = [card.files[0].model_copy(update={"engine": engine}) for engine in CPU_ENGINES]
    (folder / "model.json").write_text(card.model_copy(update={"files": files}).model_dump_json())
    return load_bundle(folder)


@pytest.fixture(params=CPU_ENGINES)
def engine_name(request: pytest.FixtureRequest) -> EngineName:
    name: EngineName = request.param
    pytest.importorskip(name)
    return name


def test_each_picture_gets_its_rows(both: Bundle, engine_name: EngineName) -> None:
    engine = create_engine(engine_name, both, threads=1)
    assert engine.description.endswith("on 1 CPU thread")
    images = np.stack([noise(i, (32, 64)) // (i + 1) for i in range(3)])
    windows = np.array([[0, 0, 64, 32], [0, 0, 60, 30], [1, 2, 3, 4]], np.float32)
    found = engine.infer(images, windows)
    for i in range(3):
        own = found.of_image(i)
        np.testing.assert_allclose(own.detections, [[i, *windows[i], images[i].mean() / 255, 1]], rtol=1e-5)
        assert own.masks.shape == (1, MASK_SIZE, MASK_SIZE)
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.infer(images, windows)


def test_an_answer_is_not_overwritten_by_the_next(both: Bundle, engine_name: EngineName) -> None:
    engine = create_engine(engine_name, both, threads=1)
    window = np.array([[0, 0, 64, 32]], np.float32)
    white = engine.infer(np.full((1, 32, 64, 3), 255, np.uint8), window)
    engine.infer(np.zeros((1, 32, 64, 3), np.uint8), window)
    assert white.detections[0, 5] == 1


class SignalStack(ctypes.Structure):
    """C's stack_t."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> int | None:
    """Address of this thread's stack for signals."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    address: int | None = found.address
    return address


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO does this on Linux only")
def test_signals_have_the_stack_that_they_had(both: Bundle, engine_name: EngineName) -> None:
    before = signal_stack()
    engine = create_engine(engine_name, both, threads=1)
    assert signal_stack() == before
    engine.close()


def test_failure_is_typed_and_short(both: Bundle, engine_name: EngineName) -> None:
    engine = create_engine(engine_name, both, threads=1)
    with pytest.raises(EngineFailed, match="batch of 1") as caught:
        engine.infer(np.zeros((1, 32, 32, 4), np.uint8), np.zeros((1, 4), np.float32))
    assert "\n" not in str(caught.value)


def test_auto_takes_openvino_where_it_is_installed(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    assert create_engine("auto", both).description.startswith("OpenVINO")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert create_engine("auto", both).description.startswith("ONNX Runtime")


def test_auto_takes_cuda_before_openvino(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime_, "_open_session", lambda *_: None)
    monkeypatch.setattr(onnxruntime_, "_device", lambda *_: "a GPU with CUDA")
    assert create_engine("auto", both).description.endswith("on a GPU with CUDA")


def test_openvino_tells_nobody_of_its_use() -> None:
    """Its package comes with another that reports each import over the network."""
    pytest.importorskip("openvino")
    script = (
        "import sys; from server.engines import openvino_; assert openvino_.is_installed(); "
        "assert 'openvino' in sys.modules and not any('openvino_telemetry.' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "script",
    [
        "import sys; from server.pipeline import Pipeline; Pipeline.open(sys.argv[1], 'onnxruntime').warm_up()",
        "import export.graph.int8",
    ],
)
def test_onnxruntime_tells_nobody_of_its_use(bundle: Bundle, tmp_path: Path, script: str) -> None:
    """Its package for Linux reports to its maker, and begins with an id of the machine in the user's cache."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-c", script, str(bundle.path)]
    subprocess.run(command, check=True, env={**environment, "HOME": str(home)}, timeout=120)
    assert not list(home.rglob("*onnxruntime*"))


def test_onnxruntime_on_a_lost_gpu_says_so_and_is_not_asked_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OnnxRuntimeEngine(bundle, threads=1)
    inputs = (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 4), np.float32))

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h")

    with monkeypatch.context() as patched:
        patched.setattr("onnxruntime.InferenceSession.run", fail)
        with pytest.raises(EngineLost, match=r"illegal memory access.*started anew"):
            engine.infer(*inputs)
    with pytest.raises(EngineLost):
        engine.infer(*inputs)


def test_file_that_is_no_model(tmp_path: Path, engine_name: EngineName) -> None:
    broken = load_bundle(write_bundle(tmp_path / "broken", b"not an ONNX file", engine_name))
    with pytest.raises(BundleError, match=r"cannot load .*model\.onnx: .*maskline build") as caught:
        create_engine(engine_name, broken)
    assert "\n" not in str(caught.value)


def test_missing_runtime_names_the_extra(
    both: Bundle, engine_name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, engine_name, None)
    with pytest.raises(EngineUnavailable, match=rf"pip install 'maskline\[{EXTRAS[engine_name]}\]'"):
        create_engine(engine_name, both)


def test_runtime_installed_twice(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_, "distribution", lambda name: metadata.distribution("numpy"))
    with pytest.raises(EngineUnavailable, match="overwrite"):
        create_engine("auto", bundle)


@pytest.mark.parametrize("name", ["openvino", "tensorrt"])
def test_a_bundle_without_a_file_for_the_engine_says_so(bundle: Bundle, name: EngineName) -> None:
    with pytest.raises(EngineUnavailable, match=rf"no file for the engine {name}.*Build it again"):
        create_engine(name, bundle)


def test_usable_cpus() -> None:
    assert usable_cpus() >= 1


@pytest.mark.parametrize(
    ("text", "cpus"), [("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("max 100000\n", None), ("", None)]
)
def test_container_quota(tmp_path: Path, text: str, cpus: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    quota = onnxruntime_.cgroup_cpus(tmp_path / "cpu.max")
    assert quota == cpus if cpus is not None else quota > 1000
    assert onnxruntime_.cgroup_cpus(tmp_path / "nothing") > 1000


def test_padding_rows_are_dropped() -> None:
    rows = np.array([[0, 1, 1, 2, 2, 0.9, 1], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 2, 2, 0.8, 1]], np.float32)
    found = Detections(rows, np.zeros((3, 4, 4), np.float32))
    assert [len(found.of_image(i).detections) for i in range(3)] == [1, 1, 0]


def test_fake_engine_answers_alike_in_any_batch() -> None:
    engine = FakeEngine()
    images = np.stack([noise(i, (32, 32)) for i in range(4)])
    windows = np.tile(np.array([0, 0, 32, 32], np.float32), (4, 1))
    together = engine.infer(images, windows)
    for i in range(4):
        alone = engine.infer(images[i : i + 1], windows[:1])
        np.testing.assert_array_equal(together.detections[i, 1:], alone.detections[0, 1:])
