"""The five losses of Mask R-CNN, each as a sum and the number of terms that its mean is taken over.

A mean over a batch that is spread over processes is the sum of sums over the sum of counts, so the division is left
to the caller. Shapes: A anchors of all images together, R RoIs of all images together, C classes with background.
Source: matterport/Mask_RCNN, mrcnn/model.py, the `*_loss_graph` functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """`total / count` is the loss, zero where `count` is zero. Both are scalars; `total` carries the gradient."""

    total: Tensor
    count: Tensor


def rpn_class_loss(logits: Tensor, labels: Tensor) -> LossTerm:
    """Cross entropy over the anchors that are positive (1) or negative (-1); neutral ones (0) do not count.

    `logits` [A] for sigmoid objectness or [A, 2] = (background, foreground); `labels` [A].
    """
    used = labels != 0
    target = labels[used] == 1
    if logits.dim() == 1:
        total = F.binary_cross_entropy_with_logits(logits[used].float(), target.float(), reduction="sum")
    else:
        total = F.cross_entropy(logits[used].float(), target.long(), reduction="sum")
    return LossTerm(total, used.sum())


def rpn_box_loss(deltas: Tensor, labels: Tensor, target_deltas: Tensor) -> LossTerm:
    """Smooth L1 over all four deltas of the positive anchors. `deltas` and `target_deltas` [A, 4]."""
    positive = labels == 1
    return _smooth_l1(deltas[positive], target_deltas[positive])


def box_class_loss(logits: Tensor, class_ids: Tensor, active: Tensor) -> LossTerm:
    """Cross entropy over the RoIs whose predicted class belongs to the data set of their image.

    `logits` [R, C], `class_ids` [R], `active` [R, C] bool. Unlike Matterport, which looks at the classes of the
    batch's first image, each RoI is judged by its own image; and there are no zero-padded RoIs that count as
    background.
    """
    counted = active.gather(1, logits.detach().argmax(1, keepdim=True))[:, 0]
    losses = F.cross_entropy(logits.float(), class_ids, reduction="none")
    return LossTerm((losses * counted).sum(), counted.sum())


def box_delta_loss(deltas: Tensor, class_ids: Tensor, target_deltas: Tensor) -> LossTerm:
    """Smooth L1 of the target class's deltas, over the RoIs with an object.

    `deltas` [R, C, 4], `class_ids` [R] (0: background), `target_deltas` [R, 4].
    """
    rows = (class_ids > 0).nonzero()[:, 0]
    return _smooth_l1(deltas[rows, class_ids[rows]], target_deltas[rows])


def mask_loss(logits: Tensor, class_ids: Tensor, target_masks: Tensor) -> LossTerm:
    """Binary cross entropy of the target class's mask, over all pixels of the RoIs with an object.

    `logits` [R, C, S, S], `class_ids` [R], `target_masks` [R, S, S] of 0 and 1. Equal to Keras's on probabilities,
    without its clipping at 1e-7.
    """
    rows = (class_ids > 0).nonzero()[:, 0]
    chosen, target = logits[rows, class_ids[rows]].float(), target_masks[rows].float()
    total = F.binary_cross_entropy_with_logits(chosen, target, reduction="sum")
    return LossTerm(total, torch.tensor(target.numel(), device=logits.device))


def _smooth_l1(found: Tensor, wanted: Tensor) -> LossTerm:
    total = F.smooth_l1_loss(found.float(), wanted.float(), beta=1.0, reduction="sum")
    return LossTerm(total, torch.tensor(wanted.numel(), device=wanted.device))
