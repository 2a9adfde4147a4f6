"""Building plans: what TensorRT is told, and what a person is told, with a module that only remembers.

Then NVIDIA's own parser and builder, as TensorRT for RTX, which needs no GPU.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from export.tensorrt_machine import PlanError
from export.tensorrt_plan import Plan, PlanRequest, build_plan, check_machine, profiles_of
from server.contract.card import Profile
from tests.export.fake_tensorrt import fake_tensorrt
from tests.plugins.rtx import require_library, require_rtx, run_python

PROFILES = profiles_of([(64, 96), (96, 64)], 4)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Puts a fake TensorRT of a version, and a GPU of compute capability 9.0, on this machine."""

    def put(version: str = "11.4.0.106") -> Any:
        trt = fake_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        return trt

    put_cuda(monkeypatch, 0, 9, 0)
    return put


@pytest.fixture
def trt(install: Callable[[], Any]) -> Any:
    return install()


def put_cuda(monkeypatch: pytest.MonkeyPatch, status: int, *capability: int) -> None:
    runtime: Any = ModuleType("runtime")
    runtime.cudaError_t = SimpleNamespace(cudaSuccess=0)
    names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
    runtime.cudaDeviceAttr = SimpleNamespace(**dict(zip(names, (0, 1), strict=True)))
    runtime.cudaDeviceGetAttribute = lambda which, device: (status, None if status else capability[which])
    runtime.cudaGetErrorString = lambda error: (0, b"no CUDA-capable device is detected")
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = runtime
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)


def built(console: Console | None = None, **options: Any) -> Plan:
    return build_plan(Path("model.onnx"), PlanRequest(PROFILES, **options), console or Console(file=io.StringIO()))


def test_a_profile_for_each_canvas(trt: Any) -> None:
    plan = built()
    assert trt.behaviour.profiles == [
        {"images": ((1, 64, 96, 3), (4, 64, 96, 3), (4, 64, 96, 3)), "windows": ((1, 4), (4, 4), (4, 4))},
        {"images": ((1, 96, 64, 3), (4, 96, 64, 3), (4, 96, 64, 3)), "windows": ((1, 4), (4, 4), (4, 4))},
    ]
    assert plan == Plan(b"a plan", "11.4.0.106", "9.0", [Profile(canvas=(64, 96), max_batch=4), PROFILES[1]], [])


def test_the_graph_says_the_precision(trt: Any) -> None:
    built()
    assert trt.behaviour.network_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.behaviour.flags == set()  # TF32 is on unless it is cleared
    assert trt.behaviour.limits == {}


def test_a_limit_of_the_workspace(trt: Any) -> None:
    built(workspace_gib=1.5)
    assert trt.behaviour.limits == {trt.MemoryPoolType.WORKSPACE: 1_610_612_736}


def test_a_plan_for_later_versions_carries_the_plugins(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "plugins.so"
    library.touch()
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(library))
    assert built(version_compatible=True).tensorrt == "11.4.0.106+"
    assert trt.behaviour.flags == {trt.BuilderFlag.VERSION_COMPATIBLE}
    assert trt.behaviour.config.plugins_to_serialize == [str(library)]


@pytest.mark.parametrize(
    ("wanted", "level", "fits"), [("ampere+", "AMPERE_PLUS", "8.0+"), ("same", "SAME_COMPUTE_CAPABILITY", "9.0")]
)
def test_a_plan_for_other_gpus(trt: Any, wanted: str, level: str, fits: str) -> None:
    assert built(hardware_compatible=wanted).compute_capability == fits
    assert trt.behaviour.config.hardware_compatibility_level.name == level


def test_what_tensorrt_warns_of_is_handed_on_once(trt: Any) -> None:
    trt.behaviour.warnings = ["Unused input: x", "Unused input: x"]
    assert built().warnings == ["Unused input: x"]
    trt.behaviour.warnings = []
    assert built().warnings == []


def test_the_timing_cache_is_read_and_brought_up_to_date(trt: Any, tmp_path: Path) -> None:
    file = tmp_path / "timings"
    assert built(timing_cache=file).warnings == []
    assert built(timing_cache=file).warnings == []
    assert trt.behaviour.caches == [b"", b" and new timings"]
    assert file.read_bytes() == b" and new timings and new timings"
    assert list(tmp_path.iterdir()) == [file]


def test_a_timing_cache_of_another_gpu_is_started_anew(trt: Any, tmp_path: Path) -> None:
    file = tmp_path / "timings"
    file.write_bytes(b"of another GPU")
    trt.behaviour.cache_fits = False
    (remark,) = built(timing_cache=file).warnings
    assert "is no timing cache of this GPU and this TensorRT; it was started anew." in remark
    assert file.read_bytes() == b" and new timings"


