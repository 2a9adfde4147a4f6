"""OpenVINO, on a CPU."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.contract.errors import BundleError, EngineFailed, EngineUnavailable
from server.engines.base import Canvases, Detections, Float32
from server.engines.onnxruntime_ import usable_cpus
from server.repository import Bundle, rebuild

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger("server.engines")

TELEMETRY = "openvino_telemetry"

FAST_S = 0.01
"""Seconds a picture. A shape of its own saves about 0.4 ms of working out sizes, which slower networks do not feel."""
OFTEN = 20
"""Runs of a shape until it is compiled for itself, which takes some tenths of a second of one CPU."""
MOST_SHAPES = 8
"""Each takes some 20 MiB."""

Shape = tuple[int, ...]


class OpenVinoEngine:
    """Runs a bundle's OpenVINO file.

    Args:
        bundle: needs a file for the engine `openvino`.
        threads: CPU threads; None: as many as this process may use.
        own_shapes: whether shapes that come often may be compiled for themselves, where that makes a fast network
            faster. Their answers may differ in the last bits from then on.

    Raises:
        EngineUnavailable: the package is missing, or the bundle has no such file.
        BundleError: the runtime refuses the file.
    """

    max_batch: int | None = None

    def __init__(self, bundle: Bundle, *, threads: int | None = None, own_shapes: bool = False) -> None:
        runtime = _import_runtime()
        path, _ = bundle.file_for("openvino")
        threads = threads or usable_cpus()
        self.card = bundle.card
        self._file = _File(runtime, path, threads)
        # OpenVINO gives the thread that compiles first another stack for signals, and unmaps it when it is unloaded, in
        # whatever thread. The next signal would end the process, so that thread ends before.
        with ThreadPoolExecutor(1, "openvino") as thread:
            self._request: openvino.InferRequest | None = thread.submit(self._file.compile).result()
        self._own_shapes = _OwnShapes(self._file) if own_shapes else None
        version = runtime.__version__.partition("-")[0]
        self.description = f"OpenVINO {version} on {threads} CPU thread{'s' * (threads > 1)}"

    @property
    def own_shapes(self) -> list[Shape]:
        """Shapes of batches that have been compiled for themselves."""
        return [] if self._own_shapes is None else list(self._own_shapes.requests)

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if self._request is None:
            raise EngineFailed("The engine is closed.")
        own = self._own_shapes.requests.get(images.shape) if self._own_shapes else None
        started = time.monotonic()
        try:
            found = (own or self._request).infer({"images": images, "windows": windows}, share_inputs=True)
        except Exception as error:  # the runtime's own errors have no base but this
            sentence = f"OpenVINO failed on a batch of {len(images)}: {_first_line(error)}."
            raise EngineFailed(sentence) from error
        if self._own_shapes and own is None:
            self._own_shapes.saw(images.shape, time.monotonic() - started)
        return Detections(found["detections"], found["masks"])

    def close(self) -> None:
        self._request = None
        if self._own_shapes:
            self._own_shapes.close()


class _OwnShapes:
    """Requests for batches of one shape. They are compiled in a thread, while the batches run as any others do."""

    def __init__(self, file: _File) -> None:
        self.requests: dict[Shape, openvino.InferRequest] = {}
        self._file = file
        self._runs: Counter[Shape] = Counter()
        self._begun = 0
        self._thread = ThreadPoolExecutor(1, "openvino")

    def saw(self, shape: Shape, seconds: float) -> None:
        """A batch of that shape took so long without a request of its own."""
        if self._begun == MOST_SHAPES or seconds > FAST_S * shape[0]:
            return
        self._runs[shape] += 1
        if self._runs[shape] == OFTEN:
            self._begun += 1
            self._thread.submit(self._compile, shape)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.requests.clear()

    def _compile(self, shape: Shape) -> None:
        try:
            self.requests[shape] = self._file.compile(shape)
        except BundleError as error:
            logger.warning("%s goes on without a program of its own for %s", error, shape)


class _File:
    """A bundle's OpenVINO file, to be compiled."""

    def __init__(self, runtime: Any, path: Path, threads: int) -> None:
        self._core = runtime.Core()
        self._path = path
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the decoding threads need the same CPUs
            "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16, that would be the default
        }

    def compile(self, shape: Shape | None = None) -> openvino.InferRequest:
        """For batches of that shape, or of any. Raises `BundleError`."""
        try:
            model = self._core.read_model(str(self._path))
            if shape is not None:
                model.reshape({"images": list(shape), "windows": [shape[0], 4]})
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            rebuilt = rebuild(self._path.parent)
            raise BundleError(f"OpenVINO cannot load {self._path}: {_first_line(error)}. {rebuilt}") from error


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


def _first_line(error: Exception) -> str:
    """Its messages begin with where in its source they come from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0].rstrip(".:")
