"""`maskline batch` over a cluster: one file, whoever dies. And forms of Parquet, for which Ray brings pyarrow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from clients import sources
from clients.batch import main
from clients.sources import open_source
from tests.real_ray.conftest import ROOT, workers
from tests.real_ray.load import picture

PICTURES = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(PICTURES):
        (folder / f"{k:04d}.png").write_bytes(picture(k % 90))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process writes."""
    output = tmp_path_factory.mktemp("undisturbed") / "results.json"
    assert main(options(folder, output)) == 0
    return output.read_bytes()


def options(source: Path, output: Path, *more: str) -> list[str]:
    model = ["--model", str(ROOT / "models" / "demo"), "--engine", "fake"]
    return [str(source), *model, "--output", str(output), *more]


def started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "clients", "batch", *arguments], cwd=ROOT)


def wait_for_lines(output: Path, lines: int) -> None:
    part = output.with_name(f"{output.name}.part")
    deadline = time.monotonic() + 60
    while not part.exists() or part.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_dies(cluster: Cluster, folder: Path, undisturbed: bytes, tmp_path: Path):
    output = tmp_path / "results.json"
    with started(*options(folder, output, "--ray", cluster.address)) as process:
        wait_for_lines(output, 1)
        os.kill(workers(cluster, "MapWorker")[0], signal.SIGKILL)
        assert process.wait(90) == 0
    assert output.read_bytes() == undisturbed


def test_the_command_is_killed_and_goes_on(cluster: Cluster, folder: Path, undisturbed: bytes, tmp_path: Path):
    output = tmp_path / "results.json"
    arguments = options(folder, output, "--ray", cluster.address, "--resume")
    with started(*arguments) as process:
        wait_for_lines(output, 10)
        process.kill()
    assert not output.exists()
    with started(*arguments) as process:
        assert process.wait(90) == 0
    assert output.read_bytes() == undisturbed


def test_a_model_that_cannot_be_loaded_is_one_sentence(cluster: Cluster, folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "clients", "batch", *options(folder, tmp_path / "results.json")]
    command += ["--model", str(tmp_path), "--ray", cluster.address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "model.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", ["bytes and names", "paths", "bytes and paths in one column", "bytes"])
def test_forms_of_parquet(form: str, folder: Path, undisturbed: bytes, tmp_path: Path):
    paths = sorted(folder.iterdir())
    contents, names = [path.read_bytes() for path in paths], [path.name for path in paths]
    columns = {
        "bytes and names": {"image": contents, "file_name": names},
        "paths": {"image": [os.path.relpath(path, tmp_path) for path in paths]},
        "bytes and paths in one column": {
            "image": [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
        },
        "bytes": {"image": contents},
    }[form]
    table = tmp_path / "pictures.parquet"
    pq.write_table(pa.table(columns), table, row_group_size=96)
    output = tmp_path / "results.json"
    assert main(options(table, output)) == 0
    found = output.read_bytes()
    renamed = {"paths": os.path.relpath(folder, tmp_path).encode() + b"/", "bytes": b"0000"}.get(form, b"")
    found = found.replace(b'"file_name": "' + renamed, b'"file_name": "')
    assert found.replace(b".png", b"") == undisturbed.replace(b".png", b"")


def test_row_groups_of_several_files_are_shards(tmp_path: Path):
    folder = tmp_path / "many.parquet"
    folder.mkdir()
    for part in range(2):
        pq.write_table(pa.table({"picture": [b"x"] * 5}), folder / f"{part}.parquet", row_group_size=3)
    shards = open_source(str(folder), "val", "picture")
    listed = [[picture.name.name for picture in shard.listed()] for shard in shards]
    assert listed == [
        ["00000000", "00000001", "00000002"],
        ["00000003", "00000004"],
        ["00000005", "00000006", "00000007"],
        ["00000008", "00000009"],
    ]
    assert [[one.name for one in shard.pictures()] for shard in shards] == [
        [one.name for one in shard.listed()] for shard in shards
    ]


@pytest.mark.parametrize(
    ("content", "column", "says"),
    [
        pytest.param(b"text", "image", "is no Parquet file", id="no Parquet"),
        pytest.param(None, "photo", "has no column 'photo', but image", id="no such column"),
    ],
)
def test_what_is_no_source(content: bytes | None, column: str, says: str, tmp_path: Path):
    table = tmp_path / "pictures.parquet"
    pq.write_table(pa.table({"image": [b"x"]}), table)
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(sources.SourceError, match=says):
        open_source(str(table), "val", column)
