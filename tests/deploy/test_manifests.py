"""deploy/kubernetes: what it makes is valid, allowed in restricted namespaces, and fits together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, Object, built, of_kind, overlay, pod_of, runtime, server_of

OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))
VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The first that knows `preStop.sleep` without being asked to, and the last whose schemas are here."""
CUSTOM = {"ScaledObject", "PodMonitor", "ServingRuntime", "InferenceService"}
"""Kinds of KEDA, of the Prometheus operator and of KServe."""


def errors(found: Object, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@pytest.fixture(params=COMPONENTS)
def with_component(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Object, ...]:
    """The servers of a CPU with one component."""
    text = {
        "resources": [os.path.relpath(KUBERNETES / "overlays" / "cpu", tmp_path.resolve())],
        "components": [os.path.relpath(KUBERNETES / "components" / request.param, tmp_path.resolve())],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return built(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_of_kubernetes_is_valid(name: str, version: str) -> None:
    own = [found for found in overlay(name) if found["kind"] not in CUSTOM]
    assert len(own) == 5
    assert [errors(found, version) for found in own] == [[]] * 5


@pytest.mark.parametrize("version", VERSIONS)
def test_every_component_stands_alone(with_component: tuple[Object, ...], version: str) -> None:
    assert with_component != overlay("cpu")
    assert [errors(found, version) for found in with_component if found["kind"] not in CUSTOM] == [[]] * 5


def test_a_misspelt_field_is_noticed() -> None:
    pod = {"containers": [{"name": "a", "image": "b", "redinessProbe": {}}]}
    found = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}
    assert "redinessProbe" in errors(found, VERSIONS[1])[0]


def test_no_file_is_left_out() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        beside = {file.name for file in path.parent.glob("*.yaml")} - {path.name}
        assert beside <= set(yaml.safe_load(path.read_text()).get("resources", [])), path


def restricted(pod: Object, container: Object) -> dict[str, Any]:
    """What Pod Security's profile `restricted` asks for."""
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    return {
        "non-root": context["runAsNonRoot"] and context["runAsUser"] > 0,
        "seccomp": context["seccompProfile"],
        "escalation": context["allowPrivilegeEscalation"],
        "capabilities": context["capabilities"],
        "read-only": context["readOnlyRootFilesystem"],
    }


@pytest.mark.parametrize("name", [*OVERLAYS, "kserve"])
def test_containers_have_no_rights(name: str) -> None:
    pod = runtime()[1]["spec"] if name == "kserve" else pod_of(overlay(name))
    service = of_kind(built(KUBERNETES / "kserve"), "InferenceService")["spec"]["predictor"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert restricted(pod, container) == {
            "non-root": True,
            "seccomp": {"type": "RuntimeDefault"},
            "escalation": False,
            "capabilities": {"drop": ["ALL"]},
            "read-only": True,
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "persistentVolumeClaim"}
    assert (service if name == "kserve" else pod)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_choose_the_servers(name: str) -> None:
    objects = overlay(name)
    deployment = of_kind(objects, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        deployment["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        of_kind(objects, "Service")["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(found["spec"]["selector"]["matchLabels"] for found in objects if found["kind"] == "PodMonitor"),
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    assert {found["metadata"].get("namespace", "maskline") for found in objects} == {"maskline"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_port_is_the_servers(name: str) -> None:
    objects = overlay(name)
    (port,) = server_of(objects)["ports"]
    probes = [server_of(objects)[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")]
    allowed = of_kind(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"]
    exposed = of_kind(objects, "Service")["spec"]["ports"][0]["targetPort"]
    scraped = [o["spec"]["podMetricsEndpoints"][0]["port"] for o in objects if o["kind"] == "PodMonitor"]
    assert {*probes, allowed, exposed, *scraped} == {port["name"]}


def test_the_gpu_overlay_asks_for_one_gpu() -> None:
    assert server_of(overlay("gpu"))["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod_of(overlay("gpu"))["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "nvidia.com/gpu" not in server_of(overlay("cpu"))["resources"]["limits"]


def test_the_autoscaler_scales_the_deployment_and_nothing_else_does() -> None:
    objects = overlay("example")
    deployment, scaled = of_kind(objects, "Deployment"), of_kind(objects, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]  # each `apply` would set it back
    assert scaled["minReplicaCount"] == of_kind(overlay("cpu"), "Deployment")["spec"]["replicas"] > 1
    (trigger,) = scaled["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert {"serverAddress", "query", "threshold"} <= set(trigger["metadata"])


def test_kserve_finds_the_runtime_of_its_service() -> None:
    container, serving = runtime()
    service = of_kind(built(KUBERNETES / "kserve"), "InferenceService")
    model = service["spec"]["predictor"]["model"]
    (form,) = serving["spec"]["supportedModelFormats"]
    assert model["runtime"] == serving["metadata"]["name"]
    assert model["modelFormat"].items() <= form.items()
    assert model["protocolVersion"] in serving["spec"]["protocolVersions"]
    assert container["name"] == "kserve-container"  # to which KServe gives the model
    bundle = yaml.safe_load((KUBERNETES.parents[1] / "models" / "demo" / "model.json").read_text())
    assert service["metadata"]["name"] == bundle["name"]
