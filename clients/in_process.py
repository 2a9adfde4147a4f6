"""Shards of pictures through an engine in this process."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from clients.errors import MasklineError, MissingExtraError
from clients.folder import PictureFile
from clients.prediction import Prediction, from_image_result
from clients.sources import Shard
from clients.streams import in_order
from server.contract.wire import PredictOptions

Found = Prediction | MasklineError
Answers = Generator[tuple[PictureFile, Found], None, None]

WINDOW = 16
"""Pictures that go to the engine together. Another number may change the last bits of an answer: batches are of one
window."""
WINDOWS_AT_ONCE = 3
"""One is decoded while one is with the engine and one is written."""


@dataclass(frozen=True)
class Job:
    """What to do with pictures, on whatever machine. `query` is that of `POST /predict`."""

    bundle: str
    query: dict[str, str]
    engine: str

    def answer(self, shards: Iterable[Shard], done: Callable[[PictureFile], bool], threads: int | None) -> Answers:
        """Each picture of the shards in their order, with what was found in it or why nothing could be. Windows whose
        pictures are all `done` are left out.

        Raises:
            MissingExtraError: there is no server package or no runtime here.
            MasklineError: the bundle cannot be loaded, the options are not for it, or the engine is lost.
        """
        with closing(self.open(threads)) as offline:
            yield from answer(offline, shards, done)

    def open(self, threads: int | None) -> Any:
        """A `server.offline.Offline`."""
        options = PredictOptions.from_query(self.query)
        with _installed():
            return importlib.import_module("server.offline").Offline.open(self.bundle, options, self.engine, threads)

    def check(self) -> None:
        """Raises what `open` would raise of the bundle and the options, without an engine."""
        options = PredictOptions.from_query(self.query)
        with _installed():
            bundle = importlib.import_module("server.repository").load_bundle(self.bundle)
            importlib.import_module("server.postprocess").select(options, bundle.card)


@contextmanager
def _installed() -> Iterator[None]:
    """The server's modules are found by name: the client is installed, and type checked, without them."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError("answering in process", str(error.name), "server,cpu") from error


def answer(offline: Any, shards: Iterable[Shard], done: Callable[[PictureFile], bool]) -> Answers:
    """See `Job.answer`."""

    def work(window: list[PictureFile]) -> list[Found]:
        return [_found(result, offline.card) for result in offline.predict(window, methodcaller("read"))]

    windows = (window for shard in shards for window in _windows(shard) if not all(map(done, window)))
    with closing(in_order(work, windows, WINDOWS_AT_ONCE, threading.Event())) as answered:
        for window, found in answered:
            yield from zip(window, found, strict=True)


def _windows(shard: Shard) -> Iterator[list[PictureFile]]:
    pictures = shard.pictures()
    while window := list(itertools.islice(pictures, WINDOW)):
        yield window


def _found(result: Any, card: Any) -> Found:
    if isinstance(result, MasklineError):
        return result
    return from_image_result(dataclasses.asdict(result), card.name, card.version)
