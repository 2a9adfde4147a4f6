"""Maskline's Python client.

    from clients import Client
    prediction = Client("http://127.0.0.1:8000").predict("picture.jpg")
    prediction.draw("picture.jpg").save("out.png")

Names load on first use: the `maskline` command lives in this package, and must not need the client's libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clients.client import AsyncClient, Client
    from clients.errors import (
        APIError,
        AuthenticationError,
        BadRequestError,
        DeadlineError,
        InvalidAnswerError,
        InvalidPictureError,
        MaskFormatError,
        MasklineError,
        MissingExtraError,
        ModelNotFoundError,
        OverloadedError,
        ServerError,
        TimedOutError,
        TooLargeError,
        UnavailableError,
        UnprocessableError,
        UnreachableError,
        UnsupportedFormatError,
    )
    from clients.prediction import Detection, Prediction

__all__ = [
    "APIError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "DeadlineError",
    "Detection",
    "InvalidAnswerError",
    "InvalidPictureError",
    "MaskFormatError",
    "MasklineError",
    "MissingExtraError",
    "ModelNotFoundError",
    "OverloadedError",
    "Prediction",
    "ServerError",
    "TimedOutError",
    "TooLargeError",
    "UnavailableError",
    "UnprocessableError",
    "UnreachableError",
    "UnsupportedFormatError",
]

_HOME = {
    "AsyncClient": "clients.client",
    "Client": "clients.client",
    "Detection": "clients.prediction",
    "Prediction": "clients.prediction",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME.get(name, "clients.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
