"""The service on Ray Serve: replicas that die, that are replaced, and of which there are too few."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable

import httpx2
import pytest

from clients import Client
from tests.real_ray.conftest import ServeCluster
from tests.real_ray.load import FILES, load

TWO = {"min_replicas": "2", "max_replicas": "2"}
NOTICED_S = 2.0
"""How long it may take until Serve knows that a replica is dead."""


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds()


def test_a_replica_is_killed_under_load(serving: ServeCluster, caplog: pytest.LogCaptureFixture):
    serving.deploy(fake_batch_ms="50", **TWO)
    dead, alive = serving.replicas()
    with caplog.at_level(logging.INFO, "httpx2"), load(serving.url, retrying=8, bare=4) as outcome:
        time.sleep(1.5)
        killed_s = time.monotonic()
        os.kill(dead, signal.SIGKILL)
        time.sleep(3)
    assert outcome.wrong == 0
    assert outcome.lost == []
    failed = [one for one in outcome.bare if one.failure]
    assert all(one.sent_s < killed_s + NOTICED_S and one.done_s > killed_s for one in failed)
    refusals = sum(record.name == "httpx2" and " 500 " in record.message for record in caplog.records)
    assert len(failed) < refusals, "the other clients met some too, and asked again"
    assert refusals <= 12, "no more than there were callers, of whom some had a request at that replica"
    assert wait_until(lambda: len(serving.replicas()) == 2, 30), "another replica takes its place"
    assert alive in serving.replicas()


def test_a_rolling_update_under_load(serving: ServeCluster):
    serving.deploy(fake_batch_ms="700", **TWO)
    before = serving.replicas()
    with load(serving.url, retrying=4, bare=4) as outcome:
        time.sleep(1)
        serving.deploy(fake_batch_ms="20", **TWO)
        time.sleep(1)
    assert outcome.wrong == 0
    assert outcome.lost == []
    assert [one.failure for one in outcome.bare if one.failure] == []
    assert wait_until(lambda: len(serving.replicas()) == 2, 10)
    assert not set(before) & set(serving.replicas())


def test_more_requests_than_one_replica_should_have(serving: ServeCluster):
    serving.remove()
    serving.deploy(fake_batch_ms="100", min_replicas="1", max_replicas="2", target_requests="4")
    assert len(serving.replicas()) == 1
    with load(serving.url, retrying=12) as outcome:
        assert wait_until(lambda: len(serving.replicas()) == 2, 60)
    assert (outcome.wrong, outcome.lost) == (0, [])


def test_ids_readiness_and_refusals_are_those_of_the_service(serving: ServeCluster):
    serving.deploy()
    ready = httpx2.get(f"{serving.url}/health/ready", headers={"X-Request-ID": "mine-1"})
    assert (ready.status_code, ready.headers.get_list("X-Request-ID")) == (200, ["mine-1"])
    refused = httpx2.post(f"{serving.url}/predict", content=b"text", headers={"Content-Type": "image/png"})
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["request_id"] == refused.headers["X-Request-ID"]
    with Client(serving.url) as client:
        assert client.predict(FILES[0]).request_id
