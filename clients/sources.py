"""Where the pictures of `maskline batch` are: a folder, a COCO dataset, a Parquet file. A source comes in shards, which
a worker on another machine can read by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from clients.errors import MasklineError, MissingExtraError
from clients.folder import SUFFIXES, PictureFile, find

if TYPE_CHECKING:
    import pyarrow.parquet

COCO = "coco:"
PARQUET = ".parquet"
SHARD = 256
"""Pictures, where files are the source."""
NAME_COLUMN = "file_name"


class SourceError(MasklineError):
    """What was given as the source of pictures is none."""


class Shard(Protocol):
    """Some pictures in their order. Can be pickled."""

    def listed(self) -> list[PictureFile]:
        """All its pictures, for their names: what is in a table is not read."""

    def pictures(self) -> Iterator[PictureFile]: ...


@dataclass(frozen=True)
class Files:
    files: Sequence[PictureFile]

    def listed(self) -> list[PictureFile]:
        return list(self.files)

    def pictures(self) -> Iterator[PictureFile]:
        return iter(self.files)


@dataclass(frozen=True)
class StoredPicture(PictureFile):
    """A picture whose file is in a table; `path` is the table's."""

    content: bytes = b""

    def read(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class RowGroup:
    """Of a Parquet file. `column` holds picture files, their paths, or `{bytes, path}` as Hugging Face's datasets do;
    `first_row` is the number of the first row in all files of the source."""

    path: Path
    index: int
    column: str
    first_row: int

    def listed(self) -> list[PictureFile]:
        """Names are paths, where the table has them in `column` or in `file_name`; else numbers of rows."""
        file = _open_parquet(self.path)
        column = _name_column(file, self.column)
        rows: list[dict[str, Any]] = [{}] * file.metadata.row_group(self.index).num_rows
        if column is not None:
            rows = file.read_row_group(self.index, columns=[column]).to_pylist()
        return [PictureFile(self.path, self._name_of(row, k)) for k, row in enumerate(rows)]

    def pictures(self) -> Iterator[PictureFile]:
        file = _open_parquet(self.path)
        columns = [name for name in (self.column, NAME_COLUMN) if name in file.schema_arrow.names]
        k = 0
        for batch in file.iter_batches(batch_size=32, row_groups=[self.index], columns=columns):
            for row in batch.to_pylist():
                yield self._picture(row, k)
                k += 1

    def _picture(self, row: dict[str, Any], k: int) -> PictureFile:
        value, name = row[self.column], self._name_of(row, k)
        if isinstance(value, str):
            return PictureFile(self.path.parent / value, name)
        content = value["bytes"] if isinstance(value, dict) else value
        return StoredPicture(self.path, name, content=content or b"")

    def _name_of(self, row: dict[str, Any], k: int) -> PurePosixPath:
        value = row.get(self.column)
        if isinstance(value, dict):
            value = value["path"]
        given = value if isinstance(value, str) else row.get(NAME_COLUMN)
        return PurePosixPath(given) if given else _name(self.first_row + k)


def open_source(given: str, split: str, column: str) -> list[Shard]:
    """A folder, `coco:DIR`, or a Parquet file or folder of such files whose name ends in `.parquet`.

    Raises:
        SourceError: it is none of these, or has no pictures. MissingExtraError: for Parquet, pyarrow.
        OSError: it cannot be read.
    """
    if given.startswith(COCO):
        shards = _shards(_coco(Path(given.removeprefix(COCO)), split))
    elif given.endswith(PARQUET):
        shards = _row_groups(Path(given), column)
    elif Path(given).is_dir():
        shards = _shards(find([Path(given)], []))
    else:
        raise SourceError(f"{given}: give a folder of pictures, coco:DIR, or a file.parquet.")
    if not shards:
        raise SourceError(f"{given}: no pictures there ({', '.join(SUFFIXES)}).")
    return shards


def _shards(files: Sequence[PictureFile]) -> list[Shard]:
    return [Files(files[first : first + SHARD]) for first in range(0, len(files), SHARD)]


def _coco(folder: Path, split: str) -> list[PictureFile]:
    """The images of DIR/annotations/instances_SPLIT.json, which are in DIR/SPLIT."""
    path = folder / "annotations" / f"instances_{split}.json"
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        named = [(PurePosixPath(one["file_name"]), int(one["id"])) for one in images]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is no COCO dataset: {error!r}.") from error
    return [PictureFile(folder / split / name, name, image_id) for name, image_id in named]


def _row_groups(given: Path, column: str) -> list[Shard]:
    shards: list[Shard] = []
    first_row = 0
    for path in sorted(given.glob(f"*{PARQUET}")) if given.is_dir() else [given]:
        file = _open_parquet(path)
        if column not in file.schema_arrow.names:
            raise SourceError(
                f"{path} has no column {column!r}, but {', '.join(file.schema_arrow.names)}; see --column."
            )
        for index in range(file.metadata.num_row_groups):
            shards.append(RowGroup(path, index, column, first_row))
            first_row += file.metadata.row_group(index).num_rows
    return shards


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading Parquet", "pyarrow", "parquet") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path} is no Parquet file: {error}.") from error


def _name_column(file: pyarrow.parquet.ParquetFile, column: str) -> str | None:
    import pyarrow

    kind = file.schema_arrow.field(column).type
    if pyarrow.types.is_struct(kind):
        return f"{column}.path"
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return column
    return NAME_COLUMN if NAME_COLUMN in file.schema_arrow.names else None


def _name(row: int) -> PurePosixPath:
    return PurePosixPath(f"{row:08d}")
