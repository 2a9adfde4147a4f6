"""A module in the place of `tensorrt` that remembers what it is told and does what a test wants.

Its classes have the members, with the names and arguments, that the bindings of TensorRT 10.7.0 and 11.4.0 have; what
only later versions have is left out of the earlier one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Behaviour:
    """What the library does, and what it was asked for."""

    gpu: bool = True
    parse_error: SimpleNamespace | None = None
    """With the methods of the parser's errors."""
    build_errors: list[str] = field(default_factory=list)
    """Logged while an engine is built; then none comes out of it."""
    warnings: list[str] = field(default_factory=list)
    cache_fits: bool = True
    phases: list[tuple[str, str | None, int]] = field(default_factory=list)
    on_step: Callable[[], None] = lambda: None
    flags: set[Any] = field(default_factory=set)
    limits: dict[Any, int] = field(default_factory=dict)
    profiles: list[dict[str, tuple[Any, ...]]] = field(default_factory=list)
    network_flags: int = 0
    caches: list[bytes] = field(default_factory=list)
    config: Any = None
    steps_taken: int = 0


def fake_tensorrt(version: str = "11.4.0.106") -> Any:
    """Its `behaviour` is a `Behaviour`."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.behaviour = Behaviour()
    trt.ILogger, trt.IProgressMonitor = _Logger, _Monitor
    trt.BuilderFlag = enum.Enum("BuilderFlag", "TF32 VERSION_COMPATIBLE")
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    levels = "NONE AMPERE_PLUS" if version.startswith("10.7") else "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY"
    trt.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", levels)
    names = ("MaskRcnnNms", "PyramidRoiAlign")
    creators = [SimpleNamespace(name=name, plugin_namespace="maskrcnn") for name in names]
    trt.get_plugin_registry = lambda: SimpleNamespace(all_creators=creators)
    trt.Builder = lambda logger: _Builder(trt.behaviour, logger, trt.BuilderFlag)
    trt.OnnxParser = lambda network, logger: _Parser(trt.behaviour)
    return trt


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class _Monitor:
    pass


class _Builder:
    def __init__(self, behaviour: Behaviour, logger: Any, flags: Any) -> None:
        self.behaviour, self.logger, self.flags = behaviour, logger, flags
        if not behaviour.gpu:
            logger.log(_Logger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> SimpleNamespace:
        self.behaviour.network_flags = flags
        return SimpleNamespace()

    def create_builder_config(self) -> _Config:
        self.behaviour.flags = {self.flags.TF32}  # enabled by default
        self.behaviour.config = _Config(self.behaviour)
        return self.behaviour.config

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
        for severity, said in (
            (_Logger.WARNING, self.behaviour.warnings),
            (_Logger.ERROR, self.behaviour.build_errors),
        ):
            for message in said:
                self.logger.log(severity, message)
        complete = all(self._run(config.progress_monitor, *phase) for phase in self.behaviour.phases)
        return b"a plan" if complete and not self.behaviour.build_errors else None

    def _run(self, monitor: Any, phase: str, parent: str | None, steps: int) -> bool:
        monitor.phase_start(phase, parent, steps)
        for step in range(steps):
            self.behaviour.on_step()
            self.behaviour.steps_taken += 1
            if not monitor.step_complete(phase, step):
                return False
        return True


class _Profile(dict[str, tuple[Any, ...]]):
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - TensorRT's names
        self[input] = (min, opt, max)


class _Config:
    progress_monitor: Any
    hardware_compatibility_level: Any = None
    plugins_to_serialize: list[str]

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.plugins_to_serialize = []

    def set_flag(self, flag: Any) -> None:
        self._behaviour.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._behaviour.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._behaviour.limits[pool] = pool_size

    def add_optimization_profile(self, profile: _Profile) -> int:
        self._behaviour.profiles.append(dict(profile))
        return len(self._behaviour.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> _Cache:
        return _Cache(serialized_timing_cache)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        if ignore_mismatch or not cache.data or self._behaviour.cache_fits:
            self._behaviour.caches.append(cache.data)
            return True
        return False

    def get_timing_cache(self) -> _Cache:
        return _Cache(self._behaviour.caches[-1] + b" and new timings")


@dataclass
class _Cache:
    data: bytes

    def serialize(self) -> bytes:
        return self.data


class _Parser:
    def __init__(self, behaviour: Behaviour) -> None:
        self._errors = [behaviour.parse_error] if behaviour.parse_error else []
        self.num_errors = len(self._errors)

    def parse_from_file(self, model: str) -> bool:
        return not self._errors

    def get_error(self, index: int) -> Any:
        return self._errors[index]
