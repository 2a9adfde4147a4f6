"""Runs: exact resuming, stopping, NaN, files, and losses that fall."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from export.model.config import BackboneConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.checkpoint import CheckpointError
from export.training.config import TrainingConfig, TrainingError
from export.training.dataset import Picture
from export.training.shapes import ShapesSet
from export.training.trainer import NonFiniteLossError, Trainer
from tests.export.training.small import SIZE, small_model_config, small_training

VARIED: dict[str, Any] = {
    "steps": 5,
    "checkpoint_every": 2,
    "accumulate": 2,
    "optimizer": {
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "decay": "cosine",
        "ema_decay": 0.9,
        "regimes": [{"until_step": 3, "layers": "heads"}],
    },
    "augment": {"quarter_turns": True, "crop": 48, "brightness": 0.1},
}


class KilledError(Exception):
    """Stands for a kill: nothing is saved on the way out."""


class Fatal(ShapesSet):
    """Dies, or calls for a stop, when its n-th picture is read."""

    def __init__(self, count: int, fatal_read: int, stop: bool = False) -> None:
        super().__init__(count, SIZE)
        self.reads_left, self.stop = fatal_read, stop

    def __getitem__(self, index: int) -> Picture:
        self.reads_left -= 1
        if self.reads_left == 0:
            if not self.stop:
                raise KilledError
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def trainer(output: Path, config: TrainingConfig, train: ShapesSet | None = None) -> Trainer:
    torch.manual_seed(5)
    model = MaskRCNN(small_model_config())
    return Trainer(model, train or ShapesSet(7, SIZE), ShapesSet(2, SIZE, seed=1), config, output)


def test_a_backbone_whose_gradient_would_overwrite_memory_is_refused(tmp_path: Path) -> None:
    narrow = BackboneConfig(depth=18, stem_width=4, stage_widths=(16, 16, 8, 8))
    data = ShapesSet(2, SIZE)
    with pytest.raises(TrainingError, match=r"stage5\..* of 8 channels cannot be trained on a CPU"):
        Trainer(MaskRCNN(small_model_config(backbone=narrow)), data, data, small_training(), tmp_path)


def losses(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]


def assert_same_run(found: Path, expected: Path) -> None:
    """The same losses, weights, averages and optimiser state, to the last bit."""
    assert losses(found) == losses(expected)
    a, b = (torch.load(folder / "last.pt", weights_only=True) for folder in (found, expected))
    for states in ((a["model"], b["model"]), (a["training"]["model"], b["training"]["model"])):
        assert all(torch.equal(states[0][n], t) for n, t in states[1].items())
    for key, state in b["training"]["optimizer"]["state"].items():
        assert torch.equal(a["training"]["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"])


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = small_training(**VARIED)
    assert trainer(tmp_path / "straight", config).run()
    # 2 pictures a step: the eighth is read in step 4, after the checkpoint of step 2 and the log of step 3
    with pytest.raises(KilledError):
        trainer(tmp_path / "killed", config, Fatal(7, fatal_read=8)).run()
    assert len(losses(tmp_path / "killed")) == 3
    torch.manual_seed(99)
    resumed = trainer(tmp_path / "killed", config)
    resumed.resume()
    assert resumed.step == 2
    assert resumed.run()
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


def test_a_signal_saves_and_stops_after_the_step(tmp_path: Path) -> None:
    config = small_training(**VARIED)
    assert trainer(tmp_path / "straight", config).run()
    before = signal.getsignal(signal.SIGTERM)
    stopped = trainer(tmp_path / "stopped", config, Fatal(7, fatal_read=5, stop=True))
    assert not stopped.run()
    assert stopped.step == 3
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = trainer(tmp_path / "stopped", config)
    resumed.resume()
    assert resumed.step == 3
    assert resumed.run()
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, small_training(steps=1)).run()
    with pytest.raises(CheckpointError, match="another seed"):
        trainer(tmp_path, small_training(steps=1, seed=1)).resume()
    other = MaskRCNN(small_model_config(("background", "thing")))
    pictures = ShapesSet(2, SIZE)
    with pytest.raises(CheckpointError, match="other classes"):
        Trainer(other, pictures, pictures, small_training(), tmp_path).resume()


def test_nan_stops_the_run_and_saves_the_batch(tmp_path: Path) -> None:
    run = trainer(tmp_path, small_training())
    with torch.no_grad():
        run.model.rpn_head.logits.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"rpn_class.*nan_batch\.pt"):
        run.run()
    saved = torch.load(tmp_path / "nan_batch.pt", weights_only=True)
    assert saved["step"] == 0
    batch = saved["batches"][0]
    assert batch["images"].shape == (2, SIZE, SIZE, 3)
    assert all(name.startswith("shapes-0-") for name in batch["names"])
    assert len(batch["objects"]) == 2
    assert not (tmp_path / "last.pt").exists()


def test_nan_in_a_head_stops_the_run_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, small_training())
    with torch.no_grad():
        run.model.mask_head.logits.bias.fill_(float("inf"))
    with pytest.raises(NonFiniteLossError, match="mask"):
        run.run()


def test_losses_fall(tmp_path: Path) -> None:
    config = small_training(
        steps=40, batch_size=4, optimizer={"name": "adamw", "learning_rate": 0.004, "warmup_steps": 5}
    )
    trainer(tmp_path, config, ShapesSet(4, SIZE)).run()
    totals = [row["total"] for row in losses(tmp_path)]
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])


def test_a_run_leaves_its_report(tmp_path: Path) -> None:
    trainer(tmp_path, small_training(steps=2, evaluate_every=1, log_every=1)).run()
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= set(metrics[0])
    for name in ("best.pt", "last.pt", "curves.png", "predictions/step-000001.png", "predictions/step-000002.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_accumulated_parts_add_up_to_the_mean_of_their_losses(tmp_path: Path) -> None:
    """With plain SGD, two parts of one picture move the weights by the mean of their single moves."""
    settings: dict[str, Any] = {
        "steps": 1,
        "train_bn": False,
        "optimizer": {"learning_rate": 0.1, "momentum": 0, "weight_decay": 0, "clip_norm": None},
    }
    moves = []
    for name, changes in (("both", {"accumulate": 2}), ("first", {"batch_size": 1})):
        run = trainer(tmp_path / name, small_training(**settings, **changes))
        before = run.model.fpn.state_dict()
        before = {n: t.clone() for n, t in before.items()}
        run.run()
        moves.append(torch.cat([(t - before[n]).flatten() for n, t in run.model.fpn.state_dict().items()]))
    run = trainer(tmp_path / "second", small_training(**(settings | {"steps": 2}), batch_size=1))
    run.step = 1
    before = {n: t.clone() for n, t in run.model.fpn.state_dict().items()}
    run.run()
    moves.append(torch.cat([(t - before[n]).flatten() for n, t in run.model.fpn.state_dict().items()]))
    assert torch.allclose(moves[0], (moves[1] + moves[2]) / 2, atol=1e-7)
    assert moves[0].abs().max() > 1e-5


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    model = MaskRCNN(small_model_config())
    pictures = ShapesSet(2, SIZE)
    with pytest.raises(TrainingError, match="too few for 4 processes"):
        Trainer(model, pictures, pictures, small_training(batch_size=2), tmp_path, world_size=4)
