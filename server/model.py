"""One loaded model, and how it is made from a bundle and the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.batching import QueueLimits
from server.contract.card import ModelCard
from server.contract.errors import BundleError
from server.contract.wire import ModelRef
from server.engines import create_engine
from server.engines.base import Engine
from server.engines.fake import FAKE_CARD, FakeEngine
from server.pictures.decode import Limits
from server.pictures.reader import PictureReader
from server.repository import Bundle, load_bundle
from server.scheduling.supervision import RestartPolicy, State
from server.serving import BatchingPipeline
from server.settings import MIB, Settings

EngineMaker = Callable[[], Engine]


@dataclass(eq=False)
class Model:
    """One version of a loaded model. `bundle` is where it came from; None: nowhere. `ready`: it has warmed up."""

    bundle: Path | None
    serving: BatchingPipeline
    ready: bool = False

    @property
    def card(self) -> ModelCard:
        return self.serving.card

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.card.name, self.card.version)

    @property
    def engine(self) -> Engine:
        """The one of the moment: an engine that fails is replaced."""
        return self.serving.engine

    @property
    def state(self) -> State:
        """`failed`: only a new process can serve it."""
        state = self.serving.supervised.state
        return "warming" if state == "ready" and not self.ready else state

    @property
    def reason(self) -> str:
        """Why it is restarting or failed, as a sentence."""
        return self.serving.supervised.reason

    async def start(self) -> None:
        """Warms it up and takes work. Raises what the first runs raised, and is `failed` then."""
        await self.serving.start()
        self.ready = True


class ModelMaker:
    """Makes models as the settings say; they share a `reader`."""

    def __init__(self, settings: Settings, reader: PictureReader) -> None:
        self._settings = settings
        self._reader = reader

    def open(self, bundle: Bundle) -> Model:
        """Raises `BundleError`."""
        return self._wrap(self._engine(bundle), lambda: self._engine(_unchanged(bundle)), bundle.path)

    def _engine(self, bundle: Bundle) -> Engine:
        if self._settings.engine == "fake":
            return self._fake(bundle.card)
        return create_engine(self._settings.engine, bundle, threads=self._settings.threads or None)

    def _fake(self, card: ModelCard) -> Engine:
        return FakeEngine(card, seconds_per_batch=self._settings.fake_batch_ms / 1e3)

    def built_in(self) -> Model:
        """The fake engine by itself."""
        return self.of(lambda: self._fake(FAKE_CARD))

    def of(self, engine: Engine | EngineMaker) -> Model:
        """Serves an engine that the caller has made, which is not replaced when it fails, or one that it makes."""
        make = engine if callable(engine) else _always(engine)
        return self._wrap(make(), make, None)

    def _wrap(self, engine: Engine, make: EngineMaker, bundle: Path | None) -> Model:
        settings = self._settings
        picture_limits = Limits(settings.max_picture_mib * MIB, int(settings.max_megapixels * 1e6))
        queue_limits = QueueLimits(
            max_batch_size=min(settings.max_batch_size, engine.max_batch or settings.max_batch_size),
            max_delay_s=settings.max_queue_delay_ms / 1e3,
            max_items=settings.max_queue_size,
            max_cost=settings.max_queue_mib * MIB,
            max_wait_s=settings.max_queue_wait_s,
        )
        policy = RestartPolicy(timeout_s=settings.engine_timeout_s)
        serving = BatchingPipeline(engine, make, picture_limits, self._reader, queue_limits, policy)
        return Model(bundle, serving)


def _unchanged(bundle: Bundle) -> Bundle:
    """The bundle as it is now. Raises `BundleError` when it is not what was loaded."""
    found = load_bundle(bundle.path)
    if found.card != bundle.card:
        name = bundle.card.name
        raise BundleError(f"{bundle.path} has been replaced since it was loaded; POST /models/{name}/load takes it.")
    return found


def _always(engine: Engine) -> EngineMaker:
    return lambda: engine
