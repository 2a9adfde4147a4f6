"""The models that a server has loaded, and which of them a request means."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from server.batching import QueueLimits
from server.contract.card import ModelCard
from server.contract.errors import BadParameter, BundleError, ModelNotFound, NotReady
from server.contract.wire import ModelRef
from server.decode import Limits
from server.decode_budget import DecodeBudget
from server.engines import create_engine
from server.engines.base import Engine
from server.engines.fake import FAKE_CARD, FakeEngine
from server.engines.onnxruntime_ import usable_cpus
from server.picture_reader import PictureReader
from server.pipeline import BatchingPipeline, Pipeline
from server.repository import Bundle, find_bundles, load_bundle
from server.settings import MIB, Settings

logger = logging.getLogger("server.models")

DEFAULT_NAME = "default"


@dataclass(eq=False)
class Model:
    """One version of a loaded model. `bundle` is where it came from; None: it is built in."""

    bundle: Path | None
    serving: BatchingPipeline
    ready: bool = False

    @property
    def card(self) -> ModelCard:
        return self.serving.pipeline.card

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.card.name, self.card.version)

    @property
    def engine(self) -> Engine:
        return self.serving.pipeline.engine

    async def start(self) -> None:
        await self.serving.start()
        self.ready = True


class Models:
    """Loaded models by name and version, used on one event loop; `open` may run before there is one."""

    def __init__(self, settings: Settings) -> None:
        self._failure: str | None = None
        self._settings = settings
        self._models: dict[tuple[str, str], Model] = {}
        picture_threads = ThreadPoolExecutor(settings.picture_threads or usable_cpus(), "pictures")
        self._reader = PictureReader(picture_threads, DecodeBudget(settings.max_decode_mib * MIB))
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, settings: Settings) -> Models:
        """Loads every bundle that the settings name. Raises `BundleError`."""
        models = cls(settings)
        for bundle in models._bundles():
            models._add(models._open(bundle))
        return models if models._models else cls.of(settings, [models._fake(FAKE_CARD)])

    @classmethod
    def of(cls, settings: Settings, engines: Iterable[Engine]) -> Models:
        """Serves engines that the caller has made."""
        models = cls(settings)
        for engine in engines:
            models._add(models._wrap(engine, None))
        return models

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @property
    def failure(self) -> str | None:
        """Why only a new process can serve, if that is so: a failed warm-up, or a device that was lost."""
        return self._failure or next((lost for model in self if (lost := model.serving.pipeline.lost)), None)

    @property
    def ready(self) -> bool:
        return self.failure is None and all(model.ready for model in self)

    @property
    def waiting(self) -> int:
        """Pictures that wait for an engine."""
        return sum(model.serving.batcher.waiting for model in self)

    async def start(self) -> None:
        """Warms every model up and takes work. A model that cannot run leaves `failure`."""
        try:
            for model in list(self):
                await model.start()
        except Exception as error:
            self._failure = f"A model failed its first run: {error}"
            logger.exception("warm-up failed")

    async def close(self) -> None:
        """Answers what has been accepted, then frees all engines."""
        await asyncio.gather(*(model.serving.close() for model in self), *self._closing)
        self._reader.threads.shutdown(wait=False)

    async def give_up(self) -> None:
        """Ends accepted work without an answer; its requests get `Draining`."""
        await asyncio.gather(*(model.serving.batcher.close() for model in self))

    def select(self, name: str | None, version: str | None) -> Model:
        """The model that a request means. Without a version it is the newest; without a name it is the only one, or
        the one called `default`.

        Raises:
            BadParameter: several are loaded, none is named, and none is called `default`.
            ModelNotFound: no such name or version.
            NotReady: it is warming up.
        """
        names = sorted({model.card.name for model in self})
        if name is None:
            name = names[0] if len(names) == 1 else DEFAULT_NAME
            if len(names) > 1 and name not in names:
                raise BadParameter(f"Several models are loaded; name one with ?model=: {', '.join(names)}.")
        versions = [model for model in self if model.card.name == name]
        if not versions:
            raise ModelNotFound(f"There is no model {name!r}. Loaded: {', '.join(names) or 'none'}.")
        model = self._version(versions, version)
        if not model.ready:
            raise NotReady(f"The model {name!r} is warming up.")
        return model

    def versions_of(self, name: str) -> list[Model]:
        """Loaded versions, newest first. Raises `ModelNotFound`."""
        versions = [model for model in self if model.card.name == name]
        if not versions:
            raise ModelNotFound(f"There is no model {name!r}.")
        return sorted(versions, key=_newness, reverse=True)

    async def load(self, name: str) -> None:
        """Reads the model's bundles again; new ones take over once they are warm, and then the old ones finish.

        Raises:
            ModelNotFound: no bundle that the settings name holds it. BundleError: it cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        bundles = [bundle for bundle in await loop.run_in_executor(None, self._bundles) if bundle.card.name == name]
        if not bundles:
            raise ModelNotFound(f"No bundle that this server was started with is called {name!r}.")
        fresh = [await loop.run_in_executor(None, self._open, bundle) for bundle in bundles]
        for model in fresh:
            await model.start()
        old = [model for model in self if model.card.name == name]
        for model in old:
            self._remove(model)
        for model in fresh:
            self._add(model)

    def unload(self, name: str) -> None:
        """Takes no more work for a model; what it has accepted is answered. Raises `ModelNotFound`."""
        for model in self.versions_of(name):
            self._remove(model)

    def _version(self, versions: list[Model], version: str | None) -> Model:
        newest_first = sorted(versions, key=_newness, reverse=True)
        if version is None:
            return newest_first[0]
        for model in newest_first:
            if model.card.version == version:
                return model
        has = ", ".join(model.card.version for model in newest_first)
        raise ModelNotFound(f"The model {versions[0].card.name!r} has no version {version!r}. Loaded: {has}.")

    def _bundles(self) -> list[Bundle]:
        """None where the fake engine is to run without any."""
        if self._settings.engine == "fake" and not self._settings.models:
            return []
        return [load_bundle(path) for path in find_bundles(self._settings.models or [default_folder()])]

    def _open(self, bundle: Bundle) -> Model:
        if self._settings.engine == "fake":
            return self._wrap(self._fake(bundle.card), bundle.path)
        engine = create_engine(self._settings.engine, bundle, threads=self._settings.threads or None)
        return self._wrap(engine, bundle.path)

    def _fake(self, card: ModelCard) -> Engine:
        return FakeEngine(card, seconds_per_batch=self._settings.fake_batch_ms / 1e3)

    def _wrap(self, engine: Engine, bundle: Path | None) -> Model:
        settings = self._settings
        picture_limits = Limits(settings.max_picture_mib * MIB, int(settings.max_megapixels * 1e6))
        queue_limits = QueueLimits(
            max_batch_size=min(settings.max_batch_size, engine.max_batch or settings.max_batch_size),
            max_delay_s=settings.max_queue_delay_ms / 1e3,
            max_items=settings.max_queue_size,
            max_cost=settings.max_queue_mib * MIB,
            max_wait_s=settings.max_queue_wait_s,
        )
        return Model(bundle, BatchingPipeline(Pipeline(engine, picture_limits), self._reader, queue_limits))

    def _add(self, model: Model) -> None:
        key = (model.card.name, model.card.version)
        if key in self._models:
            raise BundleError(
                f"{model.bundle} and {self._models[key].bundle} are both version {key[1]} of the model {key[0]!r}. "
                "Serve one of them, or build one under another name."
            )
        self._models[key] = model

    def _remove(self, model: Model) -> None:
        del self._models[model.card.name, model.card.version]
        task = asyncio.create_task(model.serving.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def default_folder() -> Path:
    """`models/` here, else beside the package."""
    here = Path("models")
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / "models"


def _newness(model: Model) -> list[tuple[int, str]]:
    """Sorts versions as people count: 1.10 after 1.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", model.card.version)]
