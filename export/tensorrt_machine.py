"""What this machine has for building plans: NVIDIA's package, our plugins in its registry, a GPU."""

from __future__ import annotations

import functools
import re
from typing import Any

from plugins.loader import PluginLibraryError, register

LEAST_VERSION = (10, 7)
"""The first whose parser takes a plugin before a function of the same name."""

INSTALL = "Install it (pip install 'maskline[tensorrt]'), or build in the GPU image (docs/gpu.md)."


class PlanError(Exception):
    """A plan cannot be built, here or at all; the message is for the person who asked for it."""


def usable_tensorrt() -> Any:
    """The module `tensorrt`, with our plugins in its registry. Raises `PlanError` that says what is missing."""
    trt = _imported()
    if _version(trt)[:2] < LEAST_VERSION:
        least = ".".join(str(part) for part in LEAST_VERSION)
        raise PlanError(f"TensorRT {trt.__version__} is too old, {least} is the first that can be used. {INSTALL}")
    try:
        register(trt)
    except PluginLibraryError as error:
        raise PlanError(str(error)) from error
    return trt


def version(trt: Any) -> str:
    """Of the library, as the card has it: numbers and dots."""
    return ".".join(str(part) for part in _version(trt))


def compute_capability() -> str:
    """Of the GPU that CUDA gives this process first, which is the one that TensorRT builds for: "9.0".

    Raises `PlanError` where there is none.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise PlanError(f"CUDA's Python package is not installed ({error}). {INSTALL}") from error
    kinds = runtime.cudaDeviceAttr
    wanted = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
    answers = [runtime.cudaDeviceGetAttribute(attribute, 0) for attribute in wanted]
    for status, _ in answers:
        if status != runtime.cudaError_t.cudaSuccess:
            raise no_gpu(runtime.cudaGetErrorString(status)[1].decode())
    return ".".join(str(value) for _, value in answers)


def no_gpu(reason: str) -> PlanError:
    return PlanError(
        f"A plan is built on the GPU that will run it, and none can be used here: {reason}. nvidia-smi says what the "
        "driver sees; --engine onnx builds without a GPU."
    )


@functools.cache  # TensorRT goes on using the first logger that it was given, for as long as it is loaded
def logger_of(trt: Any) -> Any:
    """The logger of this process, which keeps what TensorRT says; see `_collecting`."""
    return _collecting(trt)()


def _imported() -> Any:
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise PlanError(f"TensorRT is not installed. {INSTALL}") from error
    except ImportError as error:  # the package is there, a library that it needs is not
        raise PlanError(f"TensorRT cannot be loaded ({error}). {INSTALL}") from error
    return tensorrt


def _version(trt: Any) -> tuple[int, ...]:
    digits = re.match(r"\d+(\.\d+)*", trt.__version__)
    return tuple(int(part) for part in digits[0].split(".")) if digits else ()


def _collecting(trt: Any) -> Any:
    """A class of loggers that keep warnings and errors, each once, until they are asked for."""
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]  # a class of a module that is imported late
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []
            self._warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:  # called from TensorRT's own threads
            kept = self._errors if severity in errors else self._warnings if severity == trt.ILogger.WARNING else None
            if kept is not None and msg not in kept:
                kept.append(msg)

        def taken(self) -> tuple[list[str], list[str]]:
            """Errors and warnings since the last call."""
            said = (self._errors, self._warnings)
            self._errors, self._warnings = [], []
            return said

    return CollectingLogger
