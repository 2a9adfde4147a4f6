"""Callers that go on asking, each with pictures of its own, and what became of every request."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
from PIL import Image

from clients import Client
from clients.errors import MasklineError
from clients.prediction import Prediction, from_image_result
from server.engines.fake import FakeEngine
from server.pipeline import Pipeline

PICTURES = 24


@dataclass(frozen=True)
class Asked:
    """One call of the client. Seconds of `time.monotonic`."""

    sent_s: float
    done_s: float
    failure: str
    right: bool


@dataclass
class Load:
    """`retrying` are the calls of clients as people use them, `bare` those of clients that never try again."""

    retrying: list[Asked] = field(default_factory=list)
    bare: list[Asked] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        return [one.failure for one in self.retrying if one.failure]

    @property
    def wrong(self) -> int:
        return sum(not (one.right or one.failure) for one in [*self.retrying, *self.bare])


def picture(k: int) -> bytes:
    """Each has an answer of its own from the fake engine."""
    colour = np.random.default_rng(k).integers(40, 255, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.broadcast_to(colour, (96 + k, 128, 3)).copy()).save(file, "PNG")
    return file.getvalue()


FILES = [picture(k) for k in range(PICTURES)]


def expected() -> list[Prediction]:
    """The answers, from an engine in this process."""
    pipeline = Pipeline(FakeEngine())
    results = [json.loads(json.dumps(asdict(pipeline.predict(file)))) for file in FILES]
    return [from_image_result(result, pipeline.card.name, pipeline.card.version) for result in results]


def same(one: Prediction, other: Prediction) -> bool:
    return (one.width, one.height, one.detections) == (other.width, other.height, other.detections)


@contextmanager
def load(url: str, retrying: int = 6, bare: int = 0) -> Iterator[Load]:
    """So many callers of each kind, until the block ends."""
    stopped, outcome, answers = threading.Event(), Load(), expected()

    def call(client: Client, first: int, asked: list[Asked]) -> None:
        k = first
        while not stopped.is_set():
            k = (k + 1) % PICTURES
            sent_s, failure, right = time.monotonic(), "", False
            try:
                right = same(client.predict(FILES[k]), answers[k])
            except MasklineError as error:
                failure = repr(error)
            asked.append(Asked(sent_s, time.monotonic(), failure, right))

    with Client(url) as patient, Client(url, retries=0) as hasty:
        callers = [(patient, outcome.retrying)] * retrying + [(hasty, outcome.bare)] * bare
        threads = [
            threading.Thread(target=call, args=(client, 5 * n, asked)) for n, (client, asked) in enumerate(callers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield outcome
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
