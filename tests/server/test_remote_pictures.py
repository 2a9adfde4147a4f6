"""Pictures by their address: off, and when on only from public hosts; the internet here is a server on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest

from server.app import create_app
from server.body_budget import BodyBudget
from server.contract.errors import PictureError, PictureTooLarge, QueueFull, UndecodablePicture
from server.pictures.remote import RemotePictures, is_public
from tests.server.internet import LOOPBACK, PICTURE, Internet, connected, redirect, response
from tests.server.running import fake_server, running, settings


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    async with connected() as internet:
        yield internet


def remote(
    internet: Internet, *, hosts: Sequence[str] = (), max_bytes: int = 1 << 20, timeout_s: float = 5
) -> RemotePictures:
    """Takes this machine for public, and everything else for what it is."""
    allowed = lambda address: address == LOOPBACK or is_public(address)  # noqa: E731
    memory = BodyBudget(2 << 20)
    return RemotePictures(max_bytes, timeout_s, hosts, memory, resolve=internet.resolve, is_allowed=allowed)


async def test_a_picture_comes_without_credentials(internet: Internet) -> None:
    assert await remote(internet).fetch(internet.url("/a.png?size=1")) == PICTURE
    (head,) = internet.asked
    first, *lines = head.lower().splitlines()
    assert first == "get /a.png?size=1 http/1.1"
    assert f"host: pictures.example:{internet.port}" in lines
    assert not {"cookie", "authorization", "referer"} & {line.partition(":")[0] for line in lines}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "2002:7f00:1::", "2002:a00:1::1", "2001:0:a00:1::", "2001:db8::1", "::127.0.0.1",
    ],
)  # fmt: skip
async def test_private_addresses_are_never_connected_to(address: str) -> None:
    internet = Internet()
    internet.names["sly.example"] = ["93.184.215.14", address]
    fetcher = RemotePictures(1000, 5, (), BodyBudget(1000), resolve=internet.resolve)
    assert not is_public(address)
    with pytest.raises(UndecodablePicture, match="public"):
        await fetcher.fetch("http://sly.example/a.png")


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/",
        "http://localhost/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://user:pw@8.8.8.8/", "http://@8.8.8.8/",
        "http:///a.png", "http://", "http://8.8.8.8:99999/", "http://8.8.8.8:x/", "http://8.8.8.8\\@127.0.0.1/",
        "http://8.8.8.8/\r\nHost: evil", "http://8.8.8.8 /", "http://ex\u0430mple.com/", "http://[/", "http://[::1%25lo]/",
    ],
)  # fmt: skip
async def test_odd_addresses_are_refused(url: str) -> None:
    with pytest.raises(UndecodablePicture):
        await RemotePictures(1000, 5, (), BodyBudget(1000)).fetch(url)


async def test_each_hop_is_checked(internet: Internet) -> None:
    fetcher = remote(internet)
    for location, word in (
        ("http://10.0.0.1/a.png", "public"),
        ("file:///etc/passwd", "public"),
        ("gopher://pictures.example/", "public"),
        ("//169.254.169.254/latest", "public"),
        ("/again", "redirects"),
    ):
        internet.answer = redirect(location)
        with pytest.raises(UndecodablePicture, match=word):
            await fetcher.fetch(internet.url())


async def test_redirects_to_public_hosts_are_followed(internet: Internet) -> None:
    internet.answer = lambda head: response(PICTURE) if "/real.png" in head else redirect("/real.png")
    assert await remote(internet).fetch(internet.url()) == PICTURE
    assert len(internet.asked) == 2


async def test_a_name_is_asked_for_once(internet: Internet) -> None:
    """Else its second answer could be another."""
    await remote(internet).fetch(internet.url())
    assert internet.resolved == ["pictures.example"]


async def test_only_the_hosts_of_the_settings(internet: Internet) -> None:
    fetcher = remote(internet, hosts=["Pictures.example"])
    assert await fetcher.fetch(internet.url()) == PICTURE
    internet.names["other.example"] = [LOOPBACK]
    with pytest.raises(UndecodablePicture, match="may fetch from"):
        await fetcher.fetch(internet.url(host="other.example"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(response(b"", "404 Not Found"), UndecodablePicture, id="404"),
        pytest.param(response(b"", "302 Found"), UndecodablePicture, id="redirect to nowhere"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", UndecodablePicture, id="another protocol"),
        pytest.param(b"", UndecodablePicture, id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc", UndecodablePicture, id="too little"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, UndecodablePicture, id="a long header"),
        pytest.param(response(bytes(2 << 20)), PictureTooLarge, id="too much"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(2 << 20), PictureTooLarge, id="no length"),
    ],
)
async def test_answers_that_are_no_picture(internet: Internet, answer: bytes, error: type[PictureError]) -> None:
    internet.answer = answer
    with pytest.raises(error):
        await remote(internet).fetch(internet.url())


async def test_a_host_that_does_not_answer(internet: Internet) -> None:
    internet.answer, internet.holds = b"HTTP/1.1 200 OK\r\n", True
    with pytest.raises(UndecodablePicture, match="within"):
        await remote(internet, timeout_s=0.2).fetch(internet.url())


async def test_fetched_pictures_count_as_bodies(internet: Internet) -> None:
    fetcher = RemotePictures(1 << 20, 5, (), BodyBudget(10), resolve=internet.resolve, is_allowed=lambda _: True)
    with pytest.raises(QueueFull):
        await fetcher.fetch(internet.url())


# Over HTTP


async def test_addresses_are_refused_unless_they_are_allowed() -> None:
    async with fake_server() as client:
        for body in ({"image": "https://pictures.example/a.png"}, {"images": ["HTTP://pictures.example/a.png"]}):
            reply = await client.post("/predict", json=body)
            assert reply.status_code == 400
            assert "url_inputs" in reply.json()["detail"]


@contextlib.asynccontextmanager
async def fetching_server(internet: Internet) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings(url_inputs=True, max_pictures=3))
    app.state.remote_pictures = remote(internet)
    async with running(app) as client:
        yield client


async def test_addresses_beside_files(internet: Internet) -> None:
    url = internet.url()
    async with fetching_server(internet) as client:
        assert len((await client.post("/predict", json={"image": url})).json()["images"]) == 1
        assert len((await client.post("/predict", json={"images": [url, url, url]})).json()["images"]) == 3
        bad = await client.post("/predict", json={"images": [url, "http://10.0.0.1/secret?key=abc"]})
        assert bad.status_code == 422
        assert "Picture 1" in bad.json()["detail"]
        assert "abc" not in bad.text
        assert (await client.post("/predict", json={"images": [url] * 4})).status_code == 413
        internet.answer = response(b"no picture")
        assert (await client.post("/predict", json={"image": url})).status_code == 400


async def test_the_settings_allow_no_private_address(internet: Internet) -> None:
    async with fake_server(url_inputs=True) as client:
        reply = await client.post("/predict", json={"image": internet.url(host=LOOPBACK)})
    assert reply.status_code == 400
    assert not internet.asked
