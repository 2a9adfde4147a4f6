"""Engines by name. A runtime is imported when its engine is made, so the server starts with only what it uses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from server.contract.errors import BundleError, EngineUnavailable

if TYPE_CHECKING:
    from server.engines.base import Engine
    from server.repository import Bundle

logger = logging.getLogger("server.engines")

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "fake"]


@dataclass(frozen=True)
class _Options:
    """Of `create_engine`."""

    threads: int | None
    device: int
    own_shapes: bool


def create_engine(
    name: EngineName, bundle: Bundle, *, threads: int | None = None, device: int = 0, own_shapes: bool = False
) -> Engine:
    """Loads a bundle into an engine.

    `auto` takes a TensorRT plan that fits this machine, else ONNX Runtime where the installed package has CUDA, else
    OpenVINO where it is installed, else ONNX Runtime on the CPU. A file that it passes over is logged, with the reason.

    Args:
        name: engine to use.
        bundle: what to load.
        threads: CPU threads of a CPU engine; None: all that this process may use.
        device: which of the GPUs that this process sees, where it runs on one.
        own_shapes: whether OpenVINO may compile what comes often for itself: faster, with other last bits.

    Raises:
        EngineUnavailable: the engine is not installed or cannot run here, or the bundle has no file for it.
        BundleError: the runtime refuses the file.
    """
    if name == "fake":
        from server.engines.fake import FakeEngine

        return FakeEngine(bundle.card)
    options = _Options(threads, device, own_shapes)
    if name == "openvino":
        return _openvino(bundle, options)
    if name == "tensorrt":
        return _tensorrt(bundle, options)
    if name == "onnxruntime":
        return _onnxruntime(bundle, options)
    return (_plan_or_else if bundle.has("tensorrt") else _without_plan)(bundle, options)


def _plan_or_else(bundle: Bundle, options: _Options) -> Engine:
    try:
        return _tensorrt(bundle, options)
    except EngineUnavailable as error:
        instead = _instead_of_plan(bundle, options, error)
        logger.warning("%s runs in %s, not from its TensorRT plan: %s", bundle.path, instead.description, error)
        return instead


def _instead_of_plan(bundle: Bundle, options: _Options, refusal: EngineUnavailable) -> Engine:
    try:
        return _without_plan(bundle, options)
    except BundleError as error:
        raise EngineUnavailable(f"{refusal} ONNX Runtime cannot run it instead: {error}") from error


def _without_plan(bundle: Bundle, options: _Options) -> Engine:
    from server.engines.onnxruntime_ import has_cuda

    if bundle.has("openvino") and not has_cuda():
        try:
            return _openvino(bundle, options)
        except BundleError as error:
            logger.info("%s runs in ONNX Runtime: %s", bundle.path, error)
    return _onnxruntime(bundle, options)


def _openvino(bundle: Bundle, options: _Options) -> Engine:
    from server.engines.openvino_ import OpenVinoEngine

    return OpenVinoEngine(bundle, threads=options.threads, own_shapes=options.own_shapes)


def _tensorrt(bundle: Bundle, options: _Options) -> Engine:
    from server.engines.tensorrt_ import TensorRtEngine

    return TensorRtEngine(bundle, device=options.device)


def _onnxruntime(bundle: Bundle, options: _Options) -> Engine:
    from server.engines.onnxruntime_ import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, threads=options.threads, device=options.device)
