"""Engines by name. A runtime is imported when its engine is made, so the server starts with only what it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from server.contract.errors import EngineUnavailable

if TYPE_CHECKING:
    from server.engines.base import Engine
    from server.repository import Bundle

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "fake"]


def create_engine(name: EngineName, bundle: Bundle, *, threads: int | None = None) -> Engine:
    """Loads a bundle into an engine; `auto` takes the fastest that this machine and this bundle have.

    Args:
        name: engine to use.
        bundle: what to load.
        threads: CPU threads of a CPU engine; None: all that this process may use.

    Raises:
        EngineUnavailable: the engine is not installed, or the bundle has no file for it.
        BundleError: the runtime refuses the file.
    """
    if name == "fake":
        from server.engines.fake import FakeEngine

        return FakeEngine(bundle.card)
    if name in ("openvino", "tensorrt"):
        raise EngineUnavailable(f"The {name} engine is not part of this version. Use --engine onnxruntime.")
    from server.engines.onnxruntime_ import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, threads=threads)
