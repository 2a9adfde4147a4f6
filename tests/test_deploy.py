"""Images, compose file and the page about GPUs name files, stages, options and versions that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.__main__ import COMMANDS
from export.build_options import parser
from export.triton_texts import TENSORRT_OF_TRITON, TRITON_IMAGE
from server.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GPU_IMAGE = (DEPLOY / "Dockerfile.gpu").read_text()
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def services() -> dict[str, dict[str, Any]]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.mark.parametrize("dockerfile", sorted(DEPLOY.glob("Dockerfile.*")), ids=lambda path: path.name)
def test_what_an_image_copies_is_there(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert set(re.findall(r"--from=(\S+)", text)) <= stages


def test_services_are_built_from_stages_that_are_there() -> None:
    for service in services().values():
        if "build" in service:
            text = (ROOT / service["build"]["dockerfile"]).read_text()
            assert "target" not in service["build"] or f" AS {service['build']['target']}\n" in text


@pytest.mark.parametrize("name", ["gpu", "build-engine"])
def test_services_of_the_gpu_get_one_and_little_else(name: str) -> None:
    service = services()[name]
    assert service["profiles"]  # `docker compose up` on a machine without a GPU leaves them alone
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_server_of_the_gpu_is_set_up_as_the_one_of_the_cpu() -> None:
    ours, cpu = services()["gpu"], services()["server"]
    for key in ("ports", "volumes", "tmpfs", "stop_grace_period", "restart"):
        assert ours[key] == cpu[key]
    cpu_image = (DEPLOY / "Dockerfile.cpu").read_text()
    for line in (
        r"^    CMD \[.*$",
        r"^STOPSIGNAL .*$",
        r"^USER .*$",
        r"^EXPOSE .*$",
        r"^CMD \[\"maskline\", \"serve\".*$",
    ):
        (expected,) = re.findall(line, cpu_image, re.MULTILINE)
        assert expected in GPU_IMAGE


def test_the_image_knows_where_its_plugins_are() -> None:
    (copied,) = re.findall(r"^COPY --from=plugins (.+) (\S+)/$", GPU_IMAGE, re.MULTILINE)
    files, folder = copied[0].split(), copied[1]
    (named,) = re.findall(r"MASKLINE_PLUGIN_LIBRARY=(\S+)", GPU_IMAGE)
    assert named in {f"{folder}/{Path(file).name}" for file in files}
    assert {Path(file).name for file in files} == {
        "libmaskline_plugins.so",
        "libmaskline_plugins_registered.so",
    }
    assert named in PAGE


def test_images_of_tensorrt_and_triton_are_of_one_release() -> None:
    releases = re.findall(r"nvcr\.io/nvidia/tensorrt:(\S+)-py3", GPU_IMAGE + PAGE)
    releases += re.findall(r"nvcr\.io/nvidia/tritonserver:(\S+)-py3", TRITON_IMAGE + PAGE)
    assert len(releases) >= 4
    assert len(set(releases)) == 1
    assert TENSORRT_OF_TRITON in GPU_IMAGE


def test_the_page_names_options_and_commands_that_are_there() -> None:
    own = {option for action in parser(None)._actions for option in action.option_strings}
    named = set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE))
    assert named
    assert named <= own
    assert set(re.findall(r"^maskline ([a-z-]+)", PAGE, re.MULTILINE)) <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", PAGE)) <= targets | {"it"}
    assert set(re.findall(r"docker compose (?:up|build|logs|run --rm) ([a-z-]+)", PAGE)) <= set(services())


def test_messages_of_the_page_are_those_of_the_program() -> None:
    sources = [p for part in ("export", "plugins", "server") for p in (ROOT / part).rglob("*.py")]
    joined = re.sub(r'"\s*\n\s*f?"', "", "\n".join(source.read_text() for source in sources))
    told = re.findall(r"^\| `([^`-][^`]*)` \|", PAGE[PAGE.index("what the messages mean") :], re.MULTILINE)
    assert len(told) > 10
    literal = [message.replace("engine tensorrt", "engine {engine}").replace("model.json", "") for message in told]
    assert [message for message in literal if message.strip() not in joined] == []


@pytest.mark.parametrize("page", ["docs/gpu.md", "benchmarks/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("name", ["server", "gpu"])
def test_a_container_is_not_killed_before_the_server_gives_up(name: str) -> None:
    seconds = int(services()[name]["stop_grace_period"].removesuffix("s"))
    assert seconds >= Settings().drain_timeout_s + 10


# Prometheus and Grafana


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_is_asked_for_pinned_and_seen_from_this_machine_only(name: str) -> None:
    service = services()[name]
    assert service["profiles"] == ["monitoring"]
    assert re.fullmatch(r"(prom/prometheus|grafana/grafana):v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    folders = [volume.split(":") for volume in service["volumes"] if volume.startswith("./")]
    assert folders
    assert all((ROOT / folder).is_dir() and mode == "ro" for folder, _, mode in folders)


def test_grafana_lets_anybody_look_and_nobody_in() -> None:
    environment = services()["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in environment if name.startswith("GF_INSTALL")]


def test_grafana_prometheus_and_the_servers_find_each_other() -> None:
    grafana, config = services()["grafana"], yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    mounted = {where: ROOT / folder for folder, where, _ in (volume.split(":") for volume in grafana["volumes"])}
    provisioning = mounted["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "maskline.yml").read_text())["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert provider["options"]["path"] == str(home.parent)
    assert (mounted[str(home.parent)] / home.name).is_file()
    (scrape,) = config["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    assert scrape["job_name"] == "maskline"
    assert set(found["names"]) <= set(services())
    for name in found["names"]:
        assert services()[name]["ports"] == [f"127.0.0.1:${{PORT:-8000}}:{found['port']}"]
    assert [(DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"]] == [True]


def test_the_load_test_runs_beside_the_monitoring() -> None:
    assert services()["loadtest"]["profiles"] == ["load"]
    assert "profiles" not in services()["server"]
