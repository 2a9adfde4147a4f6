"""One loaded model, and how it is made from a bundle and the settings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from server.batching import QueueLimits
from server.contract.card import ModelCard
from server.contract.errors import BundleError
from server.contract.wire import ModelRef
from server.engines import create_engine
from server.engines.base import Engine
from server.engines.cuda_ import gpu_count
from server.engines.fake import FAKE_CARD, FakeEngine
from server.engines.onnxruntime_ import usable_cpus
from server.pictures.decode import Limits
from server.pictures.reader import PictureReader
from server.repository import Bundle, load_bundle
from server.scheduling.stats import RunnerStats
from server.scheduling.supervision import RestartPolicy, State
from server.serving import BatchingPipeline, engine_of
from server.settings import MIB, Settings

EngineMaker = Callable[[], Engine]

BEST_FIRST: tuple[State, ...] = ("ready", "warming", "restarting", "failed")


@dataclass(frozen=True)
class EngineHealth:
    """One of a model's engines, now. `reason`: why it is not ready, as a sentence."""

    description: str
    state: State
    reason: str
    counted: RunnerStats


@dataclass(eq=False)
class Model:
    """One version of a loaded model. `bundle` is where it came from; None: nowhere. `ready`: it has warmed up, at
    `ready_at` in Unix time."""

    bundle: Path | None
    serving: BatchingPipeline
    ready: bool = False
    ready_at: float = 0.0

    @property
    def card(self) -> ModelCard:
        return self.serving.card

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.card.name, self.card.version)

    @property
    def engine(self) -> Engine:
        """The first one of the moment: an engine that fails is replaced."""
        return engine_of(self.serving.engines[0])

    @property
    def engines(self) -> list[EngineHealth]:
        """All of them, in their order."""
        counted = self.serving.batcher.stats.runners
        return [
            EngineHealth(engine_of(engine).description, engine.state, engine.reason, counters)
            for engine, counters in zip(self.serving.engines, counted, strict=True)
        ]

    @property
    def description(self) -> str:
        """Its engines, for people: "2 x ONNX Runtime 1.25 on 4 CPU threads"."""
        alike = Counter(engine.description for engine in self.engines)
        return "; ".join(text if count == 1 else f"{count} x {text}" for text, count in alike.items())

    @property
    def state(self) -> State:
        """It is as well as the best of its engines. `failed`: only a new process can serve it."""
        best = self._best.state
        return "warming" if best == "ready" and not self.ready else best

    @property
    def reason(self) -> str:
        """Why it is restarting or failed, as a sentence."""
        return self._best.reason

    @property
    def _best(self) -> EngineHealth:
        return min(self.engines, key=lambda engine: BEST_FIRST.index(engine.state))

    async def start(self) -> None:
        """Warms it up and takes work. Raises what the first runs raised where no engine passed them, and is `failed`
        then."""
        await self.serving.start()
        self.ready, self.ready_at = True, time.time()


class ModelMaker:
    """Makes models as the settings say; they share a `reader`."""

    def __init__(self, settings: Settings, reader: PictureReader) -> None:
        self._settings = settings
        self._reader = reader

    def open(self, bundle: Bundle) -> Model:
        """Raises `BundleError`."""
        engines = side_by_side(partial(self._engine, bundle), self._count)
        return self._wrap(engines, lambda index: self._engine(_unchanged(bundle), index), bundle.path)

    def built_in(self) -> Model:
        """The fake engine by itself."""
        return self.of(lambda: self._fake(FAKE_CARD))

    def of(self, engine: Engine | EngineMaker) -> Model:
        """Serves an engine that the caller has made, which is not replaced when it fails, or those that it makes."""
        if not callable(engine):
            return self._wrap([engine], lambda _: engine, None)
        make = engine
        return self._wrap(side_by_side(lambda _: make(), self._count), lambda _: make(), None)

    @cached_property
    def _count(self) -> int:
        """Engines of each model."""
        return self._settings.engines or max(1, gpu_count())

    def _engine(self, bundle: Bundle, index: int) -> Engine:
        if self._settings.engine == "fake":
            return self._fake(bundle.card)
        threads = self._settings.threads or max(1, usable_cpus() // self._count)
        return create_engine(self._settings.engine, bundle, threads=threads, device=index, own_shapes=True)

    def _fake(self, card: ModelCard) -> Engine:
        return FakeEngine(card, seconds_per_batch=self._settings.fake_batch_ms / 1e3)

    def _wrap(self, engines: Sequence[Engine], make: Callable[[int], Engine], bundle: Path | None) -> Model:
        settings = self._settings
        picture_limits = Limits(settings.max_picture_mib * MIB, int(settings.max_megapixels * 1e6))
        queue_limits = QueueLimits(
            max_batch_size=min([settings.max_batch_size, *(e.max_batch for e in engines if e.max_batch)]),
            max_delay_s=settings.max_queue_delay_ms / 1e3,
            max_items=settings.max_queue_size,
            max_cost=settings.max_queue_mib * MIB,
            max_wait_s=settings.max_queue_wait_s,
        )
        policy = RestartPolicy(timeout_s=settings.engine_timeout_s)
        serving = BatchingPipeline(engines, make, picture_limits, self._reader, queue_limits, policy)
        return Model(bundle, serving)


def _unchanged(bundle: Bundle) -> Bundle:
    """The bundle as it is now. Raises `BundleError` when it is not what was loaded."""
    found = load_bundle(bundle.path)
    if found.card != bundle.card:
        name = bundle.card.name
        raise BundleError(f"{bundle.path} has been replaced since it was loaded; POST /models/{name}/load takes it.")
    return found


def side_by_side(make: Callable[[int], Engine], count: int) -> list[Engine]:
    """So many engines, made at once. Raises what making one of them raised; the others are closed then."""
    with ThreadPoolExecutor(count) as threads:
        making = [threads.submit(make, index) for index in range(count)]
    errors = [error for each in making if (error := each.exception())]
    made = [each.result() for each in making if not each.exception()]
    if errors:
        for engine in made:
            engine.close()
        raise errors[0]
    return made
