"""How long a client waits before it asks again."""

from __future__ import annotations

import httpx2
import pytest

from clients.exchange import RetryPolicy

POLICY = RetryPolicy(retries=10)


def _delays_s(outcome: httpx2.Response | httpx2.TransportError, attempt: int) -> list[float]:
    found = [POLICY.delay_s(outcome, attempt) for _ in range(50)]
    assert None not in found
    return [delay_s for delay_s in found if delay_s is not None]


@pytest.mark.parametrize(("attempt", "longest_s"), [(0, 0.25), (1, 0.5), (4, 4.0), (9, 8.0)])
def test_waits_double_are_jittered_and_capped(attempt: int, longest_s: float):
    delays_s = _delays_s(httpx2.Response(503), attempt)
    assert longest_s / 2 <= min(delays_s) < max(delays_s) <= longest_s


def test_never_sooner_than_the_server_said():
    delays_s = _delays_s(httpx2.Response(429, headers={"Retry-After": "3"}), 0)
    assert 3.0 <= min(delays_s) < max(delays_s) <= 3.31


def test_told_to_come_back_at_once_a_client_still_lets_a_moment_pass():
    delays_s = _delays_s(httpx2.Response(429, headers={"Retry-After": "0"}), 4)
    assert 0.25 <= min(delays_s) < max(delays_s) <= 0.28


@pytest.mark.parametrize("told", ["soon", "nan?", ""])
def test_a_retry_after_of_no_sense_counts_as_none(told: str):
    assert max(_delays_s(httpx2.Response(429, headers={"Retry-After": told}), 0)) <= 0.25


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (httpx2.ConnectError("refused"), True),
        (httpx2.ConnectTimeout("slow"), True),
        (httpx2.ReadError("reset"), True),
        (httpx2.RemoteProtocolError("closed"), True),
        (httpx2.ReadTimeout("at work on it"), False),
        (httpx2.UnsupportedProtocol("ftp"), False),
        (httpx2.Response(429), True),
        (httpx2.Response(502), True),
        (httpx2.Response(503), True),
        (httpx2.Response(200), False),
        (httpx2.Response(400), False),
        (httpx2.Response(500, headers={"Content-Type": "application/problem+json"}), False),
        (httpx2.Response(500, headers={"Content-Type": "text/plain"}), True),
        (httpx2.Response(504), False),
    ],
    ids=repr,
)
def test_what_is_tried_again(outcome: httpx2.Response | httpx2.TransportError, again: bool):
    assert (POLICY.delay_s(outcome, 0) is not None) == again


def test_the_last_try_is_final():
    assert RetryPolicy(retries=1).delay_s(httpx2.Response(503), 1) is None


def test_no_try_begins_later_than_the_whole_may_last():
    told = httpx2.Response(429, headers={"Retry-After": "20"})
    assert RetryPolicy(retries=5, within_s=30).delay_s(told, 0, passed_s=5.0) is not None
    assert RetryPolicy(retries=5, within_s=30).delay_s(told, 0, passed_s=10.1) is None
    assert RetryPolicy(retries=5, within_s=30).delay_s(httpx2.ConnectError("refused"), 0, passed_s=30.0) is None


def test_patience_is_for_servers_that_say_when_to_come_back():
    patient = RetryPolicy(retries=1, patient=True)
    assert patient.delay_s(httpx2.Response(429, headers={"Retry-After": "1"}), 2000) is not None
    assert patient.delay_s(httpx2.Response(503), 1) is None
    assert patient.delay_s(httpx2.ConnectError("refused"), 1) is None
    assert patient.delay_s(httpx2.Response(200, headers={"Retry-After": "1"}), 0) is None