def test_a_plan_is_not_lost_for_a_timing_cache_that_cannot_be_written(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "timings"
    trt.behaviour.phases = [("Building", None, 1)]
    trt.behaviour.on_step = lambda: file.mkdir()
    plan = built(timing_cache=file)
    assert plan.data == b"a plan"
    assert "could not be written" in plan.warnings[0]
    with pytest.raises(PlanError, match="cannot be read"):
        built(timing_cache=file)


def test_phases_are_shown_one_inside_the_other(trt: Any) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    trt.behaviour.phases = [("Building engine", None, 3), ("Timing [conv]", "Building engine", 2)]
    built(screen)
    assert trt.behaviour.steps_taken == 5
    lines = rendered(screen).splitlines()
    assert any(line.startswith("Building engine") and "3/3" in line for line in lines)
    assert any(line.startswith("  Timing [conv]") and "2/2" in line for line in lines)


def rendered(screen: Console) -> str:
    """What was written so far, without movements of the cursor."""
    assert isinstance(screen.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", screen.file.getvalue())


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to a thread on this system")
def test_ctrl_c_ends_the_build_at_the_next_step(trt: Any) -> None:
    main = threading.main_thread().ident

    def interrupt() -> None:
        if trt.behaviour.steps_taken == 2:
            signal.pthread_kill(main, signal.SIGINT)
            told.wait(10)

    # Steps go on until the main thread has been told to stop.
    told = threading.Event()
    trt.behaviour.phases = [("Building engine", None, 10_000)]
    trt.behaviour.on_step = interrupt
    previous = signal.signal(signal.SIGINT, lambda *_: (told.set(), signal.default_int_handler(*_)))
    try:
        with pytest.raises(KeyboardInterrupt):
            built()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert trt.behaviour.steps_taken < 10_000


def test_a_graph_that_the_parser_refuses(trt: Any) -> None:
    trt.behaviour.parse_error = SimpleNamespace(
        desc=lambda: "Unsupported\n  operator.", node_name=lambda: "node_7", node_operator=lambda: "Foo"
    )
    with pytest.raises(PlanError) as error:
        built()
    message = "TensorRT 11.4.0.106 cannot read the graph: Unsupported operator (node node_7, Foo)."
    assert str(error.value) == message


def test_a_build_without_a_result_says_why(trt: Any) -> None:
    trt.behaviour.build_errors = ["no tactic for conv", "Error Code 10: no implementation\nfor node conv"]
    with pytest.raises(PlanError) as error:
        built()
    assert "could not build the plan: Error Code 10: no implementation for node conv no tactic" in str(error.value)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Requested 9 GB, OutOfMemory", "A smaller --max-batch"),
        ("... due to insufficient workspace", "more --workspace-gib"),
        ("Unable to load library: libnvinfer_lean.so.11", "the GPU image has it"),
    ],
)
def test_a_build_that_fails_for_a_known_reason_says_what_to_do(trt: Any, said: str, advice: str) -> None:
    trt.behaviour.build_errors = [said]
    with pytest.raises(PlanError, match=advice):
        built()


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        PlanError, match=r"TensorRT is not installed. Install it \(pip install 'maskline\[tensorrt\]'\)"
    ):
        check_machine(None, None)


def test_a_package_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PlanError, match=r"cannot be loaded \(libnvinfer.so.11: cannot open"):
        check_machine(None, None)


def test_a_version_that_is_too_old(install: Callable[[str], Any]) -> None:
    install("10.6.0")
    with pytest.raises(PlanError, match=r"TensorRT 10.6.0 is too old, 10.7 is the first that can be used"):
        check_machine(None, None)


def test_the_oldest_version_lacks_one_kind_of_compatibility(install: Callable[[str], Any]) -> None:
    install("10.7.0")
    check_machine(None, "ampere+")
    with pytest.raises(PlanError, match=r"TensorRT 10\.7\.0 has no --hardware-compatible same"):
        check_machine(None, "same")


