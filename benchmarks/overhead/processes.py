"""A server process and all that it has started: when it answers, what CPU time and memory it takes. Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_TIMEOUT_S = 120
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerError(Exception):
    """A server that does not start; the message ends with what it said last."""


class Server:
    """A running process and its descendants."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, once it has ended."""
        return self._process.poll()

    @property
    def ended(self) -> bool:
        return self.status is not None

    def pids(self) -> list[int]:
        """Its own first."""
        return [pid for pid, _ in self._stats()]

    def cpu_s(self) -> float:
        """Of the processes that run now, and of those that they have waited for."""
        return sum(sum(map(int, fields[11:15])) for _, fields in self._stats()) / TICKS_PER_S

    def rss_mib(self) -> float:
        return sum(int(fields[21]) for _, fields in self._stats()) * PAGE_BYTES / 2**20

    def stop(self) -> None:
        """Kills it with all that it started."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """Number of each process, and the fields of its /proc/PID/stat from the third on; parents first."""
        everyone = _all_stats()
        family = [self._process.pid]
        for pid in family:
            if pid in everyone:
                yield pid, everyone[pid]
            family += [child for child, fields in everyone.items() if int(fields[1]) == pid]


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str], ready_url: str, log: Path) -> Iterator[Server]:
    """Runs a server until the block ends. Raises `ServerError`."""
    server = Server(_started(command, env, log))
    try:
        _wait_for(server, ready_url, log)
        yield server
    finally:
        server.stop()


def _started(command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        try:
            return subprocess.Popen(
                command, env={**os.environ, **env}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise ServerError(f"{command[0]} cannot be run: {error.strerror}.") from error


def _all_stats() -> dict[int, list[str]]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            found[int(path.parent.name)] = path.read_text().rpartition(") ")[2].split()
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(server: Server, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not server.ended:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServerError(f"{url} never answered. The server's last words:\n{log.read_text(errors='replace')[-2000:]}")
