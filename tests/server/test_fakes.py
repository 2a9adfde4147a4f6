"""The stand-ins for NVIDIA's packages have nothing that the real ones lack."""

from __future__ import annotations

import inspect

import pytest

from server.engines.cuda_ import STICKY
from tests.server import fake_cuda, fake_tensorrt


def test_the_fake_cuda_has_the_real_ones_functions(cuda: fake_cuda.Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, function in cuda.functions().items():
        wanted = list(inspect.signature(getattr(real, name)).parameters)
        assert list(inspect.signature(function).parameters) == wanted, name
    for kind in cuda.ENUMS:
        own = getattr(real, kind.__name__)
        assert {member.name: int(getattr(own, member.name)) for member in kind} == kind.__members__
    assert {name: getattr(real, name) for name in cuda.CONSTANTS} == cuda.CONSTANTS
    assert {code: real.cudaError_t(code).name for code in STICKY} == STICKY


def test_the_fake_tensorrt_has_what_the_real_one_has(tensorrt: fake_tensorrt.TensorRt) -> None:
    real = pytest.importorskip("tensorrt_rtx")  # the same classes, in a package that needs no GPU
    assert public(tensorrt.module()) <= set(dir(real))
    for kind in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "ExecutionContextAllocationStrategy"):
        assert public(getattr(fake_tensorrt, kind)) <= set(dir(getattr(real, kind))), kind


def public(thing: object) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_") or name == "__version__"}
