"""The command: exit statuses, messages, starting weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from export import train
from export.training.trainer import Trainer
from tests.export.training.small import SMALL_CONFIG_FILE, write_coco


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_coco(root, "train", 4, seed=0)
    write_coco(root, "val", 2, seed=1)
    return root


def config_file(folder: Path, **training: Any) -> Path:
    path = folder / "run.json"
    path.write_text(json.dumps(SMALL_CONFIG_FILE | {"training": SMALL_CONFIG_FILE["training"] | training}))
    return path


def command(data: Path, output: Path, *others: object) -> list[str]:
    return ["--data", f"coco:{data}", "--output", str(output), *map(str, others)]


def losses(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]


def test_a_run_from_files_and_its_continuation(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, config = tmp_path / "run", config_file(tmp_path)
    assert train.main(command(data, output, "--config", config)) == 0
    assert "4 training and 2 validation pictures, 3 classes" in capsys.readouterr().out
    assert train.main(command(data, output, "--config", config)) == 2
    assert "--resume" in capsys.readouterr().err
    longer = config_file(tmp_path, steps=4)
    assert train.main(command(data, output, "--config", longer, "--resume")) == 0
    assert [row["step"] for row in losses(output)] == [1, 2, 3, 4]


def test_other_classes_get_new_predictors_and_keep_the_rest(data: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, steps=1)
    assert train.main(command(data, tmp_path / "first", "--config", config)) == 0
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        document["categories"].append({"id": 8, "name": "star"})
        path.write_text(json.dumps(document))
    frozen = config_file(tmp_path, steps=1, optimizer={"learning_rate": 0.0})
    weights = tmp_path / "first" / "last.pt"
    assert train.main(command(data, tmp_path / "second", "--config", frozen, "--init", weights)) == 0
    before = torch.load(weights, weights_only=True)
    after = torch.load(tmp_path / "second" / "last.pt", weights_only=True)
    assert after["config"]["classes"][-1] == "star"
    changed = {n for n, t in after["model"].items() if not torch.equal(t, before["model"][n])}
    assert {n.rsplit(".", 1)[0] for n in changed} == {"box_head.class_logits", "box_head.deltas", "mask_head.logits"}


def break_polygon(data: Path) -> None:
    path = data / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][2]["segmentation"] = [[1, 2, 3]]
    path.write_text(json.dumps(document))


def test_a_broken_polygon_ends_with_its_name(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_polygon(data)
    assert train.main(command(data, tmp_path / "run", "--config", config_file(tmp_path))) == 2
    message = capsys.readouterr().err
    assert "instances_train.json" in message
    assert "annotation 3: polygon 0 has an odd number of coordinates (3)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--data", "folder"], "expected coco:DIR or shapes", id="data"),
        pytest.param(["--data", "coco:nowhere"], "no such file", id="no files"),
        pytest.param(["--data", "shapes", "--config", "none.yaml"], "none.yaml", id="no configuration"),
        pytest.param(["--data", "shapes", "--init", "none.pt"], "none.pt", id="no weights"),
        pytest.param(["--data", "shapes", "--resume"], "nothing to resume", id="nothing to resume"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_a_run_that_leaves_the_numbers_exits_with_1(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(tmp_path, steps=20, optimizer={"learning_rate": 1e30})
    assert train.main(command(data, tmp_path / "run", "--config", config)) == 1
    assert "not finite" in capsys.readouterr().err
    assert (tmp_path / "run" / "nan_batch.pt").exists()


def test_help_is_instant() -> None:
    start = time.process_time()
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    assert caught.value.code == 0
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        pytest.param([], {}, "add --resume", id="no resume"),
        pytest.param(
            ["--resume"],
            {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
            id="a store that remembers",
        ),
    ],
)
def test_torchruns_restarts_are_refused_where_they_could_not_work(
    arguments: list[str],
    environment: dict[str, str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ({"TORCHELASTIC_MAX_RESTARTS": "3"} | environment).items():
        monkeypatch.setenv(name, value)
    assert train.main(["--data", "shapes", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_process_of_torchrun_that_was_stopped_does_not_say_that_it_is_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setattr(Trainer, "run", lambda self: False)
    arguments = command(data, tmp_path / "run", "--config", config_file(tmp_path), "--resume")
    assert train.main(arguments) == train.STOPPED
    assert "from step 0" in capsys.readouterr().out  # --resume with nothing to go on from
    monkeypatch.setattr(Trainer, "run", lambda self: True)
    assert train.main(arguments) == 0