def test_a_missing_plugin_library(trt: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt.get_plugin_registry = lambda: SimpleNamespace(all_creators=[])
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(PlanError, match="make plugins"):
        check_machine(None, None)


def test_a_timing_cache_without_a_folder(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be written: there is no such folder"):
        check_machine(tmp_path / "none" / "timings", None)


def test_without_a_gpu(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cuda(monkeypatch, 100)
    with pytest.raises(PlanError, match=r"none can be used here: no CUDA-capable device is detected.*--engine onnx"):
        check_machine(None, None)


def test_without_cuda_s_package(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(PlanError, match=r"CUDA's Python package is not installed"):
        check_machine(None, None)


def test_a_gpu_that_tensorrt_cannot_use(trt: Any) -> None:
    trt.behaviour.gpu = False
    with pytest.raises(PlanError, match="none can be used here: CUDA initialization failure with error: 35"):
        built()


def mini_graph(path: Path) -> Path:
    """With the inputs and outputs of a model's graph, a convolution and one of our operators."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axes"], ["masks"], keepdims=0),
        helper.make_node("ReduceMax", ["masks", "one"], ["scores"], keepdims=1),
        helper.make_node("Unsqueeze", ["windows", "one"], ["boxes"]),
        helper.make_node("Cast", ["scores"], ["groups"], to=TensorProto.INT64),
        helper.make_node("MaskRcnnNms", ["boxes", "scores", "groups"], ["kept"], domain="maskrcnn", **NMS),
        helper.make_node("Cast", ["kept"], ["detections"], to=TensorProto.FLOAT),
    ]
    constants = {"weight": np.full((4, 3, 1, 1), 0.01, np.float32), "axes": np.array([2, 3]), "one": np.array([1])}
    inputs = [("images", TensorProto.UINT8, ["n", "h", "w", 3]), ("windows", TensorProto.FLOAT, ["n", 4])]
    outputs = [("detections", TensorProto.FLOAT, ["m", 2]), ("masks", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(
        nodes,
        "mini",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("maskrcnn", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


NMS = {
    "name": "nms",
    "iou_threshold": 0.5,
    "score_threshold": -1.0,
    "max_output": 4,
    "pre_nms_topk": 0,
    "plugin_version": "1",
    "plugin_namespace": "maskrcnn",
}

IN_RTX = """
import io, json, sys, hashlib
from pathlib import Path
from rich.console import Console
from export import tensorrt_machine
from export.tensorrt_plan import PlanError, PlanRequest, build_plan, profiles_of

tensorrt_machine.compute_capability = lambda: "8.9"  # of the builder's target; there is no device to ask

def tried(file, **options):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    try:
        plan = build_plan(Path(file), PlanRequest(profiles_of([(64, 96), (96, 64)], 8), **options), screen)
    except PlanError as error:
        return {"error": str(error)}
    profiles = [profile.model_dump(mode="json") for profile in plan.profiles]
    return {"bytes": len(plan.data), "fits": [plan.tensorrt, plan.compute_capability], "profiles": profiles,
            "warnings": plan.warnings, "shown": screen.file.getvalue()}
"""


def in_rtx(folder: Path, *cases: str) -> list[dict[str, Any]]:
    """What `tried` gives for each of the argument lists, in one process where `tensorrt` is NVIDIA's RTX builder."""
    require_rtx()
    require_library()
    code = f"{IN_RTX}\nprint(json.dumps([{', '.join(f'tried({case})' for case in cases)}]))"
    done = run_python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


def test_nvidia_s_builder_takes_what_it_is_told(tmp_path: Path) -> None:
    file, cache, broken = mini_graph(tmp_path / "mini.onnx"), tmp_path / "timings", tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    lean = "version_compatible=True"
    first, again, limited, other_gpus, unreadable, without_lean = in_rtx(
        tmp_path,
        f"{str(file)!r}, timing_cache=Path({str(cache)!r})",
        f"{str(file)!r}, timing_cache=Path({str(cache)!r})",
        f"{str(file)!r}, workspace_gib=0.25",
        f"{str(file)!r}, hardware_compatible='same'",
        f"{str(broken)!r}",
        f"{str(file)!r}, {lean}",
    )
    assert first["bytes"] > 10_000
    assert first["fits"] == ["11.1.0", "8.9"]
    assert first["profiles"] == [{"canvas": [64, 96], "max_batch": 8}, {"canvas": [96, 64], "max_batch": 8}]
    assert "Building engine" in first["shown"]
    assert cache.stat().st_size > 0
    assert min(again["bytes"], limited["bytes"]) > 10_000
    assert any("setHardwareCompatibilityLevel" in warning for warning in other_gpus["warnings"])  # not in RTX
    assert "TensorRT 11.1.0 cannot read the graph: " in unreadable["error"]
    assert "could not build the plan" in without_lean["error"]  # RTX has no lean runtime
    assert "libnvinfer_lean" in without_lean["error"]


def test_nvidia_s_builder_takes_a_model_s_graph(tmp_path: Path, tiny_bundle: Path) -> None:
    (plan,) = in_rtx(tmp_path, repr(str(tiny_bundle / "model.onnx")))
    assert "error" not in plan, plan["error"]
    assert plan["bytes"] > 100_000
    assert len(plan["profiles"]) == 2
