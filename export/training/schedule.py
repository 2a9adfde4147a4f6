"""Which layers learn at a step, how fast, and with which optimiser."""

from __future__ import annotations

import math

import torch
from torch import nn

from export.model.mask_rcnn import MaskRCNN
from export.training.config import Layers, OptimizerConfig, Regime

_FROZEN: dict[Layers, tuple[str, ...]] = {
    "heads": ("backbone.",),
    "5+": ("backbone.stem", "backbone.stage2", "backbone.stage3", "backbone.stage4"),
    "4+": ("backbone.stem", "backbone.stage2", "backbone.stage3"),
    "3+": ("backbone.stem", "backbone.stage2"),
    "all": (),
}
"""Parameter name prefixes that do not learn. `heads` are FPN, RPN, box and mask head (Matterport)."""


def regime_at(step: int, config: OptimizerConfig) -> Regime:
    """The regime that the update after `step` updates belongs to."""
    later = Regime(until_step=2**62, layers="all")
    return next((r for r in config.regimes if step < r.until_step), later)


def set_learning_layers(model: MaskRCNN, layers: Layers) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(_FROZEN[layers]))


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of the update after `step` updates: linear warm-up, then the decay, times the regime's factor."""
    if step < config.warmup_steps:
        factor = (step + 1) / config.warmup_steps
    elif config.decay == "cosine":
        done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        factor = config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    elif config.decay == "step":
        factor = config.gamma ** sum(step >= m for m in config.milestones)
    else:
        factor = 1.0
    return config.learning_rate * factor * regime_at(step, config).learning_rate_factor


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW. Weight decay covers weights of convolutions and fully connected layers only."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


class WeightAverage:
    """Exponential moving average of a model's weights; statistics of BatchNorm are copied as they are.

    The first steps average over fewer: decay is min(`decay`, (1 + n) / (10 + n)) at update n.
    """

    def __init__(self, model: MaskRCNN, decay: float) -> None:
        self.decay = decay
        self.model = MaskRCNN(model.config).to(next(model.parameters()).device)
        self.model.load_state_dict(model.state_dict())
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: MaskRCNN, step: int) -> None:
        """Takes in the weights after `step` updates."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
