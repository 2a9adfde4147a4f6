"""docs/kubernetes.md and docs/scale.md speak of what is there."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from clients.__main__ import COMMANDS
from server.settings import ENV_PREFIX, Settings
from tests.deploy.manifests import KUBERNETES, ROOT, of_kind, overlay, pod_of, server_of

PAGE = (ROOT / "docs/kubernetes.md").read_text()
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("kubernetes.md", "scale.md")}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_paths_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[name])
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    paths = re.findall(r"\b((?:deploy|tests)/[\w./-]+[\w])", PAGES[name])
    assert [path for path in paths if not (ROOT / path).exists()] == []
    overlays = re.findall(r"`overlays/(\w+)`", PAGES[name])
    assert [overlay for overlay in overlays if not (KUBERNETES / "overlays" / overlay).is_dir()] == []


@pytest.mark.parametrize("name", PAGES)
def test_variables_and_commands_are_there(name: str) -> None:
    variables = set(re.findall(rf"{ENV_PREFIX}[A-Z_]+", PAGES[name]))
    assert variables <= {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"^maskline ([a-z-]+)", PAGES[name], re.MULTILINE)) <= set(COMMANDS)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(re.findall(r"docker compose build (\S+)", PAGES[name])) <= set(services)


def test_every_component_is_in_the_table() -> None:
    named = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (KUBERNETES / "components").iterdir())


def test_times_are_those_of_the_manifests() -> None:
    pod, server = pod_of(overlay("cpu")), server_of(overlay("cpu"))
    drain = f"{ENV_PREFIX}DRAIN_TIMEOUT_S` ({Settings().drain_timeout_s:g})"
    text = " ".join(PAGE.split())
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] == 10
    assert "for ten seconds (`preStop`)" in text
    assert drain in text
    assert f"{pod['terminationGracePeriodSeconds']} s later it would be killed" in text
    assert f"`MASKLINE_MAX_QUEUE_WAIT_S` ({Settings().max_queue_wait_s:g} s)" in " ".join(PAGES["scale.md"].split())


def test_the_label_that_lets_callers_in_is_the_policys() -> None:
    (_, labelled) = of_kind(overlay("cpu"), "NetworkPolicy")["spec"]["ingress"][0]["from"]
    ((name, value),) = labelled["namespaceSelector"]["matchLabels"].items()
    assert set(re.findall(r"maskline-clients\S*?=\w+", PAGE)) == {f"{name}={value}"}


def test_the_alerts_become_a_rule_of_the_operator() -> None:
    (lines,) = re.findall(r"^(\{ printf .*?\}) \| kubectl", PAGE, re.MULTILINE | re.DOTALL)
    made = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, cwd=ROOT, timeout=10, check=True).stdout
    rule = yaml.safe_load(made)
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
