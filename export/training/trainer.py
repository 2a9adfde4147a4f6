"""The training loop: steps, evaluations and checkpoints, in an order that a resumed run repeats exactly."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from export.model.mask_rcnn import MaskRCNN
from export.training.batches import Batch, TrainingViews, load_batches
from export.training.checkpoint import (
    CheckpointError,
    native_checkpoint,
    read_training_checkpoint,
    write_atomically,
)
from export.training.config import TrainingConfig, TrainingError
from export.training.dataset import PictureSet
from export.training.distributed import (
    any_process,
    check_same,
    copy_from_first_process,
    from_first_process,
    sum_gradients,
    sum_over_processes,
)
from export.training.evaluation import evaluate
from export.training.norms import check_norms, set_norm_mode, synchronise_norms
from export.training.report import Report
from export.training.schedule import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    regime_at,
    set_learning_layers,
)
from export.training.sheet import save_sheet
from export.training.step import LOSS_NAMES, loss_terms, total_loss

SHEET_PICTURES = 6
NARROWEST = 16
"""Channels that a strided 1x1 convolution needs on a CPU; see `_check_convolutions`."""


class NonFiniteLossError(TrainingError):
    """A loss or a gradient is NaN or infinite; the batch that caused it is saved."""


class Trainer:
    """One run. `step` counts finished updates; `output` gets `last.pt`, `best.pt` and the report's files."""

    def __init__(
        self,
        model: MaskRCNN,
        train: PictureSet,
        val: PictureSet,
        config: TrainingConfig,
        output: Path,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if (config.batch_size // config.accumulate) < world_size:
            raise TrainingError(
                f"batch_size / accumulate = {config.batch_size // config.accumulate} pictures "
                f"are too few for {world_size} processes"
            )
        check_same((config, model.config), "configuration (--config, --init)")
        check_same((len(train), len(val), train.classes), "number of pictures, or other classes,")
        check_norms(model, config.train_bn)
        _check_convolutions(model)
        copy_from_first_process(model)
        if config.train_bn and world_size > 1:
            synchronise_norms(model)
        self.model, self.train, self.val, self.config, self.output = model, train, val, config, output
        self.rank, self.world_size = rank, world_size
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config.optimizer)
        decay = config.optimizer.ema_decay
        self.average = WeightAverage(model, decay) if decay is not None else None
        self.step = 0
        self.evaluated_step = 0
        self.best_ap = -1.0
        self._stop_asked = False
        self._last_save = time.monotonic()

    @property
    def evaluated_model(self) -> MaskRCNN:
        """The averaged weights where there are any, else the model."""
        return self.average.model if self.average else self.model

    def resume(self) -> None:
        """Goes back to where `last.pt` in the output folder was written. Raises `CheckpointError`."""
        path = self.output / "last.pt"
        # One process reads it and the others are sent it: a shared folder may show them an older file.
        document = from_first_process(lambda: read_training_checkpoint(path))
        state = document["training"]
        if _plain(document["config"]) != _plain(self.model.config.to_dict()):
            raise CheckpointError(f"{path}: was written by a run with another model configuration or other classes")
        if state["seed"] != self.config.seed or ("model" in state) != (self.average is not None):
            raise CheckpointError(f"{path}: was written by a run with another seed or weight averaging")
        self.evaluated_model.load_state_dict(document["model"])
        self.model.load_state_dict(state.get("model", document["model"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.evaluated_step, self.best_ap = state["step"], state["evaluated_step"], state["best_ap"]

    def run(self) -> bool:
        """Trains to the last step; True when done, False when a signal stopped it, with a checkpoint to resume."""
        self.output.mkdir(parents=True, exist_ok=True)
        previous = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            if self.rank:
                return self._loop(None)
            with Report(self.output, self.config.steps, self.step, self.config.log_every) as report:
                return self._loop(report)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _loop(self, report: Report | None) -> bool:
        views = TrainingViews(self.train, self.model.config.input, self.config)
        with closing(load_batches(views, self.config, self.step, self.rank, self.world_size)) as batches:
            return self._loop_over(batches, report)

    def _loop_over(self, batches: Iterator[Batch], report: Report | None) -> bool:
        while True:
            # First, so that an evaluation that a signal cut short is made up for on resuming.
            if self._evaluation_due() and not self._evaluate(report):
                return False
            if self.step == self.config.steps:
                return True
            stop = self._train_step(batches, report)
            if report and (stop or self._save_due()):
                self._save()
            if stop:
                return False

    def _train_step(self, batches: Iterator[Batch], report: Report | None) -> bool:
        """One update. True when any process was asked to stop."""
        rate = learning_rate(self.step, self.config.steps, self.config.optimizer)
        set_learning_layers(self.model, regime_at(self.step, self.config.optimizer).layers)
        set_norm_mode(self.model, self.config.train_bn)
        self.optimizer.zero_grad(set_to_none=True)
        used, shares = [], torch.zeros(len(LOSS_NAMES) + 1, device=self.device)
        for _ in range(self.config.accumulate):
            batch = next(batches).to(self.device)
            used.append(batch)
            shares += self._backward(batch)
        stop = torch.tensor([float(self._stop_asked)], device=self.device)
        summed = sum_over_processes(torch.cat([shares, stop])).tolist()
        losses = dict(zip((*LOSS_NAMES, "total"), summed[:-1], strict=True))
        losses["gradient_norm"] = self._clip_gradients()
        if not all(map(math.isfinite, losses.values())):
            self._give_up(used, losses)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.model, self.step)
        if report:
            report.after_step(self.step, losses, rate)
        return bool(summed[-1] > 0)

    def _backward(self, batch: Batch) -> Tensor:
        """Adds the batch's gradients; returns this process's share of each loss and of the total."""
        amp = self.config.amp and self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=amp):
            terms = loss_terms(self.model, batch, self.config)
        total, shares = total_loss(terms, self.config.loss_weights)
        parts = self.config.accumulate
        torch.autograd.backward(total / parts)
        return torch.stack([*(shares[n] for n in LOSS_NAMES), total.detach()]) / parts

    def _clip_gradients(self) -> float:
        """Sums gradients over processes, clips them, returns their norm before that."""
        sum_gradients(self.model.parameters())
        limit = self.config.optimizer.clip_norm
        learning = [p for p in self.model.parameters() if p.grad is not None]
        return float(nn.utils.clip_grad_norm_(learning, math.inf if limit is None else limit))

    def _give_up(self, batches: list[Batch], losses: dict[str, float]) -> None:
        """Saves what this process had in hand and raises `NonFiniteLossError`."""
        name = "nan_batch.pt" if self.world_size == 1 else f"nan_batch_{self.rank}.pt"
        parts = [{"images": b.images, "windows": b.windows, "names": b.names, "positions": b.positions,
                  "objects": [o._asdict() for o in b.objects]} for b in batches]  # fmt: skip
        document = {"step": self.step, "losses": losses, "batches": parts, "model": self.model.state_dict()}
        write_atomically(document, self.output / name)
        bad = ", ".join(n for n, v in losses.items() if not math.isfinite(v))
        pictures = ", ".join(n for b in batches for n in b.names)
        raise NonFiniteLossError(
            f"step {self.step + 1}: {bad} is not finite. The batch ({pictures}) and the weights are saved in "
            f"{self.output / name}; the last checkpoint is untouched"
        )

    def _evaluation_due(self) -> bool:
        at_end = self.step == self.config.steps
        return self.evaluated_step != self.step and (at_end or self.step % self.config.evaluate_every == 0)

    def _evaluate(self, report: Report | None) -> bool:
        """Average precision; False when a signal came to any process meanwhile."""
        metrics = self._measure(report)
        if any_process(metrics is None, self.device):
            return False
        self.evaluated_step = self.step
        if report and metrics:
            if metrics["mask_ap"] > self.best_ap:
                self.best_ap = metrics["mask_ap"]
                write_atomically(native_checkpoint(self.evaluated_model), self.output / "best.pt")
            self._save()
        return True

    def _measure(self, report: Report | None) -> dict[str, float] | None:
        model = self.evaluated_model
        model.eval()
        count = min(self.config.evaluate_pictures or len(self.val), len(self.val))
        metrics = evaluate(model, self.val, range(count), lambda: self._stop_asked, self.rank, self.world_size)
        if metrics and report:
            report.after_evaluation(self.step, metrics)
            sheet = self.output / "predictions" / f"step-{self.step:06d}.png"
            save_sheet(model, self.val, range(min(SHEET_PICTURES, count)), sheet)
        return metrics

    def _save_due(self) -> bool:
        if self.step == self.config.steps or self.step % self.config.checkpoint_every == 0:
            return True
        return time.monotonic() - self._last_save > 60 * self.config.checkpoint_minutes

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "evaluated_step": self.evaluated_step,
            "best_ap": self.best_ap,
            "seed": self.config.seed,
            "settings": _plain(asdict(self.config)),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average:
            state["model"] = self.model.state_dict()
        write_atomically(native_checkpoint(self.evaluated_model) | {"training": state}, self.output / "last.pt")
        self._last_save = time.monotonic()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """Finish the step, save, leave; a second signal of the kind acts at once."""
        self._stop_asked = True
        signal.signal(number, signal.SIG_DFL)


def _plain(value: Any) -> Any:
    """Tuples as lists all the way down, as a checkpoint may hold either."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _check_convolutions(model: MaskRCNN) -> None:
    """Raises `TrainingError` for what oneDNN, torch's library for CPUs, computes the gradient of in memory that is not
    its own (uxlfoundation/oneDNN#6035): the run would go wrong or end without a word."""
    if model.mean.is_cuda:
        return
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or module.kernel_size != (1, 1) or module.stride == (1, 1):
            continue
        if module.in_channels < NARROWEST:
            raise TrainingError(
                f"{name}: a strided 1x1 convolution of {module.in_channels} channels cannot be trained on a CPU; "
                f"give model.backbone.stage_widths of {NARROWEST} and more"
            )
