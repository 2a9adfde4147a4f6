"""What deploy/kubernetes says of the server is true: paths, port, settings, user, times, memory, metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from server.settings import ENV_PREFIX, Settings
from tests.deploy.manifests import (
    KUBERNETES,
    ROOT,
    Object,
    built,
    of_kind,
    overlay,
    pod_of,
    runtime,
    server_of,
    variables,
)
from tests.server.running import PNG_HEADERS, fake_server, png

IMAGES = {name: (ROOT / f"deploy/Dockerfile.{name}").read_text() for name in ("cpu", "gpu")}
TRACES_S = 10
"""How long the last traces may take on their way to a collector that does not answer (docs/operations.md)."""
GIB = 1 << 30


@pytest.fixture(params=["cpu", "gpu", "example", "kserve"])
def container(request: pytest.FixtureRequest) -> Object:
    return runtime()[0] if request.param == "kserve" else server_of(overlay(request.param))


@pytest.fixture(params=["cpu", "gpu", "example", "kserve"])
def pod(request: pytest.FixtureRequest) -> Object:
    """With one container, the server."""
    if request.param != "kserve":
        return pod_of(overlay(request.param))
    predictor = of_kind(built(KUBERNETES / "kserve"), "InferenceService")["spec"]["predictor"]
    return {**runtime()[1]["spec"], **predictor}


def settings_of(container: Object) -> Settings:
    """As the server in the container reads them."""
    given = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in variables(container).items()
        if name.startswith(ENV_PREFIX)
    }
    return Settings(**given)  # type: ignore[arg-type]  # pydantic reads texts


def test_variables_are_settings(container: Object) -> None:
    assert set(variables(container)) <= {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    settings_of(container)


def test_keys_are_named_as_the_server_reads_them() -> None:
    (source,) = server_of(overlay("example"))["envFrom"]
    texts = [(KUBERNETES / "components/api-keys/kustomization.yaml").read_text()]
    texts.append((ROOT / "docs/kubernetes.md").read_text())
    for text in texts:
        named = re.findall(r"create secret generic (\S+) .*--from-literal=(\w+)=", text)
        assert named == [(source["secretRef"]["name"], f"{ENV_PREFIX}API_KEYS")]
    assert "api_keys" in Settings.model_fields


def test_the_address_of_the_service_is_not_taken_for_a_port(pod: Object) -> None:
    with pytest.raises(ValidationError):
        Settings(port="tcp://10.0.0.1:80")  # type: ignore[arg-type]  # what service links put into MASKLINE_PORT
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_user_port_and_folders_are_those_of_the_images(pod: Object, image: str) -> None:
    (server,) = pod["containers"]
    user = {**pod["securityContext"], **server["securityContext"]}["runAsUser"]
    assert re.findall(r"^USER (\d+)$", image, re.MULTILINE)[-1] == str(user)
    (port,) = [port["containerPort"] for port in server["ports"]]
    assert f"MASKLINE_PORT={port}\n" in image
    assert port == Settings().port
    (cache,) = re.findall(r"NUMBA_CACHE_DIR=(\S+)", image)
    scratch = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    written = {m["mountPath"] for m in server["volumeMounts"] if m["name"] in scratch and not m.get("readOnly")}
    assert written == {"/tmp", cache}


def test_bundles_are_put_where_the_image_looks_for_them() -> None:
    for image in IMAGES.values():
        assert "MASKLINE_MODELS=/models " in image
    for name in ("bundles-image", "bundles-volume"):
        component = yaml.safe_load((KUBERNETES / "components" / name / "kustomization.yaml").read_text())
        (patch,) = component["patches"]
        (server,) = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]["containers"]
        assert server["volumeMounts"] == [{"name": "bundles", "mountPath": "/models", "readOnly": True}]
    assert settings_of(runtime()[0]).models == ("/mnt/models",)  # where KServe puts them


@pytest.mark.parametrize("image", ["maskline:cpu", "maskline:gpu"])
def test_images_are_those_that_compose_builds(image: str) -> None:
    assert server_of(overlay(image.removeprefix("maskline:")))["image"] == image
    assert f"image: {image}\n" in (ROOT / "docker-compose.yml").read_text()


async def test_probes_ask_what_the_server_answers_without_a_key(container: Object) -> None:
    async with fake_server(api_keys=("secret",)) as client:
        for kind in ("startup", "liveness", "readiness"):
            reply = await client.get(container[f"{kind}Probe"]["httpGet"]["path"])
            assert reply.status_code == 200
    assert container["startupProbe"]["httpGet"] == container["livenessProbe"]["httpGet"]
    assert container["livenessProbe"]["httpGet"]["path"].endswith("/live")
    assert container["readinessProbe"]["httpGet"]["path"].endswith("/ready")


def test_a_pod_is_not_killed_before_it_has_answered(pod: Object) -> None:
    (server,) = pod["containers"]
    announced = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert announced >= 5
    given, settings = pod["terminationGracePeriodSeconds"], settings_of(server)
    assert given >= announced + settings.drain_timeout_s + TRACES_S
    assert settings.drain_timeout_s >= settings.timeout_s  # no request may take longer


def test_an_engine_that_hangs_is_replaced_before_the_pod_is(container: Object) -> None:
    """Liveness fails only where the server itself says so; a pod that merely starts slowly has five minutes."""
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


def test_the_memory_holds_what_the_settings_let_in(container: Object) -> None:
    settings = settings_of(container)
    taken_mib = settings.max_queue_mib + settings.max_bodies_mib + 2 * settings.max_decode_mib
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    # Warm with batches of up to 8 the demo has 1.34 GB (docs/operations.md).
    assert float(limit.removesuffix("Gi")) * GIB >= taken_mib * (1 << 20) + 1.5 * GIB
    assert container["resources"]["requests"]["memory"] == limit


def test_the_server_is_told_how_many_cpus_it_has(container: Object) -> None:
    """A quota is what it counts (`server.engines`); without one it would start a thread for each CPU of the node."""
    resources = container["resources"]
    assert resources["limits"]["cpu"] == resources["requests"]["cpu"]
    assert resources["limits"]["cpu"].isdecimal()


# Metrics


def query() -> str:
    (trigger,) = of_kind(overlay("example"), "ScaledObject")["spec"]["triggers"]
    text: str = trigger["metadata"]["query"]
    return text


async def test_the_autoscaler_asks_for_a_metric_that_is_there() -> None:
    (metric,) = re.findall(r"maskline_\w+", query())
    endpoint = of_kind(overlay("example"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    async with fake_server(api_keys=("secret",)) as client:
        await client.post("/predict", content=png(), headers={**PNG_HEADERS, "Authorization": "Bearer secret"})
        text = (await client.get(endpoint["path"])).text
    assert re.search(rf"^{metric}\{{.*\}} \S+$", text, re.MULTILINE)
    path = runtime()[1]["spec"]["annotations"]["prometheus.kserve.io/path"]
    assert path == endpoint["path"]


def test_servers_in_the_cluster_are_the_job_of_the_alerts() -> None:
    objects = overlay("example")
    label = of_kind(objects, "PodMonitor")["spec"]["jobLabel"]
    job = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"][label]
    assert f'job="{job}"' in (ROOT / "deploy/prometheus/alerts.yml").read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_the_query_is_the_mean_wait_of_the_servers(tmp_path: Path) -> None:
    """Of a server with two models it takes the longer wait; another namespace's servers do not count."""
    waits = {("maskline", "a", "demo"): 0.2, ("maskline", "a", "other"): 0.6, ("maskline", "b", "demo"): 1.0}
    waits["elsewhere", "c", "demo"] = 9.0
    series = [
        {
            "series": f'maskline_predicted_wait_seconds{{namespace="{space}",pod="{name}",model="{model}"}}',
            "values": f"{wait}+0x20",
        }
        for (space, name, model), wait in waits.items()
    ]
    expected: dict[str, Any] = {"expr": query(), "eval_time": "4m", "exp_samples": [{"labels": "{}", "value": 0.8}]}
    group = {"interval": "15s", "input_series": series, "promql_expr_test": [expected]}
    (tmp_path / "query.yml").write_text(json.dumps({"tests": [group]}))
    command = ["promtool", "test", "rules", str(tmp_path / "query.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
