"""Trains a Mask R-CNN.

    python export/train.py --data shapes --output runs/shapes
    python export/train.py --data coco:DIR --config export/training/recipes/nuclei.yaml --output runs/nuclei
    python export/train.py --data coco:DIR --init mask_rcnn_coco.h5 --output runs/mine
    torchrun --standalone --nproc-per-node 2 -m export.train --data coco:DIR

`coco:DIR` is DIR/annotations/instances_{train,val}.json with pictures in DIR/train and DIR/val. The output folder gets
best.pt and last.pt (weights for export/build_engine.py), curves.png, predictions/, tensorboard/ and the losses and
metrics as JSON lines. The same command with --resume goes on from last.pt. A SIGTERM or Ctrl-C finishes the step and
saves. Exit status: 0 done or stopped by a signal, 1 a loss was not finite, 2 wrong usage, data or weights.

Under torchrun --resume also starts a run, and one stopped by a signal exits with 3: to torchrun 0 would mean that
training is done. docs/training-at-scale.md has the commands for several machines.

--init takes what build_engine.py --weights takes, of any family. The model keeps the layers and the rules of the
weights (the section model of --config overrides rules: input.min_size, backbone.bn_eps, rpn.anchor_sizes) and gets new
predictors for classes other than theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

STOPPED = 3
"""Exit status of a process of torchrun that a signal stopped, to itself or to another."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    from export.training.config import TrainingError
    from export.training.distributed import check_restarts, process_group
    from export.training.trainer import NonFiniteLossError
    from export.weights import WeightsError

    try:
        check_restarts(arguments.resume)
        with process_group() as (rank, world_size):
            return _train(arguments, rank, world_size)
    except NonFiniteLossError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except (TrainingError, WeightsError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", action="append", required=True, metavar="coco:DIR|shapes", help="several: united by class name"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON with sections model and training")
    parser.add_argument(
        "--init", metavar="WEIGHTS", help="a weights file of any family, or torchvision:maskrcnn_resnet50_fpn"
    )
    parser.add_argument(
        "--init-config", type=Path, metavar="FILE", help="what --init does not tell, such as detectron2's config.yaml"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    return parser


def _train(arguments: argparse.Namespace, rank: int, world_size: int) -> int:
    from export.training.config import training_config
    from export.training.distributed import started_by_torchrun, training_device
    from export.training.setup import make_model, open_data, read_settings
    from export.training.trainer import Trainer

    goes_on = _goes_on(arguments.output / "last.pt", arguments.resume)
    model_values, training_values = read_settings(arguments.config, arguments.data, arguments.init)
    config = training_config(training_values)
    train, val = open_data(arguments.data, config)
    start = make_model(train.classes, model_values, config.seed, arguments.init, arguments.init_config)
    model = start.model.to(training_device())
    trainer = Trainer(model, train, val, config, arguments.output, rank=rank, world_size=world_size)
    if goes_on:
        trainer.resume()
    if rank == 0:
        if start.told:
            print(start.told)
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{len(train)} training and {len(val)} validation pictures, {len(train.classes) - 1} classes; "
            f"{parameters / 1e6:.2f} million parameters; from step {trainer.step} to {config.steps}"
        )
    done = trainer.run()
    if rank == 0:
        print("done" if done else f"stopped after step {trainer.step}; --resume goes on from there")
    return 0 if done or not started_by_torchrun() else STOPPED


def _goes_on(last: Path, resume: bool) -> bool:
    """Whether to start from the checkpoint `last`. Raises `TrainingError`."""
    from export.training.config import TrainingError
    from export.training.distributed import from_first_process, started_by_torchrun

    exists = from_first_process(last.exists)
    if exists and not resume:
        raise TrainingError(f"{last} exists already: --resume goes on from it, another --output starts anew")
    return exists or (resume and not started_by_torchrun())


if __name__ == "__main__":
    sys.exit(main())
