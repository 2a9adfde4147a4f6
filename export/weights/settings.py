"""What a weights file does not tell, and where it was taken from: a flag, the `--config` file, the family's default.

An importer asks a `Settings` for every such value by name; the build prints the record that this leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

from export.weights.errors import WeightsConfigError

Family = Literal["native", "torchvision", "detectron2", "matterport"]
T = TypeVar("T", bool, int, float, str, tuple[Any, ...])


@dataclass(frozen=True)
class Given:
    """What a person says beside the weights; None: nothing."""

    family: Family | None = None
    config: Path | None = None
    """detectron2's config.yaml, Matterport's values or the arguments of torchvision's builder."""
    classes: Path | None = None
    """Class names, one a line, without the background."""
    bn_eps: float | None = None
    min_size: int | None = None
    max_size: int | None = None
    max_detections: int | None = None
    score_threshold: float | None = None


class Setting(NamedTuple):
    name: str
    value: Any
    origin: str
    """A flag, the name of the configuration file, or `default`."""


@dataclass
class Settings:
    """Values by their names in the family's own configuration, each taken from the first that tells it."""

    given: Given
    values: Mapping[str, Any] = field(default_factory=dict)
    """The content of `given.config`; nested mappings are reached with dots, as in `MODEL.RPN.NMS_THRESH`."""
    taken: list[Setting] = field(default_factory=list)
    """The record, in the order of the questions."""
    asked: set[str] = field(default_factory=set)
    """Names of the configuration that a family knows."""
    remarks: list[str] = field(default_factory=list)
    """Sentences on what the person should think about."""

    def take(self, name: str, default: T, *, flag: str | None = None) -> T:
        """The value of `name`, of the type of `default`: that of the flag (a field of `Given`), else of the
        configuration, else the default. Raises `WeightsConfigError` for a value of another type."""
        self.asked.add(name)
        value: Any = getattr(self.given, flag) if flag else None
        origin = f"--{flag.replace('_', '-')}" if flag else ""
        if value is None:
            value, origin = self._configured(name), self.given.config.name if self.given.config else ""
        if value is None:
            value, origin = default, "default"
        chosen = _cast(value, default, f"{origin}: {name}")
        self.taken.append(Setting(name, chosen, origin))
        return chosen

    def expect(self, name: str, *supported: Any) -> None:
        """Raises `WeightsConfigError` when the configuration says something else than one of the `supported`."""
        value = self._configured(name)
        if value is not None and _plain(value) not in [_plain(s) for s in supported]:
            wanted = " or ".join(map(repr, supported))
            raise WeightsConfigError(f"{self._config_name}: {name} is {value!r}; only {wanted} can be rebuilt here.")

    def check(self, name: str, found: Any) -> None:
        """Raises `WeightsConfigError` when the configuration contradicts what the weights show."""
        value = self._configured(name)
        if value is not None and _plain(value) != _plain(found):
            raise WeightsConfigError(f"{self._config_name} says {name} {value!r}, but the weights have {found!r}.")

    def ignore(self, *names: str) -> None:
        """Marks names of the configuration, with all below them, as known: they concern training alone."""
        self.asked.update(names)

    def unused(self) -> tuple[str, ...]:
        """Names of the configuration that nothing asked for. Raises `WeightsConfigError` where that is all of them."""
        names = _leaves(self.values)
        unused = tuple(name for name in names if not any(_within(name, asked) for asked in self.asked))
        if names and len(unused) == len(names):
            raise WeightsConfigError(
                f"{self._config_name} says nothing that these weights ask for: is it another model's?"
            )
        return unused

    @property
    def _config_name(self) -> str:
        return self.given.config.name if self.given.config else "the configuration"

    def _configured(self, name: str) -> Any:
        self.asked.add(name)
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def read_config_file(path: Path) -> dict[str, Any]:
    """The values in a YAML or JSON file. Raises `WeightsConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is not quite YAML: its 1e-05 would be read as a word.
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WeightsConfigError(f"{path} cannot be read as a configuration in JSON or YAML.") from error
    if not isinstance(values, dict):
        raise WeightsConfigError(f"{path} holds no named values.")
    return values


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in values.items():
        names += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return names


def _within(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked}.")


def _plain(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def _cast(value: Any, default: T, where: str) -> T:
    value = _plain(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise WeightsConfigError(f"{where} is {value!r}; it should be like {default!r}.")
    result: T = value
    return result
