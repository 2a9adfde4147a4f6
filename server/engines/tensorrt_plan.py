"""A bundle's TensorRT plan: whether it fits this machine, and the engine that TensorRT makes of it."""

from __future__ import annotations

import functools
import logging
import re
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from plugins import loader
from server.contract.card import BundleFile, ModelCard
from server.contract.errors import EngineUnavailable
from server.repository import rebuild

logger = logging.getLogger("server.engines.tensorrt")

TOLD = 2
"""Errors of TensorRT that are told."""

INSTALL = "Install it: pip install 'maskline[tensorrt]'."


def import_tensorrt() -> Any:
    """The module `tensorrt`. Raises `EngineUnavailable` where it is not installed, or lacks a library that it needs."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"TensorRT is not installed. {INSTALL}") from error
    except ImportError as error:
        raise EngineUnavailable(f"TensorRT cannot be loaded ({error}). {INSTALL}") from error
    return tensorrt


def check_fits(path: Path, entry: BundleFile, tensorrt: str, compute_capability: str, device: str) -> None:
    """Raises `EngineUnavailable` for a plan of another TensorRT or for another kind of GPU than this machine has."""
    built_by, built_for = entry.tensorrt or "", entry.compute_capability or ""
    if not fits(built_by, tensorrt):
        misfit = f"fits {_fitting(f'TensorRT {built_by}')}, and {tensorrt} is installed here"
    elif not fits(built_for, compute_capability):
        misfit = f"fits GPUs of {_fitting(f'compute capability {built_for}')}, and {device} has {compute_capability}"
    else:
        return
    raise EngineUnavailable(f"{path} {misfit}. Plans are built on the machine that runs them. {_rebuild(path)}")


def fits(plan: str, here: str) -> bool:
    """Whether a plan for the version `plan` runs on the version `here`; see `server.contract.card.BundleFile`.

    Versions are numbers with dots and are compared as far as both go; what follows the numbers does not count.
    """
    wanted, has = _numbers(plan), _numbers(here)
    length = min(len(wanted), len(has))
    if plan.endswith("+"):
        return has[:length] >= wanted[:length]
    return has[:length] == wanted[:length]


def deserialize(trt: Any, path: Path, entry: BundleFile, card: ModelCard) -> Any:
    """TensorRT's engine of a plan that `check_fits` let pass.

    A plan for later versions as well (its version ends with "+") carries programs, TensorRT's own runtime and our
    plugins, which run here: serve such bundles only from people whom you would let install software. Other plans find
    the plugins in this machine's library.

    Raises:
        EngineUnavailable: there is no library of our plugins, TensorRT refuses the plan, or it is of another model.
    """
    carries_programs = (entry.tensorrt or "").endswith("+")
    if not carries_programs:
        _register_plugins(trt)
    log = log_of(trt)
    log.forget()
    runtime = _runtime(trt, log)
    if carries_programs:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineUnavailable(f"TensorRT cannot load {path}: {log.last_errors()} {_rebuild(path)}")
    _check_is_of(card, entry, path, _tensors(trt, engine))
    return engine


@functools.cache  # TensorRT goes on using the first logger that it was given, for as long as it is loaded
def log_of(trt: Any) -> Any:
    """TensorRT's logger in this process: warnings and errors go to Python's logging, and errors are kept to be told."""

    class Log(trt.ILogger):  # type: ignore[misc]  # a class of a module that is imported late
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=TOLD)
            self._levels = {
                trt.ILogger.INTERNAL_ERROR: logging.ERROR,
                trt.ILogger.ERROR: logging.ERROR,
                trt.ILogger.WARNING: logging.WARNING,
            }

        def log(self, severity: Any, msg: str) -> None:  # TensorRT calls it from threads of its own as well
            if "differs from one already registered" in msg:  # the build of a plan had one before
                return
            level = self._levels.get(severity, logging.DEBUG)
            logger.log(level, "%s", msg)
            if level == logging.ERROR:
                self._errors.append(" ".join(msg.split()))

        def forget(self) -> None:
            self._errors.clear()

        def last_errors(self) -> str:
            """The newest errors as sentences, once: the first often tells more than those that follow from it."""
            errors = list(self._errors) or ["it does not say why"]
            self.forget()
            return " ".join(f"{error.rstrip('.')}." for error in errors)

    return Log()


def _register_plugins(trt: Any) -> None:
    try:
        loader.register(trt)
    except loader.PluginLibraryError as error:
        raise EngineUnavailable(str(error)) from error


def _runtime(trt: Any, log: Any) -> Any:
    try:
        return trt.Runtime(log)
    except TypeError as error:  # how the bindings say that the library made none
        raise EngineUnavailable(f"TensorRT {trt.__version__} does not start: {log.last_errors()}") from error


def _tensors(trt: Any, engine: Any) -> dict[str, str]:
    """Names and types of the plan's inputs and outputs."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name for name in names}


def _check_is_of(card: ModelCard, entry: BundleFile, path: Path, tensors: dict[str, str]) -> None:
    wanted = {"images": card.input.dtype, "windows": "float32", "detections": "float32", "masks": "float32"}
    if tensors != wanted:
        told = ", ".join(f"{name} {dtype}" for name, dtype in tensors.items())
        raise EngineUnavailable(f"{path} is not a plan of the model in model.json: it has {told}. {_rebuild(path)}")
    canvases = {profile.canvas for profile in entry.profiles or ()}
    if card.input.canvases == "exact" or not canvases.issuperset(card.input.canvases):
        raise EngineUnavailable(f"{path} does not take every canvas that model.json allows. {_rebuild(path)}")


def _rebuild(path: Path) -> str:
    return rebuild(path.parent, "tensorrt")


def _fitting(version: str) -> str:
    return f"{version[:-1]} and later ones" if version.endswith("+") else f"{version} only"


def _numbers(version: str) -> tuple[int, ...]:
    digits = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in digits[0].split(".")) if digits else ()
