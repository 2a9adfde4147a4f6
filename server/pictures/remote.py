"""Pictures that a request names by their address (`url_inputs`), fetched so that nobody can look at our own network.

A name is resolved once, every address must be public, and the connection goes to the address that was checked.
Redirects are checked like the first address. No proxy, no cookies, no credentials.

A server of our own that the settings name is the exception: what lies under its picture paths may be on a private
address and is asked for with its key. Nothing else there is, and nothing else gets the key.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import h11

from server.body_budget import BodyBudget
from server.contract.errors import PictureTooLarge, UndecodablePicture

MAX_REDIRECTS: Final = 3
MAX_AT_ONCE: Final = 16
PORTS: Final = {"http": 80, "https": 443}
ACCEPT: Final = "image/*, */*;q=0.5"
"""Label Studio refuses who takes pictures alone."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host as text."""


def is_address(text: str) -> bool:
    """Whether a picture of a JSON body is an address; base64 has no colon."""
    return text[:8].lower().startswith(("http://", "https://"))


async def resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, and not one that stands for one of ours."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in network for network in _WITH_IPV4_AT_END):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


_WITH_IPV4_AT_END: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))


@dataclass(frozen=True)
class OwnServer:
    """A server of our own at `url` whose pictures lie under `paths`, and the `Authorization` that opens them."""

    url: str
    paths: tuple[str, ...]
    authorization: str

    def holds(self, parts: SplitResult) -> bool:
        """Whether an address is one of its pictures."""
        own = urlsplit(self.url)
        below = tuple(own.path.rstrip("/") + path for path in self.paths)
        climbs = ".." in unquote(parts.path).split("/")
        return _origin(parts) == _origin(own) and parts.path.startswith(below) and not climbs


@dataclass(frozen=True)
class _Target:
    """One hop: where to connect, and what to ask for."""

    url: SplitResult
    host: str
    port: int
    address: str
    authorization: str = ""


class RemotePictures:
    """Fetches within `timeout_s` and `max_bytes`; `hosts` are the only ones allowed where there are any, beside `own`;
    with `only_own` there are no others."""

    def __init__(
        self,
        max_bytes: int,
        timeout_s: float,
        hosts: Sequence[str],
        memory: BodyBudget,
        *,
        own: OwnServer | None = None,
        only_own: bool = False,
        resolve: Resolve = resolve,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._hosts = {host.lower() for host in hosts}
        self._memory = memory
        self._own = own
        self._only_own = only_own
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """The picture file at an address.

        Raises:
            UndecodablePicture: an address that is not allowed, or that gives no file in time. PictureTooLarge.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                return await self._follow(url)
        except TimeoutError as error:
            raise UndecodablePicture(f"{_shown(url)} gave no picture within {self._timeout_s:g} s.") from error
        except (OSError, h11.ProtocolError, UnicodeError) as error:  # ssl's errors are OSErrors
            raise UndecodablePicture(f"{_shown(url)} cannot be fetched.") from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._get(await self._target(url))
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer.location)
        raise UndecodablePicture(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times.")

    async def _target(self, url: str) -> _Target:
        try:
            parts = urlsplit(url)
            _, host, port = _origin(parts)
        except ValueError:
            raise _not_allowed(url) from None
        if parts.scheme not in PORTS or not host or parts.username is not None or not _is_plain(url):
            raise _not_allowed(url)
        if self._own is not None and self._own.holds(parts):
            addresses = await self._resolve(host, port)
            return _Target(parts, host, port, addresses[0], self._own.authorization)
        if self._only_own or (self._hosts and host not in self._hosts):
            raise UndecodablePicture(f"{_shown(url)} is not on a host that this server may fetch from.")
        addresses = await self._resolve(host, port)
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise _not_allowed(url)
        return _Target(parts, host, port, addresses[0])

    async def _get(self, target: _Target) -> bytes | _Redirect:
        secure = ssl.create_default_context() if target.url.scheme == "https" else None
        name = target.host if secure else None  # the certificate is the name's, not the address's
        reader, writer = await asyncio.open_connection(target.address, target.port, ssl=secure, server_hostname=name)
        try:
            connection = h11.Connection(h11.CLIENT)
            writer.write(connection.send(_request(target)) or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            return await self._read_answer(_Events(connection, reader), target)
        finally:
            writer.transport.abort()

    async def _read_answer(self, events: _Events, target: _Target) -> bytes | _Redirect:
        head = await events.next()
        while isinstance(head, h11.InformationalResponse):
            head = await events.next()
        if not isinstance(head, h11.Response):
            raise h11.RemoteProtocolError("no response")
        if location := _location(head):
            return _Redirect(location)
        if head.status_code != 200:
            raise UndecodablePicture(f"{_shown(target.url.geturl())} answers with status {head.status_code}.")
        body = bytearray()
        with self._memory.room() as room:
            while isinstance(event := await events.next(), h11.Data):
                body += event.data
                if len(body) > self._max_bytes:
                    raise PictureTooLarge(f"The picture has more than {self._max_bytes} bytes.")
                room.grow(len(event.data))
        return bytes(body)


@dataclass(frozen=True)
class _Redirect:
    location: str


class _Events:
    def __init__(self, connection: h11.Connection, reader: asyncio.StreamReader) -> None:
        self._connection = connection
        self._reader = reader

    async def next(self) -> object:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(1 << 16))
        return event


def _request(target: _Target) -> h11.Request:
    path = (target.url.path or "/") + (f"?{target.url.query}" if target.url.query else "")
    host = f"[{target.host}]" if ":" in target.host else target.host
    if target.port != PORTS[target.url.scheme]:
        host = f"{host}:{target.port}"
    headers = [("Host", host), ("User-Agent", "maskline"), ("Accept", ACCEPT), ("Accept-Encoding", "identity")]
    if target.authorization:
        headers.append(("Authorization", target.authorization))
    return h11.Request(method="GET", target=path, headers=[*headers, ("Connection", "close")])


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port. Raises `ValueError` for a port that is none."""
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def _location(head: h11.Response) -> str:
    """Where a redirect leads, else nothing."""
    if head.status_code not in (301, 302, 303, 307, 308):
        return ""
    return next((value.decode("latin-1") for name, value in head.headers if name == b"location"), "")


def _is_plain(url: str) -> bool:
    """Whether there is nothing in it that one parser may read otherwise than another."""
    return url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')


def _not_allowed(url: str) -> UndecodablePicture:
    return UndecodablePicture(f"{_shown(url)} is not an http or https address of a public host.")


def _shown(url: str) -> str:
    """Without its query, which may hold a secret."""
    return url.partition("?")[0].partition("#")[0][:200]
