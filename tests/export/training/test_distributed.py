"""Two processes take the steps of one, agree on what they are doing, survive a kill, and leave no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.training.mortal import FATAL_READ
from tests.export.training.shared_step import KINDS, share
from tests.export.training.small import SMALL_CONFIG_FILE, write_coco

STEPS, PICTURES, BATCH, CHECKPOINT_EVERY = 7, 7, 3, 2
"""Three epochs, none of which ends where a step does but the last."""

PROGRAM = """
import os
import torch
from export.training.distributed import process_group, sum_over_processes

with process_group() as (rank, size):
    assert sum_over_processes(torch.ones(3)).tolist() == [size] * 3
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    torch.optim.SGD([weight]).step()
names = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
print([name for name in names if "gloo" in name])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads have names to be read on Linux only")
def test_a_group_ends_with_its_threads() -> None:
    """Threads that outlive it are aborted by the end of the interpreter, now and then with the whole process."""
    torchrun = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | torchrun, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def torchrun(*arguments: object, environment: dict[str, str] | None = None) -> str:
    """What two processes of a module with arguments print."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two`: what `shared_step` does in one process and in two; `straight`: a run of `run.json`."""
    root = tmp_path_factory.mktemp("shared")
    write_coco(root / "data", "train", PICTURES, seed=0)
    write_coco(root / "data", "val", 2, seed=1)
    optimizer = {"learning_rate": 0.01, "decay": "cosine", "ema_decay": 0.9}
    training: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "checkpoint_every": CHECKPOINT_EVERY}
    training = SMALL_CONFIG_FILE["training"] | training | {"train_bn": True, "optimizer": optimizer}
    (root / "run.json").write_text(json.dumps(SMALL_CONFIG_FILE | {"training": training}))
    share(root / "one")
    torchrun("-m", "tests.export.training.shared_step", root / "two", root)
    return root


@pytest.fixture(scope="module")
def restarted(shared: Path) -> Path:
    """`killed`: the run once more, one of its processes killed on the way; `reads`: what they read."""
    (shared / "reads").mkdir()
    arguments = ["--data", f"coco:{shared / 'data'}", "--config", shared / "run.json", "--resume"]
    printed = torchrun(
        "--max-restarts=1",
        *("-m", "tests.export.training.mortal", shared / "reads", *arguments, "--output", shared / "killed"),
        environment={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    assert f"from step {CHECKPOINT_EVERY} to {STEPS}" in printed
    return shared


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_processes_are_those_of_one(shared: Path, kind: str) -> None:
    """And so are the statistics of BatchNorm, up to the order of sums in float32."""
    one, first, second = (torch.load(shared / name) for name in (f"one/{kind}-0.pt", *two_of(kind)))
    assert max(float(t.abs().max()) for t in one.values()) > 0.1
    for name, change in one.items():
        assert torch.allclose(first[name], change, rtol=1e-4, atol=5e-6), name
        assert torch.equal(second[name], first[name]), name


def two_of(kind: str) -> tuple[str, str]:
    return f"two/{kind}-0.pt", f"two/{kind}-1.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_two_processes_are_those_of_one(shared: Path, kind: str) -> None:
    expected, found = (json.loads((shared / name / kind / "losses.jsonl").read_text()) for name in ("one", "two"))
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_is_shared_and_merged_on_the_first_process(shared: Path) -> None:
    names = ("one/0.json", "two/0.json", "two/1.json")
    one, first, second = (json.loads((shared / name).read_text()) for name in names)
    assert 0 < one["figures"]["mask_ap"] < one["figures"]["mask_ap50"] < 1
    assert first["figures"] == one["figures"]
    assert second["figures"] == {}
    # Then two more pictures, of which the second process is kept from looking at its own.
    assert [one["shown"], first["shown"], second["shown"]] == [5 + 2, 3 + 1, 2]
    assert [one["stopped"], first["stopped"], second["stopped"]] == [False, True, True]


def test_processes_that_disagree_are_told_so(shared: Path) -> None:
    first, second = (json.loads((shared / f"two/{rank}.json").read_text())["refusals"] for rank in range(2))
    assert first == second
    settings, pictures, checkpoint = first
    assert settings == "TrainingError: process 1 has another configuration (--config, --init) than process 0"
    assert pictures == "TrainingError: process 1 has another number of pictures, or other classes, than process 0"
    assert checkpoint.startswith("CheckpointError: ")
    assert checkpoint.endswith("nothing to resume")


def test_a_killed_worker_is_restarted_from_the_last_checkpoint_to_the_same_end(restarted: Path) -> None:
    """To the last bit: losses, weights, averaged weights and the optimiser's state."""
    straight, killed = restarted / "straight", restarted / "killed"
    assert (killed / "losses.jsonl").read_text() == (straight / "losses.jsonl").read_text()
    assert (killed / "metrics.jsonl").read_text() == (straight / "metrics.jsonl").read_text()
    expected, found = (torch.load(folder / "last.pt", weights_only=True) for folder in (straight, killed))
    assert expected["training"]["step"] == STEPS
    for document in (found, expected):
        document["momentum"] = document["training"]["optimizer"]["state"]
        document["learning"] = document["training"]["model"]
    for part in ("model", "learning", "momentum"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)


def test_every_epoch_holds_every_picture_once_over_processes_and_restarts(restarted: Path) -> None:
    """Of the first life only what the checkpoint has counts; shares of three pictures are one and two."""
    reads = {file.stem: file.read_text().splitlines() for file in (restarted / "reads").iterdir()}
    assert len(reads["0-1"]) == FATAL_READ - 1 > 2 * CHECKPOINT_EVERY
    first = reads["0-0"][:CHECKPOINT_EVERY] + reads["1-0"]
    second = reads["0-1"][: 2 * CHECKPOINT_EVERY] + reads["1-1"]
    order = [name for step in range(STEPS) for name in (first[step], *second[2 * step : 2 * step + 2])]
    assert len(first) + len(second) == len(order) == 3 * PICTURES
    names = sorted(f"{i}.png" for i in range(PICTURES))
    assert [sorted(order[i : i + PICTURES]) for i in range(0, len(order), PICTURES)] == [names] * 3
