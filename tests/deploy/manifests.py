"""The objects that `kubectl apply -k` would send, made by kubectl itself."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"

Object = dict[str, Any]


@functools.cache
def built(folder: Path) -> tuple[Object, ...]:
    """Of a kustomization."""
    kubectl = shutil.which("kubectl", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    assert kubectl, "kubectl comes with the extra `dev`"
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Object, ...]:
    return built(KUBERNETES / "overlays" / name)


def of_kind(objects: tuple[Object, ...], kind: str) -> Object:
    (found,) = [o for o in objects if o["kind"] == kind]
    return found


def pod_of(objects: tuple[Object, ...]) -> Object:
    pod: Object = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def server_of(objects: tuple[Object, ...]) -> Object:
    """The container of the Deployment that is the server."""
    (found,) = pod_of(objects)["containers"]
    return dict(found)


def runtime() -> tuple[Object, Object]:
    """Of KServe: its container and the whole of it."""
    found = of_kind(built(KUBERNETES / "kserve"), "ServingRuntime")
    (container,) = found["spec"]["containers"]
    return container, found


def variables(container: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container.get("env", [])}
