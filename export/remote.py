"""A running server as the model to evaluate."""

from __future__ import annotations

import time

import httpx2
from pydantic import TypeAdapter, ValidationError

from server.contract.errors import ServiceError
from server.contract.wire import ImageResult, PredictOptions, PredictResponse

ATTEMPTS = 5
"""For a picture that the server is too busy to take."""

_ANSWER = TypeAdapter(PredictResponse)


class RemoteModelError(ServiceError):
    """The server does not answer, or not as a Maskline server does."""


class RemoteModel:
    """`POST /predict` of a server, one picture a request; may be used by several threads."""

    def __init__(self, url: str, options: PredictOptions) -> None:
        self.url = url.rstrip("/")
        self._query = options.model_dump(exclude_none=True)
        self._client = httpx2.Client(timeout=120)

    def predict(self, picture: bytes) -> ImageResult:
        """The detections of a picture file. Raises `RemoteModelError`."""
        response = self._post(picture)
        if response.status_code != 200:
            raise RemoteModelError(f"{self.url} answered {response.status_code}: {response.text[:300]}")
        try:
            return _ANSWER.validate_json(response.content).images[0]
        except ValidationError as error:
            raise RemoteModelError(f"{self.url} does not answer as a Maskline server does.") from error

    def _post(self, picture: bytes) -> httpx2.Response:
        headers = {"Content-Type": "application/octet-stream"}
        for attempt in range(ATTEMPTS):
            try:
                response = self._client.post(
                    f"{self.url}/predict", content=picture, params=self._query, headers=headers
                )
            except httpx2.TransportError as error:
                raise RemoteModelError(f"{self.url} cannot be reached: {error}.") from error
            if response.status_code not in (429, 503) or attempt == ATTEMPTS - 1:
                break
            time.sleep(float(response.headers.get("Retry-After", 1)))
        return response
