"""Every error that a caller or an operator of the service can meet.

    MasklineError
     ├── RequestError               the request is at fault
     │    ├── BadParameter
     │    ├── BodyTooLarge
     │    ├── ModelNotFound
     │    ├── PictureError
     │    │    ├── UndecodablePicture
     │    │    ├── UnsupportedFormat
     │    │    └── PictureTooLarge
     │    └── BadPictureInBatch
     ├── ServiceError               the service cannot answer now
     │    ├── QueueFull
     │    ├── NotReady
     │    │    ├── Draining
     │    │    └── EngineRestarting
     │    ├── DeadlinePassed
     │    └── EngineFailed
     │         ├── EngineHung
     │         └── EngineLost
     └── BundleError                a model cannot be loaded
          └── EngineUnavailable

`str(error)` is one plain sentence for a person; which HTTP status it becomes is `server.errors`' table.
"""

# The names say what happened; the base class says that it is an error.
# ruff: noqa: N818

from __future__ import annotations


class MasklineError(Exception):
    """Base of all. The message is a plain sentence that may be shown to the caller."""


class RequestError(MasklineError):
    """The request is at fault; sending it again changes nothing."""


class BadParameter(RequestError):
    """A query parameter, a header or a field of the body that makes no sense."""


class BodyTooLarge(RequestError):
    """The body has more bytes than the service accepts."""


class ModelNotFound(RequestError):
    """No loaded model has this name and version."""


class PictureError(RequestError):
    """A picture that cannot be used."""


class UndecodablePicture(PictureError):
    """Not a picture, or a broken one."""


class UnsupportedFormat(PictureError):
    """A picture in a format that is not accepted."""


class PictureTooLarge(PictureError):
    """A picture with too many bytes or pixels."""


class BadPictureInBatch(RequestError):
    """One picture of a request with several is bad. `index` counts from 0."""

    def __init__(self, index: int, cause: PictureError) -> None:
        super().__init__(f"Picture {index} (counting from 0): {cause}")
        self.index = index
        self.cause = cause


class ServiceError(MasklineError):
    """The service cannot answer now."""


class QueueFull(ServiceError):
    """Too much work is waiting; try again in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """The model is still loading or warming up."""


class Draining(NotReady):
    """The service is shutting down and takes no new work."""


class EngineRestarting(NotReady):
    """The engine has failed and is being started anew; try again in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(ServiceError):
    """The request's time ran out before its answer was made."""


class EngineFailed(ServiceError):
    """The engine raised an error while it ran."""


class EngineHung(EngineFailed):
    """The engine did not answer a batch in time and is given up; another one is being made."""


class EngineLost(EngineFailed):
    """The engine cannot run in this process any more, as a rule because its device is gone; a new process may."""


class BundleError(MasklineError):
    """A bundle with a missing file, a wrong hash or an invalid `model.json`."""


class EngineUnavailable(BundleError):
    """No installed engine can run the bundle on this machine."""
