"""CUDA through NVIDIA's Python bindings, every call checked: one device, one stream, memory, graphs.

Devices are counted as this process sees them; CUDA_VISIBLE_DEVICES chooses and orders them. Errors of CUDA are
`EngineFailed`; those after which a process cannot use its device any more are `EngineLost`.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from server.contract.errors import EngineFailed, EngineLost, EngineUnavailable

STICKY = {
    214: "cudaErrorECCUncorrectable",
    220: "cudaErrorNvlinkUncorrectable",
    226: "cudaErrorContained",
    700: "cudaErrorIllegalAddress",
    702: "cudaErrorLaunchTimeout",
    709: "cudaErrorContextIsDestroyed",
    710: "cudaErrorAssert",
    714: "cudaErrorHardwareStackError",
    715: "cudaErrorIllegalInstruction",
    716: "cudaErrorMisalignedAddress",
    717: "cudaErrorInvalidAddressSpace",
    718: "cudaErrorInvalidPc",
    719: "cudaErrorLaunchFailure",
    721: "cudaErrorTensorMemoryLeak",
    810: "cudaErrorMpsClientTerminated",
    911: "cudaErrorExternalDevice",
    999: "cudaErrorUnknown",
}
"""After one of these any further work of the process returns the same error (CUDA's own description of them; the last
is what a GPU that fell off the bus gives)."""

RESTART = "This process cannot use its GPU any more and has to be started anew."


class Cuda:
    """A device and a stream on it, in whose order everything runs. Used by one thread at a time, which has to
    `make_current` first.

    Raises:
        EngineUnavailable: NVIDIA's package, driver or GPU is not there.
    """

    def __init__(self, device: int = 0) -> None:
        self._api = _import_bindings()
        self._resources = ExitStack()
        self._index = device
        try:
            check_device(device, self._call(self._api.cudaGetDeviceCount))
            self.make_current()
            # A thread that waits for the GPU would else take a whole CPU from those that decode pictures.
            self._call(self._api.cudaSetDeviceFlags, self._api.cudaDeviceScheduleBlockingSync)
            properties = self._call(self._api.cudaGetDeviceProperties, device)
            # It does not wait for the legacy stream, on which other libraries of this process may work.
            self._stream = self._call(self._api.cudaStreamCreateWithFlags, self._api.cudaStreamNonBlocking)
        except EngineFailed as error:
            raise EngineUnavailable(
                f"No NVIDIA GPU can be used here. {error} nvidia-smi says what the driver sees; "
                "--engine onnxruntime runs without a GPU."
            ) from error
        self._resources.callback(self._call, self._api.cudaStreamDestroy, self._stream)
        self.device: str = properties.name.decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"

    @property
    def stream(self) -> int:
        """Handle of the stream, as other libraries take it."""
        return int(self._stream)

    def make_current(self) -> None:
        """Has this thread's calls of CUDA go to the device; every thread begins with the first device."""
        self._call(self._api.cudaSetDevice, self._index)

    def allocate(self, nbytes: int) -> int:
        """Address of memory on the device, held until `close`."""
        address: int = self._call(self._api.cudaMalloc, max(nbytes, 1))
        self._resources.callback(self._call, self._api.cudaFree, address)
        return address

    def allocate_pinned(self, nbytes: int) -> int:
        """Address of memory of the host that the device copies from and to by itself, held until `close`."""
        address: int = self._call(self._api.cudaHostAlloc, max(nbytes, 1), self._api.cudaHostAllocDefault)
        self._resources.callback(self._call, self._api.cudaFreeHost, address)
        return address

    def upload(self, device: int, host: int, nbytes: int) -> None:
        """Queues a copy from pinned memory to the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._api.cudaMemcpyAsync, device, host, nbytes, kind, self._stream)

    def download(self, host: int, device: int, nbytes: int) -> None:
        """Queues a copy from the device to pinned memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._api.cudaMemcpyAsync, host, device, nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Waits until all that is queued has run; raises what went wrong in it."""
        self._call(self._api.cudaStreamSynchronize, self._stream)

    def capture(self, queue_work: Callable[[], None]) -> Any:
        """A graph of the work that the function queues on the stream, held until `close`. Nothing of it runs yet."""
        graph = self._captured(queue_work)
        try:
            launchable = self._call(self._api.cudaGraphInstantiate, graph, 0)
        finally:
            self._call(self._api.cudaGraphDestroy, graph)
        self._resources.callback(self._call, self._api.cudaGraphExecDestroy, launchable)
        return launchable

    def launch(self, graph: Any) -> None:
        """Queues a captured graph."""
        self._call(self._api.cudaGraphLaunch, graph, self._stream)

    def on_close(self, function: Callable[[], None]) -> None:
        """Has `close` call the function, after what was made later is freed and before what was made earlier is."""
        self._resources.callback(function)

    def close(self) -> None:
        """Frees everything, newest first; the second time there is nothing to free. A lost device frees nothing."""
        with suppress(EngineFailed):
            self.make_current()
        with suppress(EngineFailed):
            self._resources.close()

    def _captured(self, queue_work: Callable[[], None]) -> Any:
        # Only this thread is kept from what would spoil a capture: others may be loading another model.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._api.cudaStreamBeginCapture, self._stream, mode)
        try:
            queue_work()
        except BaseException:
            _, graph = self._api.cudaStreamEndCapture(self._stream)  # the first error tells more than this one
            if graph is not None and int(graph):
                self._api.cudaGraphDestroy(graph)
            raise
        return self._call(self._api.cudaStreamEndCapture, self._stream)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        status, *values = function(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._failure(function.__name__, status)
        return values[0] if values else None

    def _failure(self, function: str, status: Any) -> EngineFailed:
        text = self._api.cudaGetErrorString(status)[1].decode()
        sentence = f"CUDA failed in {function}: {text} ({status.name})."
        return EngineLost(f"{sentence} {RESTART}") if int(status) in STICKY else EngineFailed(sentence)


class StagedTensor:
    """Memory of one tensor on the device, and pinned memory of the host as large, between which it is copied.

    Smaller shapes than the largest use the first bytes of both.
    """

    def __init__(self, cuda: Cuda, largest_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        element: np.dtype[Any] = np.dtype(dtype)
        nbytes = math.prod(largest_shape) * element.itemsize
        self.device = cuda.allocate(nbytes)
        self._cuda = cuda
        self._pinned = cuda.allocate_pinned(nbytes)
        memory = (ctypes.c_uint8 * nbytes).from_address(self._pinned)
        self._elements: npt.NDArray[Any] = np.ctypeslib.as_array(memory).view(element)

    def view(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The pinned memory as an array, good until `close` of the device; later batches overwrite it."""
        return self._elements[: math.prod(shape)].reshape(shape)

    def upload(self, shape: tuple[int, ...]) -> None:
        """Queues the copy to the device."""
        self._cuda.upload(self.device, self._pinned, self.view(shape).nbytes)

    def download(self, shape: tuple[int, ...]) -> None:
        """Queues the copy from the device."""
        self._cuda.download(self._pinned, self.device, self.view(shape).nbytes)


def gpu_name(device: int = 0) -> str | None:
    """Name of a GPU, from the driver alone; None where there is none."""
    driver = _driver()
    name, handle = ctypes.create_string_buffer(256), ctypes.c_int()
    failed = (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetName(name, len(name), handle)
    )
    return None if failed else name.value.decode()


def gpu_count() -> int:
    """GPUs that this process sees, by the driver alone."""
    driver, count = _driver(), ctypes.c_int()
    failed = driver is None or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def check_device(device: int, count: int) -> None:
    """Raises `EngineUnavailable` for a GPU beyond those that are there."""
    if device >= count:
        raise EngineUnavailable(
            f"There is no GPU for engine {device + 1}: this process sees {count}. Give --engines {count} at most."
        )


def _driver() -> Any:
    """NVIDIA's driver, ready; None where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _import_bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineUnavailable(
            f"CUDA's Python package cannot be used ({error}). Install it: pip install 'maskline[tensorrt]'."
        ) from error
    return runtime
