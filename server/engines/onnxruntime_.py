"""ONNX Runtime, on a CPU or through CUDA where the installed package has it."""

from __future__ import annotations

import logging
import math
import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.contract.errors import BundleError, EngineFailed, EngineLost, EngineUnavailable
from server.engines.base import Canvases, Detections, Float32
from server.engines.cuda_ import RESTART, STICKY, check_device, gpu_count, gpu_name
from server.repository import Bundle, rebuild

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger("server.engines")

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",  # doubling, the default, takes far more than the canvases need
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE, the default, measures every convolution anew for each canvas
    "use_tf32": "0",  # fp32 means fp32; half precision is a choice of the build
}

QUIET = 3
"""Errors only: the runtime warns about every memcpy and every folded constant."""


class OnnxRuntimeEngine:
    """Runs a bundle's ONNX file.

    Args:
        bundle: needs a file for the engine `onnxruntime`.
        threads: CPU threads; None: as many as this process may use.
        device: the GPU, as this process counts them.

    Raises:
        EngineUnavailable: the package is missing or installed twice, or the bundle has no ONNX file, or there are GPUs,
            but not so many.
        BundleError: the runtime refuses the file.
    """

    max_batch: int | None = None

    def __init__(self, bundle: Bundle, *, threads: int | None = None, device: int = 0) -> None:
        runtime = _import_runtime()
        path, _ = bundle.file_for("onnxruntime")
        threads = threads or usable_cpus()
        self._lost: str | None = None
        self.card = bundle.card
        self._session: onnxruntime.InferenceSession | None = _open_session(runtime, path, threads, device)
        self.description = f"ONNX Runtime {runtime.__version__} on {_device(runtime, self._session, threads, device)}"

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if self._session is None:
            raise EngineFailed("The engine is closed.")
        if self._lost is not None:
            raise EngineLost(self._lost)
        try:
            detections, masks = self._session.run(["detections", "masks"], {"images": images, "windows": windows})
        except Exception as error:  # the runtime's own errors have no base but this
            sentence = f"ONNX Runtime failed on a batch of {len(images)}: {_first_line(error).rstrip('.')}."
            if not _has_lost_gpu(error):
                raise EngineFailed(sentence) from error
            self._lost = f"{sentence} {RESTART}"
            raise EngineLost(self._lost) from error
        return Detections(detections, masks)

    def close(self) -> None:
        self._session = None


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity mask, and its share in a container. At least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, math.ceil(cgroup_cpus(Path("/sys/fs/cgroup/cpu.max")))))


def cgroup_cpus(cpu_max: Path) -> float:
    """CPUs by the quota of cgroup v2 (`cpu.max`: microseconds or `max`, period); very many where there is none."""
    try:
        quota, period = cpu_max.read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return 2**16


def has_cuda() -> bool:
    """Whether the installed package was made for GPUs."""
    try:
        return CUDA in _import_runtime().get_available_providers()
    except EngineUnavailable:
        return False


def _import_runtime() -> Any:
    """Without the reports of every start that its package for Linux would send to its maker."""
    if _is_installed("onnxruntime") and _is_installed("onnxruntime-gpu"):
        raise EngineUnavailable(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. Remove both "
            "(pip uninstall onnxruntime onnxruntime-gpu) and install one: "
            "pip install 'maskline[cpu]' or 'maskline[gpu]'."
        )
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read at the import
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailable("ONNX Runtime is not installed: pip install 'maskline[cpu]'.") from error
    return onnxruntime


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _open_session(runtime: Any, path: Path, threads: int, device: int) -> onnxruntime.InferenceSession:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    options.enable_mem_pattern = False  # patterns are kept for each shape seen, and canvases have many
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would burn a whole CPU each
    providers = _providers(runtime, device)
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # as above
        raise BundleError(f"ONNX Runtime cannot load {path}: {_first_line(error)}. {rebuild(path.parent)}") from error


def _providers(runtime: Any, device: int) -> list[str | tuple[str, dict[str, str]]]:
    """CUDA where the package has it, then the CPU, which also takes the operators that CUDA lacks."""
    if CUDA not in runtime.get_available_providers():
        return [CPU]
    if count := gpu_count():
        check_device(device, count)  # the runtime itself would take the first GPU instead
    if hasattr(runtime, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN where pip has put them
        runtime.preload_dlls()
    return [(CUDA, {**CUDA_OPTIONS, "device_id": str(device)}), CPU]


def _device(runtime: Any, session: onnxruntime.InferenceSession, threads: int, device: int) -> str:
    """What the session runs on, for people. Says so in the log where it should be a GPU and is not."""
    if CUDA in session.get_providers():
        return f"{gpu_name(device) or 'a GPU'} with CUDA"
    cpu = f"{threads} CPU thread{'s' * (threads > 1)}"
    if CUDA in runtime.get_available_providers():
        logger.warning(
            "ONNX Runtime could not start CUDA and runs on %s. Its own message says what is missing: a driver "
            "(nvidia-smi shows it), or CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]').",
            cpu,
        )
    return cpu


def _has_lost_gpu(error: Exception) -> bool:
    told = re.search(r"CUDA failure (\d+)", str(error))
    return told is not None and int(told[1]) in STICKY


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
