"""What both clients share: how a request is made, when it is tried again, what an answer means. No I/O here."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict

import httpx2

from clients.errors import (
    ERROR_BY_STATUS,
    APIError,
    InvalidAnswerError,
    ServerError,
    TimedOutError,
    UnreachableError,
)
from clients.picture import Picture, encode
from clients.prediction import Prediction, parse_answer
from server.contract.wire import MaskFormat, Priority

FAILURES = (httpx2.RequestError, httpx2.InvalidURL)
Outcome = httpx2.Response | httpx2.RequestError | httpx2.InvalidURL

# 502: what a proxy says of a server that is being replaced.
_RETRIED_STATUSES = (429, 502, 503)
# Not ReadTimeout: the server may be at work on it still, and asking again would double its load.
_RETRIED_FAILURES = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)
# A server that drops a request at its deadline says so a moment later.
_GRACE_S = 5.0


class Options(TypedDict, total=False):
    """What every prediction takes; left out or None, the server's default for the model holds.

    `score_threshold` (0..1) and `max_detections` are clamped to the model's own limits. `classes`: names or ids.
    `mask`: the form of the masks in the answer; `none` saves making them. `model`, `version`: which of several loaded
    models. `timeout_ms`: the server drops the request when it cannot answer in time (`DeadlineError`); `predict` has
    so long for all its tries. `priority="low"`: waits while other requests do. `tile`: a large picture is looked at in
    squares of so many pixels, `overlap` of them shared with the next, and each object found once.
    """

    score_threshold: float | None
    max_detections: int | None
    classes: str | Iterable[str | int] | None
    mask: MaskFormat | None
    model: str | None
    version: str | None
    timeout_ms: int | None
    priority: Priority | None
    tile: int | None
    overlap: int | None


def query(options: Options) -> dict[str, str]:
    """The query of `POST /predict`."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    classes = given.get("classes", "")
    if not isinstance(classes, str):
        given["classes"] = ",".join(str(name) for name in classes)
    return {name: str(value) for name, value in given.items()}


class Body(TypedDict):
    """Arguments of httpx2's `post`."""

    content: bytes
    headers: dict[str, str]


def body(picture: Picture) -> Body:
    return {"content": encode(picture), "headers": {"Content-Type": "application/octet-stream"}}


def headers(api_key: str | None) -> dict[str, str]:
    """Sent with every request."""
    return {"Accept": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential, jittered, capped; only for 429, 502, 503, a proxy's own 500 and broken connections. Seconds.

    `retries`: tries after the first one. A patient policy does not count those that a busy server sent away with a
    Retry-After. A Retry-After is honoured to its full length: asking sooner would only add to the server's load. No try
    begins later than `within_s` after the first.
    """

    retries: int
    patient: bool = False
    within_s: float = 30.0
    first_s: float = 0.25
    longest_backoff_s: float = 8.0

    def delay_s(self, outcome: Outcome, attempt: int, passed_s: float = 0.0) -> float | None:
        """How long to wait before the next try; None to take this outcome.

        `attempt` counts from 0; `passed_s` is the time since the first try began.
        """
        told_s = retry_after_s(outcome) if isinstance(outcome, httpx2.Response) else None
        counted = attempt >= self.retries and not (self.patient and told_s is not None)
        if counted or not _may_retry(outcome):
            return None
        if told_s is None:
            delay_s = min(self.first_s * 2.0 ** min(attempt, 10), self.longest_backoff_s) * random.uniform(0.5, 1.0)
        else:
            # The jitter on top keeps clients that were told the same from coming back all at once.
            delay_s = max(told_s, self.first_s) * random.uniform(1.0, 1.1)
        return delay_s if passed_s + delay_s <= self.within_s else None


@dataclass
class Tries:
    """The tries of one call. `query` and `timeout` are for the try that comes next."""

    policy: RetryPolicy
    options: Options
    timeout_s: float
    _attempt: int = field(default=0, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def query(self) -> dict[str, str]:
        """With what is left of `timeout_ms`."""
        left_ms = self._left_ms()
        return query(self.options if left_ms is None else {**self.options, "timeout_ms": left_ms})

    def timeout(self) -> httpx2.Timeout:
        """Long enough to hear that a deadline has passed."""
        left_s = (self._left_ms() or 0) / 1e3
        return httpx2.Timeout(self.timeout_s, read=max(self.timeout_s, left_s + _GRACE_S if left_s else 0.0))

    def delay_s(self, outcome: Outcome) -> float | None:
        """How long to wait before the next try; None to take this outcome."""
        delay_s = self.policy.delay_s(outcome, self._attempt, time.monotonic() - self._began)
        self._attempt += 1
        left_ms = self._left_ms()
        late = delay_s is not None and left_ms is not None and delay_s * 1e3 >= left_ms
        return None if late and not self.policy.patient else delay_s

    def _left_ms(self) -> int | None:
        whole_ms = self.options.get("timeout_ms")
        if whole_ms is None or self.policy.patient or not self._attempt:
            return whole_ms
        return max(1, round(whole_ms - (time.monotonic() - self._began) * 1e3))


def _may_retry(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx2.Response):
        return outcome.status_code in _RETRIED_STATUSES or _is_of_a_proxy(outcome)
    return isinstance(outcome, _RETRIED_FAILURES)


def _is_of_a_proxy(response: httpx2.Response) -> bool:
    """A 500 that no Maskline server wrote: Ray Serve's proxy says so of a replica that died with the request."""
    return response.status_code == 500 and "problem+json" not in response.headers.get("Content-Type", "")


def retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None when there is none that makes sense."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def prediction(outcome: Outcome, url: str) -> Prediction:
    """What the answer says of the one picture that was sent, or the error that the outcome stands for."""
    if isinstance(outcome, httpx2.ReadTimeout):
        raise TimedOutError(f"{url} did not answer in time.") from outcome
    if not isinstance(outcome, httpx2.Response):
        raise UnreachableError(_no_answer(outcome, url)) from outcome
    if outcome.status_code != 200:
        raise _api_error(outcome)
    try:
        answer = outcome.json()
    except ValueError as error:
        raise InvalidAnswerError(f"{url} did not answer with JSON: is this a Maskline server?") from error
    found = parse_answer(answer)
    if len(found) != 1:
        raise InvalidAnswerError(f"1 picture was sent, {len(found)} answered.")
    return found[0]


def _no_answer(failure: httpx2.RequestError | httpx2.InvalidURL, url: str) -> str:
    if isinstance(failure, httpx2.TimeoutException):
        return f"{url} did not answer in time ({type(failure).__name__})."
    return f"No answer from {url}: {str(failure) or type(failure).__name__}."


def _api_error(response: httpx2.Response) -> APIError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": response.text[:200]}
    return ERROR_BY_STATUS.get(response.status_code, ServerError)(
        response.status_code,
        str(problem.get("title") or response.reason_phrase),
        str(problem.get("detail") or ""),
        problem.get("request_id"),
        retry_after_s(response),
    )
