"""Label Studio's labelling configuration: which controls mark objects in which picture, with which labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from server.contract.errors import BadParameter

MAX_LENGTH: Final = 1 << 20
KINDS: Final = ("BrushLabels", "PolygonLabels", "RectangleLabels")


@dataclass
class Control:
    """A control that marks objects. `labels` has the label for each class name in lower case."""

    kind: str
    from_name: str
    to_name: str
    score_threshold: float | None
    labels: dict[str, str] = field(default_factory=dict)

    def label_of(self, class_name: str) -> str | None:
        return self.labels.get(class_name.lower())


@dataclass(frozen=True)
class LabelConfig:
    """Controls of one picture, and the name under which tasks have it."""

    picture: str
    controls: list[Control]

    @property
    def score_threshold(self) -> float | None:
        """The lowest, if each control has one."""
        thresholds = [control.score_threshold for control in self.controls]
        known = [threshold for threshold in thresholds if threshold is not None]
        return min(known) if len(known) == len(thresholds) else None

    def match(self, classes: Sequence[str]) -> None:
        """A control of one label takes a model's only class, whatever their names.

        Raises `BadParameter` when no control has a label for any of the classes.
        """
        for control in self.controls:
            labels = set(control.labels.values())
            if len(classes) == len(labels) == 1:
                control.labels[classes[0].lower()] = labels.pop()
        if not any(control.label_of(name) for control in self.controls for name in classes):
            names = ", ".join(classes[:20])
            raise BadParameter(
                f"label_config: no label is for a class of the model ({names}). "
                f'Name a label so, or give it the class: predicted_values="{classes[0]}".'
            )


def read(xml: str) -> LabelConfig:
    """The controls of the first picture that has any.

    Raises `BadParameter` for what is not XML, has a document type or entities of its own, is longer than 1 MiB, or has
    no control that marks objects in a picture.
    """
    if len(xml) > MAX_LENGTH:
        raise BadParameter(f"label_config: it is longer than {MAX_LENGTH} characters.")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise BadParameter(f"label_config: it is not XML ({error}).") from error
    for control in reader.controls:
        if control.to_name in reader.pictures:
            of_it = [other for other in reader.controls if other.to_name == control.to_name]
            return LabelConfig(reader.pictures[control.to_name], of_it)
    raise BadParameter(f"label_config: it has none of {', '.join(KINDS)} for an Image.")


def _refuse_doctype(*_: object) -> None:
    """Entities could make gigabytes of a line, or name files."""
    raise BadParameter("label_config: a document type is not accepted.")


class _Reader:
    """Collects pictures and controls from the parser's calls; no tree is made."""

    def __init__(self) -> None:
        self.pictures: dict[str, str] = {}
        self.controls: list[Control] = []
        self._open: Control | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "Image" and attributes.get("value", "").startswith("$"):
            self.pictures[attributes.get("name", "")] = attributes["value"][1:]
        elif tag in KINDS:
            self._open = _control(tag, attributes)
        elif tag == "Label" and self._open is not None:
            self._label(attributes, self._open)

    def end(self, tag: str) -> None:
        if tag in KINDS and self._open is not None:
            self.controls.append(self._open)
            self._open = None

    def _label(self, attributes: dict[str, str], control: Control) -> None:
        label = attributes.get("value", "")
        for name in (label, *attributes.get("predicted_values", "").split(",")):
            if name.strip():
                control.labels.setdefault(name.strip().lower(), label)


def _control(kind: str, attributes: dict[str, str]) -> Control | None:
    """None for one that is not for models."""
    if attributes.get("model_skip", "").lower() in ("true", "1"):
        return None
    return Control(kind, attributes.get("name", ""), attributes.get("toName", ""), _threshold(attributes))


def _threshold(attributes: dict[str, str]) -> float | None:
    text = attributes.get("model_score_threshold")
    if text is None:
        return None
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise BadParameter(f"label_config: model_score_threshold is a number from 0 to 1, not {text!r}.")
    return threshold
