"""A Ray cluster of three nodes, which are processes here: one with Serve's proxy, two with room for a replica each."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}

import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from server.ray_serve import app

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServeCluster:
    """`url` is the proxy's."""

    nodes: Cluster
    url: str

    def deploy(self, **settings: str) -> None:
        """Deploys with the fake engine, or makes a rolling update of what is there; returns when it is done."""
        serve.run(app({"engine": "fake", "log_level": "warning", **settings}))

    def remove(self) -> None:
        serve.delete("default")

    def replicas(self) -> list[int]:
        """Process ids of the replicas that run."""
        return workers(self.nodes, "ServeReplica")


def workers(nodes: Cluster, title: str) -> list[int]:
    """Process ids of the cluster's workers whose title has these words."""
    raylets = [process.process.pid for node in nodes.worker_nodes for process in node.all_processes["raylet"]]
    command = ["pgrep", "-f", title, "-P", ",".join(map(str, raylets))]
    return [int(pid) for pid in subprocess.run(command, capture_output=True, check=False, text=True).stdout.split()]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1)
        ray.init(nodes.address, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="session")
def serving(cluster: Cluster) -> Iterator[ServeCluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    yield ServeCluster(cluster, f"http://127.0.0.1:{port}")
    serve.shutdown()
