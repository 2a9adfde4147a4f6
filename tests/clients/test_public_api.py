"""What `clients` offers, and what it must not load."""

from __future__ import annotations

import inspect
import subprocess
import sys

import clients
from clients import errors


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_all_names_are_there_and_sorted():
    assert clients.__all__ == sorted(clients.__all__)
    assert dir(clients) == clients.__all__
    for name in clients.__all__:
        assert getattr(clients, name).__name__ == name


def test_every_error_is_public_and_in_the_tree():
    found = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert found == set(clients.__all__) - {"Client", "AsyncClient", "Prediction", "Detection"}
    for name in found:
        assert issubclass(getattr(errors, name), clients.MasklineError)
        assert name in (errors.__doc__ or "")


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(clients, "Predictor")


def test_the_client_loads_nothing_of_the_server_or_of_training():
    heavy = "{'torch', 'fastapi', 'starlette', 'uvicorn', 'onnxruntime', 'onnx', 'server.pipeline', 'server.app'}"
    code = f"import sys, clients; clients.Client; clients.Prediction; print({heavy} & set(sys.modules))"
    result = _run(code)
    assert result.stdout.strip() == "set()", result.stderr


def test_the_package_alone_loads_no_third_party_library():
    result = _run("import sys, clients, clients.__main__; print({'numpy', 'PIL', 'httpx2'} & set(sys.modules))")
    assert result.stdout.strip() == "set()", result.stderr


def test_without_httpx2_the_client_says_how_to_get_it():
    result = _run("import sys; sys.modules['httpx2'] = None; from clients import Client")
    assert "pip install -e '.[client]'" in result.stderr
