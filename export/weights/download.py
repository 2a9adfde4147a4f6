"""torchvision's published weights, fetched once onto the user's machine.

They are kept where torch.hub keeps them, so that what torchvision has fetched is found here, and the other way round. A
download goes into a `.part` file beside its place and takes that place when its hash is right; what a run leaves
unfinished, the next goes on with.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from export.weights.errors import MissingWeightsError

if TYPE_CHECKING:
    import httpx2
    from rich.console import Console
    from rich.progress import Progress, TaskID

PREFIX = "torchvision:"


class Published(NamedTuple):
    url: str
    """Its last part is the name of the file."""
    sha256_prefix: str
    """The first digits of the hash; torchvision publishes eight, which show damage, not malice."""


PUBLISHED: dict[str, Published] = {
    f"{PREFIX}maskrcnn_resnet50_fpn": Published(
        "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "bf2d0c1e"
    ),
    f"{PREFIX}maskrcnn_resnet50_fpn_v2": Published(
        "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "73cbd019"
    ),
}
"""Sources by the names of torchvision's builders."""

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each further try, after the connection was lost or the server was busy."""


def resolve(source: str | Path) -> Path:
    """The file that `source` names: a path, or a name like `torchvision:maskrcnn_resnet50_fpn`. See `fetch`."""
    return fetch(source) if isinstance(source, str) and source.startswith(PREFIX) else Path(source)


def fetch(source: str) -> Path:
    """The file of a name in `PUBLISHED`, downloaded if it is not on this machine, with a progress bar on stderr.

    Raises `MissingWeightsError` for another name, and for what keeps the file from coming or from being kept.
    """
    if source not in PUBLISHED:
        raise MissingWeightsError(f"There are no published weights {source}; there are {' and '.join(PUBLISHED)}.")
    published = PUBLISHED[source]
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    with _told(published.url, path):
        if not _is_right(path, published):
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch_alone(published, path)
    return path


@contextmanager
def _told(url: str, path: Path) -> Iterator[None]:
    """Failures of the network and the disk, as sentences for the person at the keyboard."""
    import httpx2

    by_hand = f"Without a network here, put that file into {path.parent} by hand."
    try:
        yield
    except httpx2.HTTPError as error:
        again = "The next run goes on where this one stopped. " if _part(path).exists() else ""
        raise MissingWeightsError(f"{url} could not be fetched: {_reason(error)}. {again}{by_hand}") from error
    except OSError as error:
        message = (
            f"{url} cannot be kept in {path.parent}: {error.strerror or error}. Make room or give permission there, or "
            "set TORCH_HOME to another folder."
        )
        raise MissingWeightsError(message) from error


def _fetch_alone(published: Published, path: Path) -> None:
    """Of several builds that want the same file one fetches it, and the others wait for that."""
    from filelock import FileLock, Timeout
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"Waiting for another build, which fetches {path.name}.")
        lock.acquire()
    try:
        if not _is_right(path, published):
            _fetch(published, path, console)
    finally:
        lock.release()


def _fetch(published: Published, path: Path, console: Console) -> None:
    if path.exists():
        console.print(f"{path} is damaged: its SHA-256 does not start with {published.sha256_prefix}.")
    part = _part(path)
    if not _is_right(part, published):
        console.print(f"Fetching {published.url} into {path.parent}.")
        _download(published, part, console)
    if not _is_right(part, published):
        found = _sha256(part)[: len(published.sha256_prefix)]
        part.unlink()
        raise MissingWeightsError(
            f"What came from {published.url} is not the published file: its SHA-256 starts with {found}, not "
            f"{published.sha256_prefix}. It was removed. Does a proxy answer in its place? Try again, or put the right "
            f"file into {path.parent} by hand."
        )
    os.replace(part, path)


def _download(published: Published, part: Path, console: Console) -> None:
    with _client() as client, _progress(console) as progress:
        download = _Download(published.url, part, client, progress, progress.add_task(part.name, total=None))
        download.run()
        if download.pieced and not _is_right(part, published):
            part.unlink()  # its pieces are of two versions of the file, or the first was damaged
            download.run()


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _is_right(path: Path, published: Published) -> bool:
    return path.is_file() and _sha256(path).startswith(published.sha256_prefix)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _client() -> httpx2.Client:
    """Heeds the proxies and certificates of the environment."""
    import httpx2

    try:
        # Of a compressed answer no part could be asked for.
        return httpx2.Client(
            headers={"Accept-Encoding": "identity"}, timeout=httpx2.Timeout(30, connect=10), follow_redirects=True
        )
    except (ValueError, ImportError, OSError, httpx2.InvalidURL) as error:
        reason = str(error).rstrip(".")
        raise MissingWeightsError(f"The environment's proxy or certificates cannot be used: {reason}.") from error


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    return Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console)


@dataclass
class _Download:
    """One file on its way into `part`."""

    url: str
    part: Path
    client: httpx2.Client
    progress: Progress
    task: TaskID
    validator: str | None = None
    """What the server calls this version of the file."""
    pieced: bool = False
    """More than one answer went into `part`."""

    def run(self) -> None:
        """Returns when the server has no more to send. Raises `httpx2.HTTPError` after the last try."""
        import httpx2

        for wait_s in WAITS_S:
            try:
                return self._receive()
            except httpx2.HTTPError as error:
                if not _passes(error):
                    raise
                self.progress.console.print(f"Trying again: {_reason(error)}.")
                time.sleep(wait_s)
        return self._receive()

    def _receive(self) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        with self.client.stream("GET", self.url, headers=self._headers(have)) as response:
            if have and response.status_code == 416:  # nothing comes after what is there
                self.pieced = True
                return
            response.raise_for_status()
            self.pieced = response.status_code == 206
            self.validator = _validator(response)
            self._write(response, have if self.pieced else 0)

    def _headers(self, have: int) -> dict[str, str]:
        if not have:
            return {}
        return {"Range": f"bytes={have}-"} | ({"If-Range": self.validator} if self.validator else {})

    def _write(self, response: httpx2.Response, start: int) -> None:
        length = response.headers.get("Content-Length")
        self.progress.reset(self.task, total=start + int(length) if length else None, completed=start)
        with self.part.open("ab" if start else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                self.progress.advance(self.task, len(chunk))


def _validator(response: httpx2.Response) -> str | None:
    """For If-Range, which takes no weak ETag."""
    etag: str = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _passes(error: httpx2.HTTPError) -> bool:
    """Whether another try may do."""
    import httpx2

    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code == 429 or error.response.is_server_error
    return isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError | httpx2.TimeoutException)


def _reason(error: httpx2.HTTPError) -> str:
    import httpx2

    if isinstance(error, httpx2.HTTPStatusError):
        return f"the answer was {error.response.status_code} {error.response.reason_phrase}".rstrip()
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
