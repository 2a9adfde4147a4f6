"""What to tell of an error, and whether the next picture would meet it too."""

from __future__ import annotations

from clients.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    InvalidAnswerError,
    MasklineError,
    ModelNotFoundError,
    OverloadedError,
    TimedOutError,
    UnavailableError,
    UnreachableError,
)
from server.contract.errors import BadParameter

_OPTIONS = ("score_threshold", "max_detections", "classes", "tile", "overlap", "timeout_ms", "priority")
_HOPELESS = (
    AuthenticationError,
    InvalidAnswerError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
    UnreachableError,
)


def sentence(error: Exception) -> str:
    """What is wrong, without the status of the answer."""
    return error.detail or error.title if isinstance(error, APIError) else str(error)


def is_hopeless(error: MasklineError) -> bool:
    """Whether the next picture would meet the same; a refusal of an option begins with the option's name."""
    if isinstance(error, BadRequestError | BadParameter):
        return sentence(error).partition(":")[0] in _OPTIONS
    return isinstance(error, _HOPELESS) and not isinstance(error, TimedOutError)
