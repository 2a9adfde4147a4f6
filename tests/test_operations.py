"""docs/operations.md, the alerts and the dashboard speak of what is there: settings, paths, metrics, labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.contract.wire import PredictOptions
from server.settings import ENV_PREFIX, Settings
from tests.server.running import PNG_HEADERS, fake_server, png

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/maskline.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]

FROM_PROMETHEUS = {"up", "ALERTS"}
LABELS_OF_PROMETHEUS = {"job", "instance", "alertname", "alertstate", "le"}


async def exposed() -> dict[str, set[str]]:
    """Names of samples with the labels that they have, of a server that has answered and refused."""
    async with fake_server() as client:
        await client.post("/predict", content=png(), headers=PNG_HEADERS)
        await client.post("/predict", content=b"no", headers=PNG_HEADERS)
        text = (await client.get("/metrics")).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Whose it is, and the expression."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]


def names_in(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\bby \([^)]*\)|\[[^\]]*\]', "", expression)
    return set(re.findall(r"\b(?:maskline|process|python)_\w+|\bALERTS\b|\bup\b", bare))


def labels_in(expression: str) -> Iterator[tuple[str, str]]:
    """Metrics, and labels by which they are chosen."""
    for name, chosen in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen):
            yield name, label


async def test_every_metric_and_label_of_dashboard_and_alerts_exists() -> None:
    known = await exposed()
    assert len(list(expressions())) > 30
    for owner, expression in expressions():
        assert names_in(expression), owner
        assert names_in(expression) - FROM_PROMETHEUS <= set(known), owner
        for name, label in labels_in(expression):
            assert label in known.get(name, set()) | LABELS_OF_PROMETHEUS, (owner, name, label)


async def test_the_page_lists_every_metric_with_its_labels() -> None:
    known = await exposed()
    rows = re.findall(r"^\| `(maskline_\w+)` \| (\w+) \|([^|]*)\|", PAGE, re.MULTILINE)
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known if name.startswith("maskline_")}
    assert {name for name, _, _ in rows} == ours
    for name, kind, labels in rows:
        sample = f"{name}_bucket" if kind == "histogram" else name
        assert set(re.findall(r"`(\w+)`", labels)) == known[sample] - {"le"}, name


def test_the_page_says_what_to_do_for_every_alert() -> None:
    told = re.findall(r"^\| `(Maskline\w+)` \|", PAGE, re.MULTILINE)
    assert told == [alert["alert"] for alert in ALERTS]
    assert {alert["labels"]["severity"] for alert in ALERTS} == {"critical", "warning"}


def test_the_table_of_settings_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs" / "settings_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    listed = re.findall(rf"^\| `{ENV_PREFIX}(\w+)` \|", PAGE, re.MULTILINE)
    assert [name.lower() for name in listed] == list(Settings.model_fields)


def test_settings_paths_and_links_of_the_page_exist() -> None:
    named = set(re.findall(r"`(\w+_(?:s|ms|mib|key|keys|size|threads|path|megapixels|pictures))`", PAGE))
    assert "max_queue_wait_s" in named
    known = {*Settings.model_fields, *PredictOptions.model_fields}
    assert {name for name in named if not name.startswith("maskline_")} <= known
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert set(re.findall(r"`(--(?:max|log|host)[a-z-]*)", PAGE)) <= flags
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    anchors = {re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    assert [path for path in re.findall(r"`((?:deploy|tests)/[\w./-]+)`", PAGE) if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", PAGE)) <= targets


async def test_paths_of_the_page_answer() -> None:
    async with fake_server() as client:
        for path in ("/health/live", "/health/ready", "/metrics", "/", "/docs", "/openapi.json"):
            assert f"`{path}`" in PAGE
            assert (await client.get(path)).status_code == 200


def test_the_example_of_a_log_line_has_the_names_of_one() -> None:
    (example,) = re.findall(r"^```json\n(.*)\n```$", PAGE, re.MULTILINE)
    code = """
import asyncio, logging
from server import logs
from tests.server.running import PNG_HEADERS, fake_server, png
async def main():
    async with fake_server() as client:
        await client.post("/predict", content=png(), headers=PNG_HEADERS)
logs.configure("info", "json")
logging.getLogger("httpx2").setLevel("WARNING")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    (line,) = done.stderr.splitlines()
    assert list(json.loads(line)) == list(json.loads(example))


def test_panels_do_not_overlap_and_have_what_grafana_needs() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == [chr(65 + i) for i in range(len(panel["targets"]))]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    built_in = {"stat", "timeseries", "heatmap", "state-timeline"}
    assert {panel["type"] for panel in DASHBOARD["panels"]} == built_in


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "deploy/prometheus/prometheus.yml"), ("test", "rules", "tests/alerts_test.yml")],
    ids=["config", "alerts"],
)
def test_prometheus_takes_its_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
