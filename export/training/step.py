"""One pass of a batch through the network, to the five losses.

Shapes: N images, A anchors an image, R RoIs of all images together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from export.model.mask_rcnn import MaskRCNN
from export.model.rpn import RpnOutput
from export.training.batches import Batch, target_generator
from export.training.config import LossWeights, TrainingConfig
from export.training.distributed import any_process, sum_over_processes
from export.training.losses import (
    LossTerm,
    box_class_loss,
    box_delta_loss,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
)
from export.training.targets import ImageObjects, RoiTargets, anchor_targets, mask_targets, roi_targets

LOSS_NAMES = ("rpn_class", "rpn_box", "box_class", "box_delta", "mask")

PRE_NMS_TOPK = 2000
"""Anchors a level that may become proposals (torchvision, detectron2)."""


def loss_terms(model: MaskRCNN, batch: Batch, config: TrainingConfig) -> dict[str, LossTerm]:
    """The five losses, by `LOSS_NAMES`, of this process's batch.

    All processes go through the same layers, without RoIs if need be: BatchNorm may wait for the others.
    """
    objects = [_in_model_frame(o, model) for o in batch.objects]
    generators = [target_generator(config.seed, p) for p in batch.positions]
    pyramid = model.pyramid(model.preprocess(batch.images, batch.windows))
    rpn_output, anchors = model.rpn(pyramid), model.anchors(pyramid)
    terms = _rpn_terms(model, rpn_output, anchors, objects, config, generators)
    if any_process(not all(torch.isfinite(term.total) for term in terms.values()), anchors.device):
        # Proposals made of NaN cannot be pooled; these terms are enough to stop the run.
        return terms | {name: _nothing(anchors) for name in LOSS_NAMES if name not in terms}
    canvas_hw = (batch.images.shape[1], batch.images.shape[2])
    limits = config.targets.post_nms_topk, _pre_nms_topk(model, config)
    proposals = model.propose(rpn_output, anchors, batch.windows, canvas_hw, *limits)
    std = model.config.heads.box_std
    rois = [
        roi_targets(boxes[valid], o, std, config.targets, generator)
        for boxes, valid, o, generator in zip(proposals.boxes, proposals.valid, objects, generators, strict=True)
    ]
    return terms | _box_terms(model, pyramid, rois, batch.active) | _mask_terms(model, pyramid, rois, objects, config)


def total_loss(terms: dict[str, LossTerm], weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """This process's part of the weighted sum of losses, and of each loss.

    Sums are divided by counts over all processes, so that summing these parts, and their gradients, over the
    processes gives what one process with the whole batch would have.
    """
    counts = sum_over_processes(torch.stack([terms[name].count.float() for name in LOSS_NAMES]))
    shares = {name: terms[name].total / counts[i].clamp(min=1) for i, name in enumerate(LOSS_NAMES)}
    weighted = [share * getattr(weights, name) for name, share in shares.items()]
    return torch.stack(weighted).sum(), {name: share.detach() for name, share in shares.items()}


def _in_model_frame(objects: ImageObjects, model: MaskRCNN) -> ImageObjects:
    """Boxes as the model counts them: with `corner_coordinates`, x2 and y2 name the last pixel."""
    if not model.config.corner_coordinates:
        return objects
    inner = objects.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return objects._replace(
        boxes=objects.boxes - inner,
        mask_frames=objects.mask_frames - inner,
        crowd_boxes=objects.crowd_boxes - inner,
    )


def _pre_nms_topk(model: MaskRCNN, config: TrainingConfig) -> int:
    rpn = model.config.rpn
    default = PRE_NMS_TOPK if rpn.selection == "per_level" else rpn.pre_nms_topk
    return config.targets.pre_nms_topk or default


def _rpn_terms(
    model: MaskRCNN,
    output: RpnOutput,
    anchors: Tensor,
    objects: Sequence[ImageObjects],
    config: TrainingConfig,
    generators: Sequence[torch.Generator],
) -> dict[str, LossTerm]:
    std = model.config.rpn.box_std
    targets = [anchor_targets(anchors, o, std, config.targets, g) for o, g in zip(objects, generators, strict=True)]
    labels = torch.cat([t.labels for t in targets])
    return {
        "rpn_class": rpn_class_loss(output.logits.flatten(0, 1), labels),
        "rpn_box": rpn_box_loss(output.deltas.flatten(0, 1), labels, torch.cat([t.deltas for t in targets])),
    }


def _box_terms(
    model: MaskRCNN, pyramid: Sequence[Tensor], rois: Sequence[RoiTargets], active: Tensor
) -> dict[str, LossTerm]:
    boxes, image_index = torch.cat([r.boxes for r in rois]), _image_index([r.boxes for r in rois])
    if not any_process(len(boxes) > 0, boxes.device):
        return {"box_class": _nothing(boxes), "box_delta": _nothing(boxes)}
    logits, deltas = model.box_head(model.box_features(pyramid, boxes, image_index))
    class_ids = torch.cat([r.class_ids for r in rois])
    return {
        "box_class": box_class_loss(logits, class_ids, active[image_index]),
        "box_delta": box_delta_loss(deltas, class_ids, torch.cat([r.deltas for r in rois])),
    }


def _mask_terms(
    model: MaskRCNN,
    pyramid: Sequence[Tensor],
    rois: Sequence[RoiTargets],
    objects: Sequence[ImageObjects],
    config: TrainingConfig,
) -> dict[str, LossTerm]:
    """Only RoIs with an object pay for a mask; they are the first of each image's, in random order."""
    limit = config.targets.mask_rois_per_image
    counts = [len(r.object_index[:limit]) for r in rois]
    kept = [r.boxes[:n] for r, n in zip(rois, counts, strict=True)]
    boxes = torch.cat(kept)
    if not any_process(len(boxes) > 0, boxes.device):
        return {"mask": _nothing(boxes)}
    corners = model.config.roi_align.crop_and_resize
    targets = [
        mask_targets(o.masks, o.mask_frames, r.object_index[:n], r.boxes[:n], model.config.mask_size, corners=corners)
        for r, o, n in zip(rois, objects, counts, strict=True)
    ]
    logits = model.mask_head(model.mask_features(pyramid, boxes, _image_index(kept)))
    class_ids = torch.cat([r.class_ids[:n] for r, n in zip(rois, counts, strict=True)])
    return {"mask": mask_loss(logits, class_ids, torch.cat(targets))}


def _image_index(rows_by_image: Sequence[Tensor]) -> Tensor:
    index = [torch.full((len(rows),), i, dtype=torch.long, device=rows.device) for i, rows in enumerate(rows_by_image)]
    return torch.cat(index)


def _nothing(like: Tensor) -> LossTerm:
    return LossTerm(like.new_zeros(()), torch.zeros((), dtype=torch.long, device=like.device))
