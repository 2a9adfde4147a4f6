"""Running a TensorRT engine: memory that is laid out once, and a CUDA graph for each canvas and batch size.

Shape shorthand: N pictures in a batch, H x W canvas, K detections at most of a picture, S side of a mask.
"""

from __future__ import annotations

import math
from typing import Any

from server.contract.card import Canvas, ModelCard, Profile
from server.contract.errors import EngineFailed
from server.engines.cuda_ import Cuda, StagedTensor
from server.engines.tensorrt_plan import log_of

Shapes = dict[str, tuple[int, ...]]

INPUTS, OUTPUTS = ("images", "windows"), ("detections", "masks")


class LoadedPlan:
    """TensorRT's engine with the memory that all its runs share: they come one after another, on one stream.

    `tensors` hold the largest batch of the largest canvas. Everything goes when `cuda` is closed.

    Raises:
        EngineFailed: the device has no room.
    """

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, card: ModelCard, profiles: list[Profile]) -> None:
        self._trt = trt
        self._engine = engine
        self._cuda = cuda
        self._card = card
        self._profiles = profiles
        self._runs: dict[tuple[int, Canvas], Run] = {}
        self._scratch_nbytes: int = engine.device_memory_size_v2
        self._scratch = cuda.allocate(self._scratch_nbytes)
        self.tensors = self._allocated()
        cuda.on_close(self._forget)

    def run_of(self, count: int, canvas: Canvas) -> Run:
        """The run of a batch of so many pictures on that canvas. Raises `EngineFailed` where the plan has none."""
        if (count, canvas) not in self._runs:
            self._runs[count, canvas] = self._new_run(count, canvas)
        return self._runs[count, canvas]

    def _allocated(self) -> dict[str, StagedTensor]:
        largest = [self._shapes(profile.max_batch, profile.canvas) for profile in self._profiles]
        dtypes = dict.fromkeys((*INPUTS, *OUTPUTS), "float32") | {"images": self._card.input.dtype}
        return {
            name: StagedTensor(self._cuda, max((shapes[name] for shapes in largest), key=math.prod), dtype)
            for name, dtype in dtypes.items()
        }

    def _shapes(self, count: int, canvas: Canvas) -> Shapes:
        rows, side = count * self._card.output.max_detections, self._card.output.mask_size
        return {
            "images": (count, *canvas, 3),
            "windows": (count, 4),
            "detections": (rows, 7),
            "masks": (rows, side, side),
        }

    def _new_run(self, count: int, canvas: Canvas) -> Run:
        canvases = [profile.canvas for profile in self._profiles]
        if canvas not in canvases:
            known = ", ".join(f"{h}x{w}" for h, w in canvases)
            raise EngineFailed(f"The plan takes canvases (height x width) of {known}, not of {canvas[0]}x{canvas[1]}.")
        profile = canvases.index(canvas)
        if not 1 <= count <= (most := self._profiles[profile].max_batch):
            raise EngineFailed(f"The plan takes batches of 1 to {most}, not of {count}.")
        shapes = self._shapes(count, canvas)
        return Run(self._context(profile, shapes), self._cuda, self.tensors, shapes, log_of(self._trt))

    def _context(self, profile: int, shapes: Shapes) -> Any:
        """An execution context whose settings are final."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        self._require(context is not None)
        chosen = self._choose_profile(context, profile)
        self._cuda.synchronize()  # first, for it tells whether the device is lost
        self._require(chosen)
        context.set_device_memory(self._scratch, self._scratch_nbytes)
        for name in INPUTS:
            self._require(context.set_input_shape(name, shapes[name]))
        for name, tensor in self.tensors.items():
            self._require(context.set_tensor_address(name, tensor.device))
        for name in OUTPUTS:  # it would write past its memory
            self._require(tuple(context.get_tensor_shape(name)) == shapes[name], f"{name} is not {shapes[name]}.")
        return context

    def _choose_profile(self, context: Any, profile: int) -> bool:
        try:
            return bool(context.set_optimization_profile_async(profile, self._cuda.stream))
        except RuntimeError:  # how the bindings say no here; elsewhere they return it
            return False

    def _require(self, done: bool, reason: str = "") -> None:
        if not done:
            reason = reason or log_of(self._trt).last_errors()
            raise EngineFailed(
                f"TensorRT cannot prepare a canvas of the plan: {reason} Where memory is short, a plan for fewer "
                "canvases or with a smaller --max-batch needs less."
            )

    def _forget(self) -> None:
        self._runs.clear()
        self._engine = None


class Run:
    """A batch size on a canvas: queued call by call until `capture`, replayed as a CUDA graph from then on.

    Its context serves nothing else, because TensorRT asks that a context stays as it was when a graph was captured.
    """

    def __init__(self, context: Any, cuda: Cuda, tensors: dict[str, StagedTensor], shapes: Shapes, log: Any) -> None:
        self.shapes = shapes
        self.graph: Any = None
        self._context = context
        self._cuda = cuda
        self._tensors = tensors
        self._log = log

    def __call__(self) -> None:
        """Answers what is in the pinned memory of the inputs into that of the outputs."""
        try:
            if self.graph is None:
                self._queue()
            else:
                self._cuda.launch(self.graph)
        finally:
            self._cuda.synchronize()  # after a failure too: it tells whether the device is lost

    def capture(self) -> None:
        """Makes the graph. Only after a first run: that brings TensorRT's own state up to date."""
        self.graph = self._cuda.capture(self._queue)

    def _queue(self) -> None:
        for name in INPUTS:
            self._tensors[name].upload(self.shapes[name])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineFailed(f"TensorRT could not run the batch: {self._log.last_errors()}")
        for name in OUTPUTS:
            self._tensors[name].download(self.shapes[name])
