"""The habits of the house: who may import whom, what a start-up loads, and that the commands people read exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_import_rules_are_kept() -> None:
    result = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert result.returncode == 0, result.stdout


def test_the_client_loads_no_server_and_no_model_code() -> None:
    assert not loaded_by("import clients") & {"torch", "fastapi", "uvicorn", "onnxruntime", "onnx"}


def test_the_server_loads_no_model_code() -> None:
    assert not loaded_by("import server.app, server.pipeline") & {"torch", "torchvision", "onnx"}


@pytest.mark.parametrize("script", ["build_engine", "train", "evaluate"])
def test_scripts_answer_help_from_any_folder_without_heavy_imports(script: str, tmp_path: Path) -> None:
    result = run(sys.executable, "-X", "importtime", str(ROOT / "export" / f"{script}.py"), "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout
    assert not re.search(r"\| +(torch|onnx|onnxruntime)$", result.stderr, re.MULTILINE)


def test_no_module_is_named_like_a_dependency() -> None:
    dependencies = {"torch", "onnx", "onnxruntime", "tensorrt", "fastapi", "uvicorn", "pydantic", "numpy", "openvino"}
    sources = [p for part in ("export", "server", "clients", "plugins") for p in (ROOT / part).rglob("*.py")]
    assert not {p.stem for p in sources} & dependencies


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"serve", "test"} <= named <= targets


def test_image_copies_exist_and_compose_names_the_dockerfile() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile.cpu").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    assert "deploy/Dockerfile.cpu" in (ROOT / "docker-compose.yml").read_text()
