"""Which pictures a command line of files and folders means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class PictureFile:
    """`name` is what outputs call it: its path within the folder that was given, or its file name. `image_id`: that of
    the COCO dataset that it is from."""

    path: Path
    name: PurePosixPath
    image_id: int | None = None

    def read(self) -> bytes:
        """Raises `InvalidPictureError`."""
        from clients.picture import encode

        return encode(self.path)


def find(given: Sequence[Path], outputs: Iterable[Path]) -> list[PictureFile]:
    """Files as they are; of folders, all pictures below them in the order of their names.

    Hidden files are left out, and what lies in `outputs`: drawings of an earlier run are not pictures of this one.
    Raises `OSError` for a folder that cannot be read.
    """
    not_in = [path.resolve() for path in outputs]
    found = []
    for path in given:
        if path.is_dir():
            found += [PictureFile(one, PurePosixPath(one.relative_to(path).as_posix())) for one in _below(path, not_in)]
        else:
            found.append(PictureFile(path, PurePosixPath(path.name)))
    return found


def _below(folder: Path, not_in: Sequence[Path]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_raise):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if name[0] != "." and (here / name).resolve() not in not_in)
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                yield here / name


def _raise(error: OSError) -> None:
    raise error


def same_name(pictures: Sequence[PictureFile], without_ending: bool) -> tuple[Path, Path] | None:
    """Two pictures that outputs would take for one, if there are any."""
    seen: dict[PurePosixPath, Path] = {}
    for one in pictures:
        earlier = seen.setdefault(one.name.with_suffix("") if without_ending else one.name, one.path)
        if earlier is not one.path:
            return earlier, one.path
    return None
