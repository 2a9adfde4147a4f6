"""The soak in short: every request answered once with its own answer, through reloads, rubbish and a stop."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from benchmarks.overhead import processes
from benchmarks.soak import phases
from benchmarks.soak.__main__ import check
from benchmarks.soak.cases import ADMIN_KEY, Case, bad_cases, good_cases, write_bundle
from benchmarks.soak.traffic import Traffic
from clients.loadtest import generator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

REQUESTS, CLIENTS = 2000, 16


@pytest.fixture(scope="module")
def good() -> list[Case]:
    return good_cases(60)


@pytest.fixture
def soaked(tmp_path: Path, good: list[Case]) -> Iterator[phases.Soaked]:
    port = processes.free_port()
    bundle, url = write_bundle(tmp_path / "fake"), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "server", str(bundle), "--engine", "fake", "--port", str(port)]
    command += ["--fake-batch-ms", "5", "--admin-key", ADMIN_KEY]
    with processes.serving(command, {}, f"{url}/health/ready", tmp_path / "log") as server:
        yield phases.Soaked(server, url, good, bad_cases(good))


async def test_every_request_is_answered_once_and_the_last_ones_after_sigterm(soaked: phases.Soaked) -> None:
    traffic, left = soaked.traffic(seed=3), itertools.count(REQUESTS, -1)
    load = asyncio.create_task(traffic.run(CLIENTS, lambda: next(left) > 0))
    await asyncio.sleep(0.5)
    for _ in range(2):
        assert await load_again(soaked.url) == 200
    assert not load.done(), "the reloads were not in the middle"
    await load
    outcomes = traffic.ledger.outcomes
    assert traffic.ledger.unexpected == []
    assert set(outcomes) == {"right", "bad, refused", "left"}
    assert outcomes.total() == REQUESTS

    stopped = await phases.terminate(soaked)
    assert stopped["owed"] > 0
    assert stopped["unanswered"] == []
    assert stopped["status"] == 0


async def load_again(url: str) -> int:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as session,
        session.post(f"{url}/models/fake/load") as response,
    ):
        return response.status


async def test_an_answer_that_is_not_ones_own_is_noticed(good: list[Case]) -> None:
    """The ledger itself: a server that mixes answers up, loses ids or takes rubbish does not pass."""
    ledger = Traffic("http://unused", good, []).ledger
    judge = Traffic("http://unused", good, [])
    judge.ledger = ledger
    images = good[0].images
    judge.judge(good[0], "a", 200, {"request_id": "a", "images": images})
    assert ledger.outcomes == {"right": 1}
    judge.judge(good[1], "b", 200, {"request_id": "b", "images": images})
    judge.judge(good[0], "c", 200, {"request_id": "a", "images": images})
    judge.judge(good[0], "d", 500, {"request_id": "d", "detail": "The server has a bug."})
    judge.judge(bad_cases(good)[0], "e", 200, {"request_id": "e", "images": images})
    assert ledger.unexpected_count == 4
    assert [line[0] for line in ledger.unexpected] == ["b", "c", "d", "e"]


async def test_overload_and_mixed_load_are_reported(soaked: phases.Soaked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures' meaning, not their size: this machine has other work."""
    monkeypatch.setattr(phases, "RSS_EVERY_S", 0.1)
    monkeypatch.setattr(phases, "PEAK_S", 0.5)
    monkeypatch.setattr(phases, "CALM_S", 0.3)
    monkeypatch.setattr(phases, "RECOVERY_S", 0.1)
    monkeypatch.setattr(phases, "OVERLOAD_FACTOR", 1)
    monkeypatch.setattr(generator, "WARM_UP_S", 0.1)
    mixed = await phases.mixed(soaked, 1.5, reloads=1)
    assert (mixed["unexpected_count"], mixed["reloads"]) == (0, 1)
    assert len(mixed["rss_mib"]) > 5
    assert min(mixed["rss_mib"]) > 20
    overload = await phases.overload(soaked, 1.0)
    assert overload["peak_per_s"] > 0
    assert overload["sent"] > 0
    assert overload["failed"] == 0


GOOD_REPORT = {
    "mixed": {"unexpected_count": 0, "unexpected": [], "reloads": 10, "rss_growth": 0.01},
    "overload": {
        "rss_growth": 0.0,
        "goodput_of_peak": 0.95,
        "failed": 0,
        "refused": 100,
        "refusal_p50_ms": 5.0,
        "calm_p50_ms": 50.0,
        "after_p50_ms": 55.0,
    },
    "terminate": {"owed": 3, "unanswered": [], "status": 0},
}


def test_a_good_report_has_no_complaints() -> None:
    assert list(check(GOOD_REPORT)) == []


@pytest.mark.parametrize(
    ("phase", "key", "value"),
    [
        ("mixed", "unexpected_count", 1),
        ("mixed", "reloads", 9),
        ("mixed", "rss_growth", 0.03),
        ("overload", "goodput_of_peak", 0.5),
        ("overload", "failed", 1),
        ("overload", "refused", 0),
        ("overload", "refusal_p50_ms", 80.0),
        ("overload", "after_p50_ms", 500.0),
        ("terminate", "unanswered", ["soak-1"]),
        ("terminate", "status", None),
    ],
)
def test_each_promise_is_checked(phase: str, key: str, value: object) -> None:
    found = {name: dict(values) for name, values in GOOD_REPORT.items()}
    found[phase][key] = value  # type: ignore[assignment]
    assert len(list(check(found))) == 1


def test_growth_is_of_the_last_fifth_over_the_first() -> None:
    assert phases.growth([100, 100, 150, 150, 110]) == pytest.approx(0.1)
    assert phases.growth([100]) is None
