"""Notices that bundles on disk were added, replaced or taken away while the server runs.

A bundle is put in place whole (a folder is moved there, as `maskline build` does); one that is copied file by file is
taken once its files have the hashes of its card. What cannot be loaded leaves what is loaded as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.contract.errors import MasklineError
from server.models import Models
from server.repository import CARD_FILE, find_bundles, load_bundle

logger = logging.getLogger("server.watch")


@dataclass(frozen=True)
class Seen:
    """What a bundle's card was like on disk when its model was loaded, and the model's name."""

    stamp: tuple[int, int, int]
    name: str


class BundleWatch:
    """Looks at the bundles of `paths` every `seconds` and loads or unloads models of `models` accordingly.

    What is there at first counts as loaded.
    """

    def __init__(self, models: Models, paths: Sequence[str | Path], seconds: float) -> None:
        self._models = models
        self._paths = paths
        self._seconds = seconds
        self._seen: dict[Path, Seen] = {}
        self._missing: set[Path] = set()
        self._complaint = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        self._seen = await asyncio.to_thread(self._look, {})
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._follow(self._settled(await asyncio.to_thread(self._look, self._seen)))
                self._complaint = ""
            except MasklineError as error:
                self._complain(str(error))

    def _settled(self, found: dict[Path, Seen]) -> dict[Path, Seen]:
        """With the bundles that are missing for the first time: between the two moves of a swap there is none."""
        missing = self._seen.keys() - found.keys()
        kept = {path: self._seen[path] for path in missing - self._missing}
        self._missing = set(missing)
        return found | kept

    async def _follow(self, found: dict[Path, Seen]) -> None:
        """Names are loaded one by one, so that one that cannot be loaded is tried again and holds up no other."""
        changed = {seen.name for path, seen in found.items() if self._seen.get(path) != seen}
        gone = {seen.name for seen in self._seen.values()} - {seen.name for seen in found.values()}
        fewer = {seen.name for path, seen in self._seen.items() if path not in found} - gone
        for name in sorted(gone):
            self._unload(name)
        self._seen = {path: seen for path, seen in self._seen.items() if seen.name not in gone}
        for name in sorted(changed | fewer):
            await self._models.load(name)
            logger.info("loaded %s: its bundle changed", name)
            others = {path: seen for path, seen in self._seen.items() if seen.name != name and path in found}
            self._seen = others | {path: seen for path, seen in found.items() if seen.name == name}

    def _unload(self, name: str) -> None:
        if any(model.card.name == name for model in self._models):
            self._models.unload(name)
            logger.info("unloaded %s: its bundle is gone", name)

    def _look(self, known: Mapping[Path, Seen]) -> dict[Path, Seen]:
        """The bundles on disk. Raises `BundleError` where one that changed is not whole (yet)."""
        found = {}
        for folder in find_bundles(self._paths):
            try:
                status = (folder / CARD_FILE).stat()
            except OSError:
                continue  # it went between two looks
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            before = known.get(folder)
            found[folder] = before if before and before.stamp == stamp else Seen(stamp, load_bundle(folder).card.name)
        return found

    def _complain(self, sentence: str) -> None:
        """Once, not at every look."""
        if sentence != self._complaint:
            logger.warning("a bundle on disk is not taken: %s", sentence)
        self._complaint = sentence
