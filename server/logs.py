"""Log lines, as text or as JSON, and the one line of each request.

A line may carry values: `logger.info("loaded", extra=values(model="nuclei"))`. Text shows them as `name=value`, JSON as
members. Queries, headers and bodies never come in here: keys travel in them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from server.record import Record

LogFormat = Literal["text", "json"]

requests = logging.getLogger("server.requests")

OURS = ("server", "export", "plugins", "py")
"""First part of the loggers that no client can make repeat themselves; `py` is Python's warnings."""
REFUSALS = (429, 503)
SUMMARY_S = 10.0
PLAIN = re.compile(r'[^\s"=\x00-\x1f\x7f-\x9f\u2028\u2029]+')


def configure(level: str, log_format: LogFormat) -> None:
    """Every library's lines go the same way: to stderr, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(Seldom())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def values(**named: object) -> dict[str, dict[str, object]]:
    """For a logger's `extra`."""
    return {"values": named}


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message, name=value ..."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        named = getattr(record, "values", {})
        return " ".join([super().formatMessage(record), *(f"{name}={_text(value)}" for name, value in named.items())])


class JsonFormatter(logging.Formatter):
    """One object a line, also for an exception."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        document: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "values", {}),
        }
        if record.exc_info and record.exc_info[0]:
            kind, error, _ = record.exc_info
            trace = self.formatException(record.exc_info)
            document["exception"] = {"type": kind.__name__, "message": str(error), "trace": trace}
        return json.dumps(document, default=str)


class Seldom(logging.Filter):
    """Lets through a line that another library repeats once in ten seconds: a client can provoke uvicorn's at will."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in OURS:
            return True
        where = (record.pathname, record.lineno)
        if record.created - self._shown.get(where, float("-inf")) < SUMMARY_S:
            return False
        self._shown[where] = record.created
        return True


class AccessLog:
    """One line a request.

    Probes are debug lines, and so are requests refused before any work was done (429, 503): an overloaded or stopping
    server refuses thousands a second, and `maskline_requests_total` counts them all. At most one warning in ten seconds
    says that there are any.
    """

    def __init__(self) -> None:
        self._refused = 0
        self._summed_up = float("-inf")

    def write(self, record: Record, *, is_probe: bool) -> None:
        is_refusal = record.status in REFUSALS and not record.progress
        level = logging.DEBUG if is_probe or is_refusal else logging.INFO
        if requests.isEnabledFor(level):
            requests.log(level, "request", extra={"values": _line(record)})
        if is_refusal and not is_probe:
            self._sum_up()

    def _sum_up(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._summed_up >= SUMMARY_S:
            requests.warning("refused requests since the last such line", extra=values(count=self._refused))
            self._refused, self._summed_up = 0, now


def _line(record: Record) -> dict[str, object]:
    line: dict[str, object] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "ms": round(record.seconds * 1e3, 1),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    if record.model is not None:
        line |= {"model": record.model.name, "version": record.model.version}
    if record.pictures:
        line["pictures"] = record.pictures
    if record.batch_size:
        line["batch_size"] = record.batch_size
    line |= {f"{name}_ms": round(stage.seconds * 1e3, 1) for name, stage in record.progress.items()}
    if record.trace_id:
        line["trace_id"] = record.trace_id
    return line


def _text(value: object) -> str:
    if not isinstance(value, str):
        return str(value)
    return value if PLAIN.fullmatch(value) else json.dumps(value)
