"""What both clients share: how a request is made, when it is tried again, what an answer means. No I/O here."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict

import httpx2

from clients.errors import ERROR_BY_STATUS, APIError, InvalidAnswerError, MasklineError, ServerError, UnreachableError
from clients.picture import Picture, encode
from clients.prediction import Prediction, parse_answer
from server.contract.wire import MaskFormat

FAILURES = (httpx2.RequestError, httpx2.InvalidURL)
Outcome = httpx2.Response | httpx2.RequestError | httpx2.InvalidURL

_RETRIED_STATUSES = (429, 503)
# Not ReadTimeout: the server may be at work on it still, and asking again would double its load.
_RETRIED_FAILURES = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)


class Options(TypedDict, total=False):
    """What every prediction takes; left out or None, the server's default for the model holds.

    `score_threshold` (0..1) and `max_detections` are clamped to the model's own limits. `classes`: names or ids.
    `mask`: the form of the masks in the answer; `none` saves making them. `model`, `version`: which of several loaded
    models. `timeout_ms`: the server drops the request when it cannot answer in time (`DeadlineError`).
    """

    score_threshold: float | None
    max_detections: int | None
    classes: str | Iterable[str | int] | None
    mask: MaskFormat | None
    model: str | None
    version: str | None
    timeout_ms: int | None


def query(options: Options) -> dict[str, str]:
    """The query of `POST /predict`."""
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    classes = given.get("classes", "")
    if not isinstance(classes, str):
        given["classes"] = ",".join(str(name) for name in classes)
    return {name: str(value) for name, value in given.items()}


class Body(TypedDict, total=False):
    """Arguments of httpx2's `post`."""

    content: bytes
    headers: dict[str, str]
    files: list[tuple[str, tuple[str, bytes]]]


def body(pictures: Sequence[Picture]) -> Body:
    """One picture goes as a raw body, several as the parts of a form."""
    if len(pictures) == 1:
        return {"content": encode(pictures[0]), "headers": {"Content-Type": "application/octet-stream"}}
    return {"files": [("image", (f"picture-{k}", encode(picture))) for k, picture in enumerate(pictures)]}


def headers(api_key: str | None) -> dict[str, str]:
    """Sent with every request."""
    return {"Accept": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential, jittered, capped; only for 429, 503 and failures of the connection.

    A Retry-After is honoured to its full length. One beyond `longest_s` ends the tries: asking sooner than the server
    said would only add to its load. Seconds.
    """

    retries: int
    first_s: float = 0.25
    longest_s: float = 30.0

    def delay_s(self, outcome: Outcome, attempt: int) -> float | None:
        """How long to wait before the next try; None to take this outcome. `attempt` counts from 0."""
        if attempt >= self.retries or not _may_retry(outcome):
            return None
        backoff_s = min(self.first_s * 2.0**attempt, self.longest_s) * random.uniform(0.5, 1.0)
        told_s = retry_after_s(outcome) if isinstance(outcome, httpx2.Response) else None
        if told_s is None:
            return backoff_s
        # The jitter on top keeps clients that were told the same from coming back all at once.
        return None if told_s > self.longest_s else told_s + 0.1 * backoff_s


def _may_retry(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx2.Response):
        return outcome.status_code in _RETRIED_STATUSES
    return isinstance(outcome, _RETRIED_FAILURES)


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


def predictions(outcome: Outcome, url: str, count: int) -> list[Prediction]:
    """The answer's predictions, one for each of the `count` pictures sent, or the error that the outcome stands for."""
    if not isinstance(outcome, httpx2.Response):
        raise UnreachableError(_no_answer(outcome, url)) from outcome
    if outcome.status_code != 200:
        raise _api_error(outcome)
    try:
        answer = outcome.json()
    except ValueError as error:
        raise InvalidAnswerError(f"{url} did not answer with JSON: is this a Maskline server?") from error
    found = parse_answer(answer)
    if len(found) != count:
        raise InvalidAnswerError(f"{count} pictures were sent, {len(found)} answered.")
    return found


@contextmanager
def counting_from(first: int) -> Iterator[None]:
    """Errors of a request that holds the pictures from number `first` on say so: the server counts its own."""
    try:
        yield
    except MasklineError as error:
        if first:
            error.add_note(f"In the request whose picture 0 is picture {first} of this call.")
        raise


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
