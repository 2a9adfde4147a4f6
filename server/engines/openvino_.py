"""OpenVINO, on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.contract.errors import BundleError, EngineFailed, EngineUnavailable
from server.engines.base import Canvases, Detections, Float32
from server.engines.onnxruntime_ import usable_cpus
from server.repository import Bundle, rebuild

if TYPE_CHECKING:
    import openvino

TELEMETRY = "openvino_telemetry"


class OpenVinoEngine:
    """Runs a bundle's OpenVINO file.

    Args:
        bundle: needs a file for the engine `openvino`.
        threads: CPU threads; None: as many as this process may use.

    Raises:
        EngineUnavailable: the package is missing, or the bundle has no such file.
        BundleError: the runtime refuses the file.
    """

    max_batch: int | None = None

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        runtime = _import_runtime()
        path, _ = bundle.file_for("openvino")
        threads = threads or usable_cpus()
        self.card = bundle.card
        self._request: openvino.InferRequest | None = _compile(runtime, path, threads)
        version = runtime.__version__.partition("-")[0]
        self.description = f"OpenVINO {version} on {threads} CPU thread{'s' * (threads > 1)}"

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if self._request is None:
            raise EngineFailed("The engine is closed.")
        try:
            found = self._request.infer({"images": images, "windows": windows}, share_inputs=True)
        except Exception as error:  # the runtime's own errors have no base but this
            sentence = f"OpenVINO failed on a batch of {len(images)}: {_first_line(error)}."
            raise EngineFailed(sentence) from error
        return Detections(found["detections"], found["masks"])

    def close(self) -> None:
        self._request = None


def is_installed() -> bool:
    """Whether this machine has it; its wheels are for x86-64 and some others."""
    try:
        _import_runtime()
    except EngineUnavailable:
        return False
    return True


def _import_runtime() -> Any:
    """Without the package beside it that would tell its maker of every start."""
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable("OpenVINO is not installed: pip install 'maskline[openvino]'.") from error
    return openvino


def _compile(runtime: Any, path: Path, threads: int) -> openvino.InferRequest:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the decoding threads need the same CPUs
        "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16, that would be the default
    }
    try:
        return runtime.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise BundleError(f"OpenVINO cannot load {path}: {_first_line(error)}. {rebuild(path.parent)}") from error


def _first_line(error: Exception) -> str:
    """Its messages begin with where in its source they come from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0].rstrip(".:")
