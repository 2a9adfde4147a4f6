"""A stand-in for `tensorrt` on a fake device, with the real module's names.

A plan is an ONNX file that ONNX Runtime runs; its metadata say the profiles and how many rows a picture has, to which
the answers are padded as our plugins do. What TensorRT forbids fails the test.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from plugins.loader import NAMESPACE, OPERATORS
from tests.server.fake_cuda import Cuda


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class ExecutionContextAllocationStrategy(enum.Enum):
    USER_MANAGED = 2


class TensorRt:
    """The library on a device. `ran_code` tells of each plan loaded whether it was allowed to run programs."""

    def __init__(self, cuda: Cuda, version: str = "11.1.0.106") -> None:
        self.cuda = cuda
        self.version = version
        self.has_plugins = True
        self.ran_code: list[bool] = []
        self.contexts = 0
        self.executions = 0
        self.refuses = False
        self.refuses_profiles = False
        self.can_be_captured = True

    def module(self) -> ModuleType:
        module = ModuleType("tensorrt")
        values = {
            "__version__": self.version,
            "ILogger": ILogger,
            "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
            "Runtime": lambda logger: Runtime(self, logger),
            "nptype": lambda dtype: dtype,
            "get_plugin_registry": lambda: Registry(self.has_plugins),
        }
        for name, value in values.items():
            setattr(module, name, value)
        return module


class Creator:
    def __init__(self, name: str) -> None:
        self.name = name
        self.plugin_namespace = NAMESPACE


class Registry:
    def __init__(self, has_plugins: bool) -> None:
        self.all_creators = [Creator(name) for name in OPERATORS] if has_plugins else []


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, library: TensorRt, logger: ILogger) -> None:
        self._library = library
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._library.ran_code.append(self.engine_host_code_allowed)
        try:
            return ICudaEngine(self._library, self._logger, serialized_engine)
        except (errors.InvalidProtobuf, errors.InvalidArgument):
            self._logger.log(ILogger.ERROR, "Serialization assertion magicTag failed.\nMagic tag does not match. ")
            return None


class ICudaEngine:
    device_memory_size_v2 = 1000
    num_io_tensors = 4

    def __init__(self, library: TensorRt, logger: ILogger, plan: bytes) -> None:
        self._library = library
        self._logger = logger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        self._device = library.cuda.current.device
        self._metadata = json.loads(self._session.get_modelmeta().custom_metadata_map["plan"])
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_dtype(self, name: str) -> type[np.generic]:
        (kind,) = [tensor.type for tensor in self._tensors if tensor.name == name]
        return {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[kind]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        assert self._library.cuda.current.device == self._device, "an engine stays on the device that was current"
        self._library.contexts += 1
        return IExecutionContext(self._library, self._logger, self._session, **self._metadata)


class IExecutionContext:
    def __init__(
        self,
        library: TensorRt,
        logger: ILogger,
        session: onnxruntime.InferenceSession,
        profiles: list[dict[str, Any]],
        rows: int,
        side: int,
    ) -> None:
        self._library = library
        self._logger = logger
        self._session = session
        self._profiles = profiles
        self._rows = rows
        self._side = side
        self._profile: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._has_memory = self._is_ready = self._is_captured = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._library.refuses_profiles:
            raise RuntimeError("Error in set optimization profile async.")
        self._library.cuda.enqueue(stream_handle, lambda: None)
        self._profile = self._profiles[profile_index]
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= ICudaEngine.device_memory_size_v2
        self._library.cuda.bytes_at(memory, size, self._library.cuda.device_memory)
        self._has_memory = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._change()
        count, canvas = shape[0], list(shape[1:3])
        fits = count <= self._profile["max_batch"] and (name != "images" or canvas == self._profile["canvas"])
        if not fits:
            self._logger.log(ILogger.ERROR, f"{name} {shape} is outside the profile")
        self._shapes[name] = shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._change()
        self._addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        rows = self._shapes["images"][0] * self._rows
        return {**self._shapes, "detections": (rows, 7), "masks": (rows, self._side, self._side)}[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._has_memory
        capturing = self._library.cuda.is_capturing(stream_handle)
        if self._library.refuses or (capturing and not (self._is_ready and self._library.can_be_captured)):
            self._logger.log(ILogger.ERROR, "the context is not ready.")
            return False
        self._is_ready = True
        self._is_captured |= capturing
        self._library.executions += 1
        self._library.cuda.enqueue(stream_handle, self._run)
        return True

    def _change(self) -> None:
        assert not self._is_captured, "a captured context must stay as it is"
        self._is_ready = False

    def _run(self) -> None:
        feeds = {name: self._tensor(name) for name in ("images", "windows")}
        detections, masks = self._session.run(["detections", "masks"], feeds)
        self._write_padded("detections", detections, detections[:, 0])
        self._write_padded("masks", masks, detections[:, 0])

    def _write_padded(self, name: str, values: npt.NDArray[np.float32], images: npt.NDArray[np.float32]) -> None:
        """Rows of a picture stand together, at the start of its K; zeros fill the rest."""
        padded = self._tensor(name).reshape(-1, self._rows, *values.shape[1:])
        padded[:] = 0
        for i, block in enumerate(padded):
            own = values[images == i]
            block[: len(own)] = own

    def _tensor(self, name: str) -> npt.NDArray[Any]:
        """The device memory of a tensor."""
        shape = self.get_tensor_shape(name)
        inputs = {tensor.name: tensor.type for tensor in self._session.get_inputs()}
        dtype = np.dtype(np.uint8 if inputs.get(name) == "tensor(uint8)" else np.float32)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        cuda = self._library.cuda
        return cuda.bytes_at(self._addresses[name], nbytes, cuda.device_memory).view(dtype).reshape(shape)


def plan_of(onnx_file: bytes, profiles: list[dict[str, Any]], rows: int, side: int) -> bytes:
    """The plan of an ONNX file, for `profiles` as the card has them and `rows` detections of a picture at most."""
    model = onnx.load_from_string(onnx_file)
    entry = model.metadata_props.add()
    entry.key, entry.value = "plan", json.dumps({"profiles": profiles, "rows": rows, "side": side})
    return model.SerializeToString()
