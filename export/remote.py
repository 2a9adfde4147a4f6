"""A running server as the model to evaluate, asked as every client asks.

The client is found by name: neither it nor the model's side needs the other, but for this.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from server.contract.errors import MasklineError, ServiceError
from server.contract.wire import ImageResult, PredictOptions

_ANSWER = TypeAdapter(ImageResult)


class RemoteModelError(ServiceError):
    """The server does not answer as a Maskline server does."""


class RemoteModel:
    """`POST /predict` of a server, several pictures at a time; where it is too busy, each waits for its turn.

    For one run over pictures: then its connections are closed.
    """

    def __init__(self, url: str, options: PredictOptions, api_key: str | None = None) -> None:
        self.url = url
        self._options = options.model_dump(exclude_unset=True)
        self._client = importlib.import_module("clients.client").Client(url, api_key)
        self._is_hopeless = importlib.import_module("clients.failures").is_hopeless

    def predict_many(self, pictures: Iterable[Path]) -> Iterator[ImageResult | MasklineError]:
        """What is found in each picture file, or why nothing could be; ends with what the next would meet too."""
        with self._client as client, closing(client.predict_many(pictures, **self._options)) as answers:
            for _, found in answers:
                answer = found if isinstance(found, MasklineError) else self._result(found.to_wire())
                yield answer
                if isinstance(answer, MasklineError) and self._is_hopeless(answer):
                    return

    def _result(self, record: object) -> ImageResult | MasklineError:
        try:
            return _ANSWER.validate_python(record)
        except ValidationError:
            return RemoteModelError(f"{self.url} does not answer as a Maskline server does.")
