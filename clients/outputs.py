"""What `maskline predict` writes: `results.json`, `masks/`, `overlays/`. A file is whole or not there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from clients.errors import MaskFormatError
from clients.folder import PictureFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from clients.prediction import Prediction

STANDARD_OUTPUT = Path("-")
MOST_LABELS = 2**16 - 1


class Output(Protocol):
    """Raises `OSError`, with its file name, where something cannot be written."""

    def holds(self, picture: PictureFile) -> bool:
        """Whether an earlier run has written this picture."""

    def add(self, picture: PictureFile, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


def open_output(target: Path, resume: bool) -> Output:
    """By the name: a file that ends in `.json`, a folder called `masks` or `overlays`, `-` for standard output."""
    if target == STANDARD_OUTPUT:
        return Printed()
    if is_folder(target):
        return PictureFolder(target, {"masks": _save_labels, "overlays": _save_drawing}[target.name])
    return Results(target, resume)


def is_output(target: Path) -> bool:
    return target == STANDARD_OUTPUT or target.suffix == ".json" or is_folder(target)


def is_folder(target: Path) -> bool:
    return target.name in ("masks", "overlays")


class PictureFolder:
    """A PNG for each picture, in folders as the pictures are."""

    def __init__(self, folder: Path, save: Callable[[PictureFile, Prediction, IO[bytes]], None]) -> None:
        self._folder, self._save = folder, save
        folder.mkdir(parents=True, exist_ok=True)

    def holds(self, picture: PictureFile) -> bool:
        return self._target(picture).exists()

    def add(self, picture: PictureFile, prediction: Prediction) -> None:
        target = self._target(picture)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            self._save(picture, prediction, file)

    def close(self) -> None:
        """Every file is already whole."""

    def _target(self, picture: PictureFile) -> Path:
        return self._folder / picture.name.with_suffix(".png")


def label_image(prediction: Prediction) -> npt.NDArray[np.uint16]:
    """[h, w]: 0 for the ground, k for the k-th object by falling score; where two overlap, the better one.

    Raises `MaskFormatError` for more objects than 16 bits can number.
    """
    import numpy as np

    from clients.masks import placed

    if len(prediction) > MOST_LABELS:
        raise MaskFormatError(f"{len(prediction)} objects are too many for masks/; results.json takes them.")
    labels = np.zeros((prediction.height, prediction.width), np.uint16)
    for label, one in reversed(list(enumerate(prediction, start=1))):
        rows, columns, mask = placed(one.encoded_mask, (prediction.height, prediction.width))
        labels[rows, columns][mask] = label
    return labels


def _save_labels(_: PictureFile, prediction: Prediction, file: IO[bytes]) -> None:
    from PIL import Image

    Image.fromarray(label_image(prediction)).save(file, format="PNG")


def _save_drawing(picture: PictureFile, prediction: Prediction, file: IO[bytes]) -> None:
    # Level 1: a drawing of 12 megapixels takes a fifth of the time.
    prediction.draw(picture.path).save(file, format="PNG", compress_level=1)


class Results:
    """A COCO dataset. Until `close`, a line a picture in `NAME.json.part`, which outlives whatever ends the run."""

    def __init__(self, target: Path, resume: bool) -> None:
        self._target, self._part = target, target.with_name(f"{target.name}.part")
        self._names: set[str] = set()
        self._can_write = True
        target.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            self._part.write_bytes(b"")
        elif self._part.exists():
            self._take_up()
        elif target.exists():
            self._reopen()
        self._part.touch()

    def holds(self, picture: PictureFile) -> bool:
        return str(picture.name) in self._names

    def add(self, picture: PictureFile, prediction: Prediction) -> None:
        if self.holds(picture):
            return
        try:
            with _named(self._part), self._part.open("ab") as lines:
                lines.write(json.dumps(_record(picture, prediction)).encode() + b"\n")
        except OSError:
            self._can_write = False
            raise
        self._names.add(str(picture.name))

    def close(self) -> None:
        """Where nothing was answered an earlier file stays; where a line could not be written, the part does too."""
        if not self._can_write:
            return
        if self._names:
            with replacing(self._target) as file, self._part.open("rb") as lines:
                write_coco(map(json.loads, lines), lambda text: file.write(text.encode()))
        self._part.unlink()

    def _take_up(self) -> None:
        """The lines of a run that was ended; the last one may have been cut."""
        whole = 0
        with self._part.open("rb+") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._names.add(json.loads(line)["file_name"])
                whole += len(line)
            lines.truncate(whole)

    def _reopen(self) -> None:
        with self._target.open(encoding="utf-8") as file, replacing(self._part) as part:
            for record in read_coco(json.load(file)):
                self._names.add(record["file_name"])
                part.write(json.dumps(record).encode() + b"\n")


class Printed:
    """A COCO dataset on standard output, at `close`."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def holds(self, _: PictureFile) -> bool:
        return False

    def add(self, picture: PictureFile, prediction: Prediction) -> None:
        self._records.append(_record(picture, prediction))

    def close(self) -> None:
        write_coco(iter(self._records), sys.stdout.write)


def _record(picture: PictureFile, prediction: Prediction) -> dict[str, Any]:
    """What `results.json` says of one picture, before it has ids."""
    found = [{**one.to_coco(0, one.class_id), "area": one.area, "iscrowd": 0} for one in prediction]
    return {
        **({} if picture.image_id is None else {"id": picture.image_id}),
        "file_name": str(picture.name),
        "width": prediction.width,
        "height": prediction.height,
        "categories": {one.class_id: one.label for one in prediction},
        "annotations": found,
    }


def write_coco(records: Iterator[dict[str, Any]], write: Callable[[str], object]) -> None:
    """A COCO dataset, a line for each image and each annotation. Both are numbered from 1, images that have an id keep
    it."""
    images: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    annotation_id = 0
    write('{"annotations": [')
    for number, record in enumerate(records, start=1):
        image_id = record.pop("id", number)
        names.update({int(key): name for key, name in record.pop("categories").items()})
        for one in record.pop("annotations"):
            write(",\n" if annotation_id else "\n")
            annotation_id += 1
            write(json.dumps({**one, "id": annotation_id, "image_id": image_id}))
        images.append({"id": image_id, **record})
    categories = [{"id": key, "name": names[key], "supercategory": ""} for key in sorted(names)]
    lines = ",\n".join(json.dumps(image) for image in images)
    write(f'\n],\n"images": [\n{lines}\n],\n"categories": {json.dumps(categories)}}}\n')


def read_coco(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records that `write_coco` made it of."""
    names = {one["id"]: one["name"] for one in dataset["categories"]}
    annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in dataset["images"]}
    for one in dataset["annotations"]:
        annotations[one["image_id"]].append(one)
    for image in dataset["images"]:
        found = annotations[image["id"]]
        yield {
            **image,
            "categories": {one["category_id"]: names[one["category_id"]] for one in found},
            "annotations": found,
        }


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `target` when all is written, and is gone when not."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    with _named(target):
        try:
            with unfinished.open("wb") as file:
                yield file
            os.replace(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk does not say which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
