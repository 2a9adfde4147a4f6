"""What can go wrong on this side of the wire.

MasklineError                  (server.contract.errors: also the root of what a model run in process raises)
├── InvalidPictureError        what was given is no picture that can be sent
├── MaskFormatError            the answer holds no masks that can be decoded to pixels
├── MissingExtraError          a library is not installed; says the pip line
├── UnreachableError           no answer: connection refused or reset, name unknown
│   └── TimedOutError          the server was there, but its answer did not come in time
├── InvalidAnswerError         an answer that is not a Maskline answer
└── APIError                   a refusal by the server: status, title, detail, request_id, retry_after
    ├── BadRequestError        400, 405: parameter or picture not understood
    ├── AuthenticationError    401, 403
    ├── ModelNotFoundError     404
    ├── TooLargeError          413: in bytes or in pixels
    ├── UnsupportedFormatError 415
    ├── UnprocessableError     422: one of several pictures is bad; the detail names it
    ├── OverloadedError        429
    ├── UnavailableError       503: starting or draining
    ├── DeadlineError          504: timeout_ms passed
    └── ServerError            500 and the rest
"""

from __future__ import annotations

from server.contract.errors import MasklineError as MasklineError


class InvalidPictureError(MasklineError):
    """What was given is no picture that can be sent."""


class MaskFormatError(MasklineError):
    """The answer holds no masks that can be decoded to pixels."""


class MissingExtraError(MasklineError):
    """A library is not installed: one of our `extra`, or one to which the client only hands over."""

    def __init__(self, what: str, module: str, extra: str | None = None) -> None:
        install = f"in the project's folder: pip install -e '.[{extra}]'" if extra else f"pip install {module}"
        super().__init__(f"{what} needs {module}, which is not installed; {install}")


class UnreachableError(MasklineError):
    """No answer came."""


class TimedOutError(UnreachableError):
    """The server was there, but its answer did not come within the client's `timeout`."""


class InvalidAnswerError(MasklineError):
    """An answer came that is not a Maskline answer: another program may be listening there."""


class APIError(MasklineError):
    """The server's refusal, as it said it (application/problem+json).

    `retry_after` is in seconds, None when the server gave none.
    """

    def __init__(
        self, status: int, title: str, detail: str, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after


class BadRequestError(APIError):
    """400, 405: parameter or picture not understood."""


class AuthenticationError(APIError):
    """401, 403: key missing or wrong."""


class ModelNotFoundError(APIError):
    """404: no such model."""


class TooLargeError(APIError):
    """413: too many bytes or pixels."""


class UnsupportedFormatError(APIError):
    """415: a picture format that is not accepted."""


class UnprocessableError(APIError):
    """422: one of several pictures is bad; the detail names it."""


class OverloadedError(APIError):
    """429: the queue is full."""


class UnavailableError(APIError):
    """503: not ready yet, or draining."""


class DeadlineError(APIError):
    """504: timeout_ms passed before the answer was there."""


class ServerError(APIError):
    """500 and every status without a class of its own."""


ERROR_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    405: BadRequestError,
    413: TooLargeError,
    415: UnsupportedFormatError,
    422: UnprocessableError,
    429: OverloadedError,
    503: UnavailableError,
    504: DeadlineError,
}
