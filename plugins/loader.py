"""The library of our TensorRT plugins: where it is, and how it comes into TensorRT's plugin registry."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import ModuleType
from typing import Any

OPERATORS_VERSION = 1
"""Of the operators' inputs, outputs and attributes; plugins/library.cpp has the same number."""

NAMESPACE = "maskrcnn"
OPERATORS = frozenset({"MaskRcnnNms", "PyramidRoiAlign"})

_ADVICE = "Build it with: make plugins"


class PluginLibraryError(Exception):
    """The library is missing or does not fit. The message says what to do."""


def library_path() -> Path:
    """The library: what MASKLINE_PLUGIN_LIBRARY names, else plugins/build/libmaskline_plugins.so.

    Raises:
        PluginLibraryError: there is no such file.
    """
    named = os.environ.get("MASKLINE_PLUGIN_LIBRARY")
    path = Path(named) if named else Path(__file__).resolve().parent / "build" / "libmaskline_plugins.so"
    if not path.is_file():
        source = " (MASKLINE_PLUGIN_LIBRARY)" if named else ""
        raise PluginLibraryError(f"There is no TensorRT plugin library {path}{source}. {_ADVICE}")
    return path


def register(trt: ModuleType) -> None:
    """Puts the plugins into the registry of `trt`, the module `tensorrt`, unless they are in it.

    Raises:
        PluginLibraryError: the library is missing, of another version of the operators, built for another major version
            of TensorRT, or TensorRT refuses it.
    """
    registry = trt.get_plugin_registry()
    if _registered(registry):
        return
    path = library_path()
    _check(_open(path), path, trt.__version__)
    if _registered(registry):  # the library that registers itself has been named
        return
    registry.load_library(str(path))
    if not _registered(registry):  # a refusal is logged by TensorRT, and not always raised
        raise PluginLibraryError(f"TensorRT {trt.__version__} did not load {path}; its log says why. {_ADVICE}")


def _registered(registry: Any) -> bool:
    ours = {creator.name for creator in registry.all_creators if creator.plugin_namespace == NAMESPACE}
    return ours >= OPERATORS


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise PluginLibraryError(f"{path} cannot be loaded: {error}. {_ADVICE}") from error


def _check(library: ctypes.CDLL, path: Path, tensorrt_version: str) -> None:
    try:
        operators = library.maskline_plugins_operators_version()
        compiled_for = library.maskline_plugins_tensorrt_version() // 10000
    except AttributeError as error:
        raise PluginLibraryError(f"{path} is not a library of Maskline's plugins. {_ADVICE}") from error
    if operators != OPERATORS_VERSION:
        raise PluginLibraryError(
            f"{path} has version {operators} of Maskline's operators, and this is version {OPERATORS_VERSION}. "
            f"Build it again with: make plugins"
        )
    if compiled_for != int(tensorrt_version.split(".")[0]):
        raise PluginLibraryError(
            f"{path} was built for TensorRT {compiled_for}, and TensorRT {tensorrt_version} is installed. "
            f"Build it again with the headers of that version: make plugins TENSORRT_INCLUDE_DIR=/path/to/include"
        )
