"""BatchNorm in training: whether it normalises by the batch, and by whose.

By default the stored statistics are applied, so that an image's result depends on it alone. With `train_bn` the
statistics are those of the batch, and of all processes' batches together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from export.model.mask_rcnn import MaskRCNN
from export.training.config import TrainingError

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def set_norm_mode(model: MaskRCNN, train_bn: bool) -> None:
    """Training mode, in which BatchNorm applies its stored statistics unless `train_bn`."""
    model.train()
    if not train_bn:
        for module in model.modules():
            if isinstance(module, _NORMS):
                module.eval()


def check_norms(model: MaskRCNN, train_bn: bool) -> None:
    """Raises `TrainingError` where `train_bn` asks for what BatchNorm without an epsilon cannot do."""
    if train_bn and not all(m.eps for m in model.modules() if isinstance(m, _NORMS)):
        raise TrainingError(
            "training.train_bn: these weights have BatchNorm with epsilon 0, which cannot learn from a batch; "
            "leave train_bn false, or set model.backbone.bn_eps to 1e-5"
        )


def synchronise_norms(model: MaskRCNN) -> None:
    """Replaces BatchNorm, in place, by one whose batch is that of all processes; parameters and names stay."""
    if model.mean.is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _CpuSyncBatchNorm.of(child))


class _CpuSyncBatchNorm(nn.SyncBatchNorm):
    """torch's own refuses CPUs. Processes without any values take part, as there."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> _CpuSyncBatchNorm:
        made = cls(norm.num_features, norm.eps, norm.momentum)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if not self.training:
            return super().forward(x)
        count = _sum(x.new_tensor([x.numel() / self.num_features]))
        mean = _sum(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        self._remember(mean, variance * count / (count - 1).clamp(min=1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        # The base class allows for norms without these; the model has none.
        means, variances, steps, momentum = self.running_mean, self.running_var, self.num_batches_tracked, self.momentum
        if means is not None and variances is not None and steps is not None and momentum is not None:
            means.lerp_(mean, momentum)
            variances.lerp_(variance, momentum)
            steps.add_(1)


def _sum(values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """The sum over processes. Each process's loss is a part of the whole, so the gradient is a sum over them too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed
