"""TensorRT on an NVIDIA GPU."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, closing

import numpy as np

from server.contract.errors import EngineFailed, EngineLost, EngineUnavailable
from server.engines.base import Canvases, Detections, Float32
from server.engines.cuda_ import Cuda
from server.engines.tensorrt_plan import check_fits, deserialize, import_tensorrt
from server.engines.tensorrt_run import LoadedPlan, Run
from server.repository import Bundle

logger = logging.getLogger("server.engines")


class TensorRtEngine:
    """Runs a bundle's plan on a GPU.

    It takes the canvases of the plan's profiles, in batches of 1 to `max_batch`. The memory of all tensors is allocated
    here; the first run of a batch size on a canvas makes an execution context and a CUDA graph for it, and later runs
    allocate nothing on the device. Once an error of CUDA has cost the process its GPU, every call raises `EngineLost`.

    Args:
        bundle: needs a file for the engine `tensorrt`. Where that file's TensorRT version ends with "+", loading it
            runs programs that it carries (see `server.engines.tensorrt_plan.deserialize`).
        device: the GPU, as this process counts them (CUDA_VISIBLE_DEVICES chooses and orders them).

    Raises:
        EngineUnavailable: a package, the GPU, the library of our plugins or the plan is missing, or the plan was built
            by another TensorRT, for other GPUs, or does not load. The message says what to do.
    """

    def __init__(self, bundle: Bundle, *, device: int = 0) -> None:
        path, entry = bundle.file_for("tensorrt")
        trt = import_tensorrt()
        profiles = entry.profiles or []
        self.card = bundle.card
        self.max_batch: int | None = min(profile.max_batch for profile in profiles)
        self._lock = threading.Lock()
        self._closed = False
        self._lost: str | None = None
        self._replays = True
        with ExitStack() as undo:
            self._cuda = undo.enter_context(closing(Cuda(device)))
            gpu, capability = self._cuda.device, self._cuda.compute_capability
            check_fits(path, entry, trt.__version__, capability, gpu)
            engine = deserialize(trt, path, entry, bundle.card)
            try:
                self._plan = LoadedPlan(trt, engine, self._cuda, bundle.card, profiles)
            except EngineFailed as error:
                raise EngineUnavailable(
                    f"{gpu} cannot hold {path}: {error} nvidia-smi lists who uses its memory; a plan for fewer "
                    "canvases or with a smaller --max-batch needs less."
                ) from error
            undo.pop_all()
        self.description = f"TensorRT {trt.__version__} {entry.precision} on {gpu} ({capability})"

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        with self._lock:
            self._check_usable()
            try:
                return self._infer(images, windows)
            except EngineLost as error:
                self._lost = str(error)
                raise

    def close(self) -> None:
        """Waits for a batch that runs, and frees the device."""
        with self._lock:
            self._closed = True
            self._cuda.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise EngineFailed("The engine is closed.")
        if self._lost is not None:
            raise EngineLost(self._lost)

    def _infer(self, images: Canvases, windows: Float32) -> Detections:
        self._cuda.make_current()  # the engine may have been made in another thread than it runs in
        count, h, w, _ = images.shape
        run = self._plan.run_of(count, (h, w))
        for name, values in (("images", images), ("windows", windows)):
            np.copyto(self._plan.tensors[name].view(run.shapes[name]), values)
        run()
        found = self._found(run)
        if self._replays and run.graph is None:
            self._capture(run)
        return found

    def _found(self, run: Run) -> Detections:
        """Copies of the rows that are no padding: the next batch overwrites the memory that they are in."""
        detections, masks = (self._plan.tensors[name].view(run.shapes[name]) for name in ("detections", "masks"))
        rows = np.flatnonzero(detections[:, 5] > 0)
        return Detections(detections[rows], masks[rows])

    def _capture(self, run: Run) -> None:
        try:
            run.capture()
        except EngineLost:
            raise
        except EngineFailed as error:
            self._replays = False
            logger.warning("Batches go to the GPU without CUDA graphs, which costs time on its CPU: %s", error)
