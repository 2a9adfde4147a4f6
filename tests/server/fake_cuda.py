"""A stand-in for `cuda.bindings.runtime` that needs no GPU, with the real module's names, parameters and values.

Device memory is memory of this process under addresses of its own; a copy outside of it, or outside of pinned memory,
fails the test, and so does work for a device that is not the thread's. What is queued on a stream runs when the stream
is waited for.
"""

# ruff: noqa: N801, N802, N803, N815

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


class Properties:
    name = b"NVIDIA H100 80GB HBM3"
    major = 9
    minor = 0


class Current(threading.local):
    """The device of each thread."""

    device = 0


class Cuda:
    """Devices, and the runtime's functions as its methods. `calls` counts them.

    `failures` maps a function to the error that its next call returns. `sticky` is what every call returns, once the
    stream has run work after it was set.
    """

    ENUMS: ClassVar = (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode)
    CONSTANTS: ClassVar = {"cudaStreamNonBlocking": 1, "cudaDeviceScheduleBlockingSync": 4, "cudaHostAllocDefault": 0}

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.current = Current()
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, cudaError_t] = {}
        self.sticky: cudaError_t | None = None
        self.before_work: Callable[[], None] = lambda: None
        self.device_memory: dict[int, Bytes] = {}
        self.pinned_memory: dict[int, Bytes] = {}
        self.freed: list[Bytes] = []
        self.handles: dict[int, str] = {}
        self._device_of: dict[int, int] = {}
        self._capturing: dict[int, list[Callable[[], None]]] = {}
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next_address = 1 << 50
        self._next_handle = 1

    def functions(self) -> dict[str, Callable[..., tuple[Any, ...]]]:
        return {name: getattr(self, name) for name in dir(type(self)) if name.startswith("cuda")}

    def module(self) -> ModuleType:
        module = ModuleType("cuda.bindings.runtime")
        values = {kind.__name__: kind for kind in self.ENUMS} | self.CONSTANTS | self.functions()
        for name, value in values.items():
            setattr(module, name, value)
        return module

    # What the device does

    def bytes_at(self, address: int, nbytes: int, memory: dict[int, Bytes]) -> Bytes:
        for start, block in memory.items():
            if start <= address and address + nbytes <= start + len(block):
                return block[address - start : address - start + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are not memory of that kind")

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self._check(stream, "stream")
        self._capturing.get(int(stream), self._queues[int(stream)]).append(work)

    def is_capturing(self, stream: int) -> bool:
        return int(stream) in self._capturing

    def held(self) -> list[str]:
        """What has not been freed."""
        return [
            *self.handles.values(),
            *("device" for _ in self.device_memory),
            *("pinned" for _ in self.pinned_memory),
        ]

    # The runtime's functions

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return OK, {700: b"an illegal memory access was encountered", 2: b"out of memory"}.get(error, b"it failed")

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int]:
        return self._status("cudaGetDeviceCount"), self.devices

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        if device >= self.devices:
            return (cudaError_t.cudaErrorInvalidDevice,)
        self.current.device = device
        return (self._status("cudaSetDevice"),)

    def cudaSetDeviceFlags(self, flags: int) -> tuple[cudaError_t]:
        return (self._status("cudaSetDeviceFlags"),)

    def cudaGetDeviceProperties(self, device: int) -> tuple[cudaError_t, type[Properties]]:
        assert device == self.current.device
        return self._status("cudaGetDeviceProperties"), Properties

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        status, stream = self._status("cudaStreamCreateWithFlags"), self._handle("stream")
        self._queues[stream] = []
        return status, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        return self._destroy("cudaStreamDestroy", stream, "stream")

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        if status := self._status("cudaMalloc"):
            return status, None
        self._next_address += 1 << 40
        self.device_memory[self._next_address] = np.zeros(size, np.uint8)
        return OK, self._next_address

    def cudaFree(self, devPtr: int) -> tuple[cudaError_t]:
        return self._free("cudaFree", devPtr, self.device_memory)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int | None]:
        if status := self._status("cudaHostAlloc"):
            return status, None
        block = np.zeros(size, np.uint8)
        self.pinned_memory[block.ctypes.data] = block
        return OK, block.ctypes.data

    def cudaFreeHost(self, ptr: int) -> tuple[cudaError_t]:
        return self._free("cudaFreeHost", ptr, self.pinned_memory)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: int) -> tuple[cudaError_t]:
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        kinds = (self.device_memory, self.pinned_memory) if to_device else (self.pinned_memory, self.device_memory)

        def copy() -> None:
            self.bytes_at(dst, count, kinds[0])[:] = self.bytes_at(src, count, kinds[1])

        if not (status := self._status("cudaMemcpyAsync")):
            self.enqueue(stream, copy)
        return (status,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        assert not self.is_capturing(stream), "this cannot be captured"
        if not (status := self._status("cudaStreamSynchronize")):
            self._check(stream, "stream")
            status = self._work(stream)
        return (status,)

    def cudaStreamBeginCapture(self, stream: int, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
        assert not self._queues[stream], "work is left on the stream"
        if not (status := self._status("cudaStreamBeginCapture")):
            self._capturing[stream] = []
        return (status,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int | None]:
        work = self._capturing.pop(stream)
        if status := self._status("cudaStreamEndCapture"):
            return status, None
        graph = self._handle("graph")
        self._graphs[graph] = work
        return OK, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int | None]:
        if status := self._status("cudaGraphInstantiate"):
            return status, None
        launchable = self._handle("launchable graph")
        self._graphs[launchable] = self._graphs[graph]
        return OK, launchable

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[cudaError_t]:
        self._check(graphExec, "launchable graph")
        if not (status := self._status("cudaGraphLaunch")):
            for work in self._graphs[graphExec]:
                self.enqueue(stream, work)
        return (status,)

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:
        return self._destroy("cudaGraphDestroy", graph, "graph")

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[cudaError_t]:
        return self._destroy("cudaGraphExecDestroy", graphExec, "launchable graph")

    def _status(self, function: str) -> cudaError_t:
        self.calls[function] += 1
        if self.sticky is not None and not any(self._queues.values()):
            return self.sticky
        return self.failures.pop(function, OK)

    def _check(self, handle: int, kind: str) -> None:
        assert self.handles[int(handle)] == kind
        assert self._device_of[int(handle)] == self.current.device, f"the {kind} is of another device than the thread's"

    def _work(self, stream: int) -> cudaError_t:
        self.before_work()
        queue, self._queues[stream] = self._queues[stream], []
        if self.sticky is not None:
            return self.sticky
        for work in queue:
            work()
        return OK

    def _handle(self, kind: str) -> int:
        self._next_handle += 1
        self.handles[self._next_handle] = kind
        self._device_of[self._next_handle] = self.current.device
        return self._next_handle

    def _destroy(self, function: str, handle: int, kind: str) -> tuple[cudaError_t]:
        if not (status := self._status(function)):
            self._check(handle, kind)
            del self.handles[handle]
        return (status,)

    def _free(self, function: str, address: int, memory: dict[int, Bytes]) -> tuple[cudaError_t]:
        if not (status := self._status(function)):
            self.freed.append(memory.pop(address))  # kept, so that views of it do not become wild
        return (status,)
