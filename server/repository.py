"""Bundles on disk: a folder each, with `model.json` (the card) and the compiled files that it lists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from server.contract.card import SCHEMA_VERSION, BundleFile, ModelCard
from server.contract.errors import BundleError, EngineUnavailable

CARD_FILE = "model.json"


@dataclass(frozen=True)
class Bundle:
    """A folder whose card is valid and whose files have the hashes that the card says."""

    path: Path
    card: ModelCard

    def has(self, engine: str) -> bool:
        return any(entry.engine == engine for entry in self.card.files)

    def file_for(self, engine: str) -> tuple[Path, BundleFile]:
        """Path and entry of the file for an engine. Raises `EngineUnavailable` where there is none."""
        for entry in self.card.files:
            if entry.engine == engine:
                return self.path / entry.path, entry
        has = ", ".join(sorted({entry.engine for entry in self.card.files}))
        raise EngineUnavailable(
            f"{self.path} has no file for the engine {engine}, only for {has}. {rebuild(self.path, engine)}"
        )


def load_bundle(path: str | Path) -> Bundle:
    """Reads and checks a bundle.

    Raises:
        BundleError: no such folder, no or an invalid `model.json`, another schema, a missing file or a wrong hash.
            The message names the file, what is wrong, and the command that builds the bundle anew.
    """
    folder = Path(path)
    bundle = Bundle(folder, _read_card(folder))
    for entry in bundle.card.files:
        _check_file(folder, entry)
    return bundle


def find_bundles(paths: Sequence[str | Path]) -> list[Path]:
    """Folders of bundles: each path is one, or a folder that holds some.

    Raises:
        BundleError: a path that is not there, or that neither is a bundle nor holds one.
    """
    return [bundle for path in paths for bundle in _bundles_in(Path(path))]


def rebuild(folder: Path, engine: str = "onnxruntime") -> str:
    """Advice for whom a bundle lets down: the command that builds it with a file for the engine."""
    flag = " --engine tensorrt" if engine == "tensorrt" else ""
    where = " where OpenVINO is installed" if engine == "openvino" else ""
    return f"Build it again{where}: maskline build --weights WEIGHTS{flag} --output {folder}"


def _bundles_in(path: Path) -> list[Path]:
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder. Give a bundle, or a folder of bundles.")
    if (path / CARD_FILE).is_file():
        return [path]
    found = sorted(card.parent for card in path.glob(f"[!.]*/{CARD_FILE}"))  # hidden ones are still being written
    if not found:
        raise BundleError(f"{path} holds no bundle: neither it nor a folder in it has a {CARD_FILE}. {rebuild(path)}")
    return found


def _read_card(folder: Path) -> ModelCard:
    path = folder / CARD_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. {rebuild(folder)}") from error
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        if field == "schema_version":
            raise BundleError(
                f"{path} is not of schema version {SCHEMA_VERSION}, the one that this server reads. {rebuild(folder)}"
            ) from error
        raise BundleError(f"{path} is not valid: {field}: {first['msg']}. {rebuild(folder)}") from error


def _check_file(folder: Path, entry: BundleFile) -> None:
    path = folder / entry.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder / CARD_FILE} names a file outside the bundle: {entry.path}. {rebuild(folder)}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. {rebuild(folder)}") from error
    if digest != entry.sha256:
        raise BundleError(
            f"{path} is not the file that was built: its SHA-256 starts with {digest[:12]}, model.json says "
            f"{entry.sha256[:12]}. {rebuild(folder)}"
        )
