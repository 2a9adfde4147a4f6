"""A TensorRT plan from a bundle's ONNX file, through NVIDIA's parser and builder (TensorRT 10.7 to 11).

Networks are strongly typed, so that the graph says the precision, and TF32 is off, so that fp32 is fp32. A plan has one
optimization profile a canvas, of fixed height and width, for batches of 1 to `max_batch`. It fits the GPU and the
TensorRT that built it, unless the request widens that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export import tensorrt_machine
from export.tensorrt_machine import PlanError, logger_of, no_gpu, usable_tensorrt
from export.tensorrt_progress import phase_bars, progress_monitor, run_stoppable
from plugins.loader import library_path
from server.contract.card import Canvas, Profile

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_MAX_BATCH = 8

GIB = 2**30

TOLD = 3
"""Errors that are told beside the one that ended the build."""

Hardware = Literal["ampere+", "same"]

_HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}

_LESS_MEMORY = "A smaller --max-batch, fewer or smaller --canvas, or more --workspace-gib may help."

_ADVICE = {
    "insufficient workspace": _LESS_MEMORY,
    "out of memory": _LESS_MEMORY,
    "outofmemory": _LESS_MEMORY,
    "insufficient memory": _LESS_MEMORY,
    "exceeds 2147483647": _LESS_MEMORY,  # elements of one tensor
    "nvinfer_lean": "--version-compatible puts TensorRT's lean runtime into the plan; the GPU image has it.",
}
"""What may mend a build, by what TensorRT's errors hold, in lower case."""


@dataclass(frozen=True)
class PlanRequest:
    """What the plan shall take and where it shall run."""

    profiles: list[Profile]
    workspace_gib: float | None = None
    """Limit of TensorRT's scratch memory; None: what the GPU has."""
    timing_cache: Path | None = None
    """File with the timings of earlier builds, which is brought up to date."""
    version_compatible: bool = False
    """For this TensorRT and later ones; the plan then carries the plugin library."""
    hardware_compatible: Hardware | None = None
    """For all GPUs since Ampere, or all of the same compute capability; None: this model of GPU."""


@dataclass(frozen=True)
class Plan:
    """A serialized engine, and what the card has to say of it (see `server.contract.card.BundleFile`)."""

    data: bytes = field(repr=False)
    tensorrt: str
    compute_capability: str
    profiles: list[Profile]
    warnings: list[str]


def profiles_of(canvases: list[Canvas], max_batch: int) -> list[Profile]:
    return [Profile(canvas=canvas, max_batch=max_batch) for canvas in canvases]


def check_machine(timing_cache: Path | None, hardware_compatible: Hardware | None) -> None:
    """Raises `PlanError` where this machine cannot build such a plan: to be asked before anything is made for it."""
    trt = usable_tensorrt()
    levels = trt.HardwareCompatibilityLevel
    if hardware_compatible is not None and not hasattr(levels, _HARDWARE_LEVELS[hardware_compatible]):
        raise PlanError(
            f"TensorRT {trt.__version__} has no --hardware-compatible {hardware_compatible}; later versions have it."
        )
    if timing_cache is not None and not timing_cache.absolute().parent.is_dir():
        raise PlanError(f"--timing-cache {timing_cache} cannot be written: there is no such folder.")
    tensorrt_machine.compute_capability()


def build_plan(onnx_file: Path, request: PlanRequest, console: Console) -> Plan:
    """Builds the plan, minutes on a GPU; phases are shown on the console.

    Raises `PlanError`: the machine lacks something, or TensorRT cannot take the graph; `KeyboardInterrupt` on Ctrl-C,
    once TensorRT has stopped.
    """
    trt = usable_tensorrt()
    capability = tensorrt_machine.compute_capability()
    with phase_bars(console) as bars:
        monitor = progress_monitor(trt, bars)
        # All in one thread: parts of TensorRT keep to the thread that made them.
        data, warnings = run_stoppable(lambda: _serialized(trt, onnx_file, request, monitor), monitor.stop)
    return Plan(
        data=data,
        tensorrt=tensorrt_machine.version(trt) + "+" * request.version_compatible,
        compute_capability="8.0+" if request.hardware_compatible == "ampere+" else capability,
        profiles=request.profiles,
        warnings=warnings,
    )


