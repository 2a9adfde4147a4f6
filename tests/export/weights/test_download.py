"""Fetching published weights, from a server on loopback that breaks off, refuses and changes its mind."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from export.weights import MissingWeightsError, WeightsError, download
from export.weights.download import PUBLISHED, Published, fetch, resolve
from tests.export.weights.file_server import CONTENT, NAME, OTHER, FileServer

SOURCE = "torchvision:tiny"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """It publishes `CONTENT` under `SOURCE`."""
    running = FileServer()
    publish(monkeypatch, f"{running.url}/models/{NAME}", CONTENT)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is to be, in a cache of the test's own; no proxy and no waits."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download, "WAITS_S", [0.0] * len(download.WAITS_S))
    return tmp_path / "hub" / "checkpoints" / NAME


def publish(monkeypatch: pytest.MonkeyPatch, url: str, content: bytes) -> None:
    monkeypatch.setitem(PUBLISHED, SOURCE, Published(url, hashlib.sha256(content).hexdigest()[:8]))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def load_from_hub(url: str) -> dict[str, Any]:
    """As torchvision does."""
    return torch.hub.load_state_dict_from_url(url, progress=False, weights_only=True)


def refused(*sentences: str) -> str:
    """The message of the error, which has these in it."""
    with pytest.raises(MissingWeightsError) as raised:
        fetch(SOURCE)
    message = str(raised.value)
    assert all(sentence in message for sentence in sentences), message
    return message


def test_a_whole_download(server: FileServer, cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(SOURCE) == cached
    assert cached.read_bytes() == CONTENT
    assert not part_of(cached).exists()
    assert [(asked.path, asked.headers["Range"]) for asked in server.asked] == [(f"/models/{NAME}", None)]
    assert server.asked[0].headers["Accept-Encoding"] == "identity"  # or ranges would count compressed bytes
    captured = capsys.readouterr()
    assert f"Fetching {server.url}/models/{NAME} into {cached.parent}." in captured.err
    assert "300.0/300.0 kB" in captured.err
    assert captured.out == ""


def test_what_is_there_is_not_asked_for(server: FileServer, cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(cached, CONTENT)
    assert fetch(SOURCE) == cached
    assert not server.asked
    assert capsys.readouterr().err == ""
    assert list(cached.parent.iterdir()) == [cached]


def test_the_cache_is_shared_with_torch_hub(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    server.content = saved({"weight": torch.arange(3)})
    publish(monkeypatch, f"{server.url}/models/{NAME}", server.content)
    path = fetch(SOURCE)
    assert path == tmp_path / "xdg" / "torch" / "hub" / "checkpoints" / NAME
    assert load_from_hub(PUBLISHED[SOURCE].url)["weight"].tolist() == [0, 1, 2]
    assert len(server.asked) == 1
    path.unlink()
    load_from_hub(PUBLISHED[SOURCE].url)
    assert fetch(SOURCE) == path
    assert len(server.asked) == 2


def test_a_damaged_file_in_the_cache_is_replaced(
    server: FileServer, cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cached, CONTENT[:-1])
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert f"{cached} is damaged" in capsys.readouterr().err


def test_a_broken_connection_is_taken_up_where_it_broke(server: FileServer) -> None:
    server.breaks = [100_000, 50_000]
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]
    assert [asked.headers["If-Range"] for asked in server.asked] == [None, '"one"', '"one"']


@pytest.mark.parametrize(
    ("headers", "if_range"),
    [
        pytest.param({"ETag": 'W/"one"'}, None, id="weak ETag"),
        pytest.param(
            {"ETag": 'W/"one"', "Last-Modified": "Wed, 01 Jul 2026 00:00:00 GMT"},
            "Wed, 01 Jul 2026 00:00:00 GMT",
            id="weak ETag and a date",
        ),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_a_server_that_names_its_file_otherwise(
    server: FileServer, headers: dict[str, str], if_range: str | None
) -> None:
    server.headers, server.breaks = headers, [100_000]
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]
    assert server.asked[1].headers["If-Range"] == if_range


def test_a_connection_that_breaks_every_time(server: FileServer, cached: Path) -> None:
    tries = len(download.WAITS_S) + 1
    server.breaks = [10_000] * tries
    refused("could not be fetched: peer closed connection", "The next run goes on where this one stopped.")
    assert len(server.asked) == tries
    assert part_of(cached).read_bytes() == CONTENT[: 10_000 * tries]
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked[-1] == f"bytes={10_000 * tries}-"


def test_a_killed_run_is_taken_up_where_it_stopped(server: FileServer, cached: Path) -> None:
    put(part_of(cached), CONTENT[:120_000])
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked == ["bytes=120000-"]
    assert not part_of(cached).exists()


def test_a_run_killed_just_before_its_end(server: FileServer, cached: Path) -> None:
    put(part_of(cached), CONTENT)
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert not server.asked


def test_a_server_without_ranges(server: FileServer, cached: Path) -> None:
    server.ranges = False
    put(part_of(cached), OTHER)
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={len(OTHER)}-"]


@pytest.mark.parametrize("part", [OTHER[:100_000], OTHER + CONTENT], ids=["shorter", "longer"])
def test_what_a_killed_run_left_of_another_file(server: FileServer, cached: Path, part: bytes) -> None:
    put(part_of(cached), part)
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={len(part)}-", None]


@pytest.mark.parametrize(
    ("after", "ranges"),
    [
        pytest.param({"ETag": '"two"'}, [None, "bytes=100000-"], id="told by the ETag"),
        pytest.param({"ETag": '"one"'}, [None, "bytes=100000-", None], id="not told"),
    ],
)
def test_a_file_that_changes_between_two_tries(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, after: dict[str, str], ranges: list[str | None]
) -> None:
    publish(monkeypatch, f"{server.url}/models/{NAME}", OTHER)
    server.breaks, server.after_break = [100_000], after
    assert fetch(SOURCE).read_bytes() == OTHER
    assert server.ranges_asked == ranges


def test_the_wrong_file_is_removed(server: FileServer, cached: Path) -> None:
    server.content = OTHER
    refused(
        f"{server.url}/models/{NAME} is not the published file",
        f"starts with {hashlib.sha256(OTHER).hexdigest()[:8]}, not {hashlib.sha256(CONTENT).hexdigest()[:8]}",
        "It was removed.",
    )
    assert not cached.exists()
    assert not part_of(cached).exists()
    assert server.ranges_asked == [None]


@pytest.mark.parametrize("status", [403, 404])
def test_an_answer_that_stays_as_it_is(server: FileServer, cached: Path, status: int) -> None:
    server.statuses = [status]
    refused(f"{server.url}/models/{NAME} could not be fetched: the answer was {status}", str(cached.parent))
    assert len(server.asked) == 1


def test_a_file_that_has_moved(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server.url}/moved", CONTENT)
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert [asked.path for asked in server.asked] == ["/moved", f"/models/{NAME}"]


def test_a_busy_server_is_asked_again(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.statuses = [503, 429]
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert "Trying again: the answer was 503 Service Unavailable." in capsys.readouterr().err


def test_no_network(server: FileServer, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cached, OTHER)
    server.close()
    message = refused("could not be fetched: Connection refused.", f"put that file into {cached.parent} by hand")
    assert "goes on" not in message  # nothing has come
    assert cached.read_bytes() == OTHER


def test_a_proxy_of_the_environment_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://weights.invalid/{NAME}"
    publish(monkeypatch, url, CONTENT)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert [asked.path for asked in server.asked] == [url]


def test_a_proxy_that_cannot_be_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://proxy:70")
    refused("The environment's proxy or certificates cannot be used")


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(put(tmp_path / "file", b"")))
    refused(f"cannot be kept in {tmp_path / 'file' / 'hub' / 'checkpoints'}: Not a directory.", "set TORCH_HOME")
    assert not server.asked


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk(server: FileServer, cached: Path) -> None:
    cached.parent.mkdir(parents=True)
    part_of(cached).symlink_to("/dev/full")
    refused("No space left on device. Make room")


def test_two_builds_at_once_fetch_once(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.go_on.clear()
    with ThreadPoolExecutor(2) as builds:
        paths = [builds.submit(fetch, SOURCE) for _ in range(2)]
        written, until = "", time.monotonic() + 10
        while "Waiting for another build" not in written and time.monotonic() < until:
            time.sleep(0.01)
            written += capsys.readouterr().err
        server.go_on.set()
        assert {path.result(30).read_bytes() for path in paths} == {CONTENT}
    assert "Waiting for another build" in written
    assert len(server.asked) == 1


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(WeightsError) as raised:
        resolve("torchvision:fasterrcnn_resnet50_fpn")
    assert "no published weights torchvision:fasterrcnn_resnet50_fpn" in str(raised.value)
    assert "torchvision:maskrcnn_resnet50_fpn and torchvision:maskrcnn_resnet50_fpn_v2" in str(raised.value)


def test_other_sources_are_paths(server: FileServer, cached: Path) -> None:
    assert resolve("runs/best.pt") == resolve(Path("runs/best.pt")) == Path("runs/best.pt")
    assert resolve(SOURCE) == cached


def test_published_hashes_are_those_in_the_names_of_the_files() -> None:
    """By torch.hub's own rule for such names."""
    assert set(PUBLISHED) == {"torchvision:maskrcnn_resnet50_fpn", "torchvision:maskrcnn_resnet50_fpn_v2"}
    for url, sha256_prefix in PUBLISHED.values():
        found = torch.hub.HASH_REGEX.search(url)
        assert found
        assert found[1] == sha256_prefix
        assert url.startswith("https://download.pytorch.org/models/maskrcnn_resnet50_fpn_")
