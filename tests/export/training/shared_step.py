"""One training step of several kinds, by one process or by torchrun's: `-m tests.export.training.shared_step DIR`.

`DIR/KIND.pt` has what the step did: the change of each weight, which is the gradient, and BatchNorm's statistics;
`DIR/KIND/losses.jsonl` and `metrics.jsonl` are the trainer's own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.model.config import FpnConfig, HeadConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.dataset import Picture
from export.training.distributed import process_group
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
    "heads": HeadConfig(
        box_fc_widths=(16,), box_norm=True, mask_conv_widths=(8,), mask_deconv_width=8, mask_norm=True
    ),
}


class FirstIsEmpty(ShapesSet):
    """The first picture of the first epoch has no objects, so no RoIs; the second has."""

    def __getitem__(self, index: int) -> Picture:
        first = np.random.default_rng((0, 0, 0)).permutation(len(self))[0]
        picture = super().__getitem__(index)
        if index != first:
            return picture
        return Picture(picture.name, picture.image, (), picture.class_ids[:0], picture.crowd[:0])


def take_steps(output: Path, rank: int, world_size: int) -> None:
    for kind, changes in KINDS.items():
        plain = {"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None}
        config = small_training(steps=1, evaluate_pictures=3, optimizer=plain, **changes)
        # Whoever starts with other weights than the first is given the first's.
        torch.manual_seed(7 + rank)
        model = MaskRCNN(small_model_config(**NORMS_EVERYWHERE))
        train = FirstIsEmpty(7, SIZE) if kind == "no RoIs on one process" else ShapesSet(7, SIZE)
        run = Trainer(model, train, ShapesSet(3, SIZE, seed=1), config, output / kind, rank=rank, world_size=world_size)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert run.run()
        after = model.state_dict()
        torch.save({n: after[n] - t for n, t in before.items()}, output / f"{kind}-{rank}.pt")


if __name__ == "__main__":
    with process_group() as (rank, world_size):
        take_steps(Path(sys.argv[1]), rank, world_size)
