"""Machines with a GPU and TensorRT, as far as the service can tell."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from server.repository import Bundle, load_bundle
from tests.server import fake_cuda, fake_tensorrt
from tests.server.plan_bundle import write_plan_bundle


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> fake_cuda.Cuda:
    """A machine with a GPU."""
    cuda = fake_cuda.Cuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda.module()  # type: ignore[attr-defined]
    modules = {"cuda": ModuleType("cuda"), "cuda.bindings": bindings, "cuda.bindings.runtime": bindings.runtime}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return cuda


@pytest.fixture
def tensorrt(cuda: fake_cuda.Cuda, monkeypatch: pytest.MonkeyPatch) -> fake_tensorrt.TensorRt:
    """The same with TensorRT."""
    library = fake_tensorrt.TensorRt(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", library.module())
    return library


@pytest.fixture
def plan_bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_plan_bundle(tmp_path / "tiny"))
