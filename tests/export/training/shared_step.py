"""What several processes do together: `torchrun ... -m tests.export.training.shared_step DIR ROOT`, or `share` in one.

Each process leaves `DIR/KIND-RANK.pt`, the change of each weight in one step of plain descent, which is the gradient,
and of BatchNorm's statistics; and `DIR/RANK.json`, what it measured and what it refused. `DIR/KIND/losses.jsonl` is
the trainer's own. `ROOT/straight` gets a run of `ROOT/run.json` over `ROOT/data`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from export.model.config import FpnConfig, HeadConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.config import TrainingConfig, TrainingError, training_config
from export.training.dataset import Picture
from export.training.distributed import process_group
from export.training.evaluation import evaluate
from export.training.setup import make_model, open_data, read_settings
from export.training.shapes import ShapesSet
from export.training.trainer import Trainer
from tests.export.training.small import SIZE, small_model_config, small_training

KINDS: dict[str, dict[str, Any]] = {
    "stored statistics": {"train_bn": False, "batch_size": 4},
    "statistics of the batch": {"train_bn": True, "batch_size": 4},
    "uneven shares": {"train_bn": True, "batch_size": 3},
    "accumulated": {"train_bn": True, "batch_size": 4, "accumulate": 2},
    "no RoIs on one process": {"train_bn": True, "batch_size": 2},
}
NORMS_EVERYWHERE: dict[str, Any] = {
    "fpn": FpnConfig(channels=8, norm=True),
    "heads": HeadConfig(box_fc_widths=(16,), box_norm=True, mask_conv_widths=(8,), mask_deconv_width=8, mask_norm=True),
}


class FirstIsEmpty(ShapesSet):
    """The first picture of the first epoch has no objects, so no RoIs; the others have."""

    def __getitem__(self, index: int) -> Picture:
        picture = super().__getitem__(index)
        if index != np.random.default_rng((0, 0, 0)).permutation(len(self))[0]:
            return picture
        return Picture(picture.name, picture.image, (), picture.class_ids[:0], picture.crowd[:0])


class GrowingSquares(ShapesSet):
    """Picture i has one square, of 12 + 8 i pixels, of class 1."""

    def __getitem__(self, index: int) -> Picture:
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        mask[8 : 20 + 8 * index, 8 : 20 + 8 * index] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        return Picture(str(index), mask[..., None].repeat(3, 2), (rle,), np.array([1]), np.array([False]))


class OneAnswer(MaskRCNN):
    """Finds a square of 28 pixels in everything, and counts what it is shown."""

    shown = 0

    def forward(self, images: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        self.shown += 1
        return torch.tensor([[0, 8.0, 8, 36, 36, 0.9, 1]]), torch.ones(1, 28, 28)


def share(output: Path, rank: int = 0, world_size: int = 1) -> None:
    output.mkdir(exist_ok=True)
    for kind, changes in KINDS.items():
        _take_step(kind, changes, output, rank, world_size)
    answer = OneAnswer(small_model_config())
    figures = evaluate(answer, GrowingSquares(5, SIZE), range(5), rank=rank, world_size=world_size)
    stopped = evaluate(answer, GrowingSquares(2, SIZE), range(2), lambda: rank == 1, rank, world_size)
    found = {"figures": figures, "shown": answer.shown, "stopped": stopped is None}
    found["refusals"] = _refusals(output, rank, world_size) if world_size > 1 else []
    (output / f"{rank}.json").write_text(json.dumps(found))


def _take_step(kind: str, changes: dict[str, Any], output: Path, rank: int, world_size: int) -> None:
    plain = {"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None}
    config = small_training(steps=1, evaluate_pictures=1, optimizer=plain, **changes)
    # Whoever starts with other weights than the first process is given the first's.
    torch.manual_seed(7 + rank)
    model = MaskRCNN(small_model_config(**NORMS_EVERYWHERE))
    train = FirstIsEmpty(7, SIZE) if kind == "no RoIs on one process" else ShapesSet(7, SIZE)
    run = Trainer(model, train, ShapesSet(2, SIZE), config, output / kind, rank=rank, world_size=world_size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert run.run()
    torch.save({n: t - before[n] for n, t in model.state_dict().items()}, output / f"{kind}-{rank}.pt")


def _refusals(output: Path, rank: int, world_size: int) -> list[str]:
    """What processes that do not agree, or have nothing to go on from, are told."""
    messages = []
    for config, pictures in ((small_training(seed=rank), 2), (small_training(), 2 + rank), (small_training(), 2)):
        try:
            _trainer(config, pictures, output, rank, world_size).resume()
        except TrainingError as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


def _trainer(config: TrainingConfig, pictures: int, output: Path, rank: int, world_size: int) -> Trainer:
    model, data = MaskRCNN(small_model_config()), ShapesSet(pictures, SIZE)
    return Trainer(model, data, data, config, output / "nothing", rank=rank, world_size=world_size)


def _run_straight(root: Path, rank: int, world_size: int) -> None:
    model_values, training_values = read_settings(root / "run.json", [], None)
    config = training_config(training_values)
    train, val = open_data([f"coco:{root / 'data'}"], config)
    model = make_model(train.classes, model_values, config.seed, None).model
    assert Trainer(model, train, val, config, root / "straight", rank=rank, world_size=world_size).run()


if __name__ == "__main__":
    with process_group() as (rank, world_size):
        share(Path(sys.argv[1]), rank, world_size)
        _run_straight(Path(sys.argv[2]), rank, world_size)
