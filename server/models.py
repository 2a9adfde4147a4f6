"""The models that a server has loaded, and which of them a request means."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from server.contract.errors import BadParameter, BundleError, ModelNotFound, NotReady
from server.engines.base import Engine
from server.engines.onnxruntime_ import usable_cpus
from server.model import EngineMaker, Model, ModelMaker
from server.pictures.budget import DecodeBudget
from server.pictures.reader import PictureReader
from server.pictures.threads import PictureThreads
from server.repository import Bundle, find_bundles, load_bundle
from server.settings import MIB, Settings

__all__ = ["DEFAULT_NAME", "Model", "Models", "default_folder"]

logger = logging.getLogger("server.models")

DEFAULT_NAME = "default"


class Models:
    """Loaded models by name and version, used on one event loop; `open` may run before there is one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[tuple[str, str], Model] = {}
        self._picture_threads = PictureThreads(settings.picture_threads or usable_cpus())
        memory = DecodeBudget(settings.max_decode_mib * MIB)
        self._maker = ModelMaker(settings, PictureReader(self._picture_threads, memory))
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, settings: Settings) -> Models:
        """Loads every bundle that the settings name. Raises `BundleError`."""
        models = cls(settings)
        for bundle in models._bundles():
            models._add(models._maker.open(bundle))
        if not models._models:
            models._add(models._maker.built_in())
        return models

    @classmethod
    def of(cls, settings: Settings, engines: Iterable[Engine | EngineMaker]) -> Models:
        """Serves engines that the caller has made, which are not replaced when they fail, or that it makes."""
        models = cls(settings)
        for engine in engines:
            models._add(models._maker.of(engine))
        return models

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @property
    def failure(self) -> str | None:
        """Why only a new process can serve, if that is so: a failed first run, a device that was lost, an engine that
        could not be replaced, in each case of all engines of a model."""
        return next((model.reason for model in self if model.state == "failed"), None)

    @property
    def ready(self) -> bool:
        return all(model.state == "ready" for model in self)

    @property
    def reason(self) -> str:
        """Why they are not ready, as a sentence."""
        restarting = (f"{model.card.name}: {model.reason}" for model in self if model.state == "restarting")
        return self.failure or next(restarting, "The models are warming up.")

    @property
    def waiting(self) -> int:
        """Pictures that wait for an engine."""
        return sum(model.serving.batcher.waiting for model in self)

    async def start(self) -> None:
        """Warms every model up and takes work. A model that cannot run leaves `failure`."""
        for model in list(self):
            try:
                await model.start()
            except Exception:  # the model's state says so
                logger.exception("the model %s failed its first run", model.card.name)

    async def close(self) -> None:
        """Answers what has been accepted, then frees all engines."""
        await asyncio.gather(*(model.serving.close() for model in self), *self._closing)
        self._picture_threads.close()

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
        model = self._meant(name, version)
        if not model.ready:
            raise NotReady(model.reason or f"The model {model.card.name!r} is warming up.")
        return model

    def _meant(self, name: str | None, version: str | None) -> Model:
        if name is None and version is None and len(self._models) == 1:
            return next(iter(self))
        names = sorted({model.card.name for model in self})
        if name is None:
            name = names[0] if len(names) == 1 else DEFAULT_NAME
            if len(names) > 1 and name not in names:
                raise BadParameter(f"Several models are loaded; name one with ?model=: {', '.join(names)}.")
        versions = [model for model in self if model.card.name == name]
        if not versions:
            raise ModelNotFound(f"There is no model {name!r}. Loaded: {', '.join(names) or 'none'}.")
        return self._version(versions, version)

    def versions_of(self, name: str) -> list[Model]:
        """Loaded versions, newest first. Raises `ModelNotFound`."""
        versions = [model for model in self if model.card.name == name]
        if not versions:
            raise ModelNotFound(f"There is no model {name!r}.")
        return sorted(versions, key=_newness, reverse=True)

    def find(self, name: str, version: str | None) -> Model:
        """A loaded model, warm or not; without a version the newest. Raises `ModelNotFound`."""
        return self._version(self.versions_of(name), version)

    async def load(self, name: str) -> None:
        """Reads the model's bundles again; new ones take over once they are warm, and then the old ones finish.

        Raises:
            ModelNotFound: no bundle that the settings name holds it. BundleError: it cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        bundles = [bundle for bundle in await loop.run_in_executor(None, self._bundles) if bundle.card.name == name]
        if not bundles:
            raise ModelNotFound(f"No bundle that this server was started with is called {name!r}.")
        _check_versions(bundles)
        async with AsyncExitStack() as undo:
            fresh = []
            for bundle in bundles:
                model = await loop.run_in_executor(None, self._maker.open, bundle)
                undo.push_async_callback(model.serving.close)
                fresh.append(await _warmed_up(model))
            undo.pop_all()
        self._replace(name, fresh)

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

    def _add(self, model: Model) -> None:
        key = (model.card.name, model.card.version)
        if key in self._models:
            raise _same_version(key, model.bundle, self._models[key].bundle)
        self._models[key] = model

    def _replace(self, name: str, fresh: Iterable[Model]) -> None:
        """Without a moment in between: nothing here waits."""
        for model in [model for model in self if model.card.name == name]:
            self._remove(model)
        for model in fresh:
            self._add(model)

    def _remove(self, model: Model) -> None:
        del self._models[model.card.name, model.card.version]
        task = asyncio.create_task(model.serving.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _check_versions(bundles: Iterable[Bundle]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for bundle in bundles:
        key = (bundle.card.name, bundle.card.version)
        if key in seen:
            raise _same_version(key, bundle.path, seen[key])
        seen[key] = bundle.path


def _same_version(key: tuple[str, str], one: Path | None, other: Path | None) -> BundleError:
    return BundleError(
        f"{one} and {other} are both version {key[1]} of the model {key[0]!r}. "
        "Serve one of them, or build one under another name."
    )


async def _warmed_up(model: Model) -> Model:
    """With all of its engines: the model that it is to replace still has its own."""
    try:
        await model.start()
    except Exception as error:
        raise BundleError(f"{model.bundle} cannot be served. {model.reason}") from error
    if reasons := [engine.reason for engine in model.engines if engine.state == "failed"]:
        raise BundleError(f"{model.bundle} cannot be served. {reasons[0]}")
    return model


def default_folder() -> Path:
    """`models/` here, else beside the package."""
    here = Path("models")
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / "models"


def _newness(model: Model) -> list[tuple[int, str]]:
    """Sorts versions as people count: 1.10 after 1.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", model.card.version)]