def _serialized(trt: Any, onnx_file: Path, request: PlanRequest, monitor: Any) -> tuple[bytes, list[str]]:
    """The plan, and what TensorRT warns of and what there is to say of the timing cache."""
    log = logger_of(trt)
    log.taken()  # what earlier work left
    builder = _builder(trt, log)
    network = _parsed(trt, builder, onnx_file, log)
    config = _configured(trt, builder, request)
    config.progress_monitor = monitor
    remarks = _start_cache(config, request.timing_cache, log)
    data = builder.build_serialized_network(network, config)
    errors, warnings = log.taken()
    if data is None:
        raise PlanError(_failure(errors))
    return bytes(data), [*warnings, *remarks, *_save_cache(config, request.timing_cache)]


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # how the bindings say that the library made none
        errors, _ = log.taken()
        raise no_gpu(_line(errors[0]) if errors else "TensorRT makes no builder") from error


def _parsed(trt: Any, builder: Any, onnx_file: Path, log: Any) -> Any:
    # TensorRT 10 infers types of its own without this flag; 11 always does as the graph says.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        raise PlanError(f"TensorRT {trt.__version__} cannot read the graph: {_parse_error(parser, log)}")
    return network


def _parse_error(parser: Any, log: Any) -> str:
    if not parser.num_errors:
        errors, _ = log.taken()
        return _line(errors[0]) if errors else "it does not say why."
    error = parser.get_error(0)
    where = f" (node {error.node_name()}, {error.node_operator()})" if error.node_name() else ""
    return f"{_line(error.desc()).rstrip('.')}{where}."


def _configured(trt: Any, builder: Any, request: PlanRequest) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for profile in request.profiles:
        config.add_optimization_profile(_optimization_profile(builder, profile))
    if request.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(request.workspace_gib * GIB))
    if request.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.plugins_to_serialize = [str(library_path())]
    if request.hardware_compatible is not None:
        level = _HARDWARE_LEVELS[request.hardware_compatible]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    return config


def _optimization_profile(builder: Any, wanted: Profile) -> Any:
    """Tuned for full batches: those are what a busy server runs."""
    profile, (h, w), most = builder.create_optimization_profile(), wanted.canvas, wanted.max_batch
    profile.set_shape("images", (1, h, w, 3), (most, h, w, 3), (most, h, w, 3))
    profile.set_shape("windows", (1, 4), (most, 4), (most, 4))
    return profile


def _failure(errors: list[str]) -> str:
    """The builder's own sentence is its last; those before tell where it comes from."""
    reasons = [_line(error) for error in [*errors[-1:], *errors[:-1][:TOLD]]] or ["it does not say why."]
    advice = next((_ADVICE[sign] for sign in _ADVICE for error in errors if sign in error.lower()), "")
    return f"TensorRT could not build the plan: {' '.join(reasons)} {advice}".rstrip()


def _start_cache(config: Any, file: Path | None, log: Any) -> list[str]:
    """Gives the builder the timings of the file; returns what there is to say of it."""
    if file is None:
        return []
    known = _read_cache(file)
    earlier = config.create_timing_cache(known) if known else None
    if earlier is not None and config.set_timing_cache(earlier, False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), False)
    log.taken()
    return [f"{file} is no timing cache of this GPU and this TensorRT; it was started anew."] if known else []


def _read_cache(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise PlanError(f"--timing-cache {file} cannot be read: {error.strerror or error}.") from error


def _save_cache(config: Any, file: Path | None) -> list[str]:
    """Replaces the file whole or not at all; a plan is not lost for a cache that cannot be written."""
    if file is None:
        return []
    try:
        _write_whole(file.absolute(), bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        return [f"--timing-cache {file} could not be written: {error.strerror or error}."]
    return []


def _write_whole(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _line(message: str) -> str:
    """TensorRT's message, on one line and without blanks at its ends."""
    return " ".join(message.split())
