"""Training in each family's frame and units: a network that is always right loses nothing, and is right when it serves.

The network of these tests knows the objects. It answers by the test's own arithmetic, so that a target, a canvas or a
served box that is off by a pixel shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from export.model.config import (
    BackboneConfig,
    DetectionConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    ModelConfig,
    RoiAlignConfig,
    RpnConfig,
    anchor_cells,
)
from export.model.mask_rcnn import MaskRCNN
from export.model.rpn import RpnOutput
from export.serving import serving_input
from export.training.batches import Batch, TrainingViews, load_batches
from export.training.dataset import Picture
from export.training.evaluation import predict
from export.training.norms import set_norm_mode
from export.training.shapes import ShapesSet
from export.training.step import LOSS_NAMES, loss_terms, total_loss
from export.training.trainer import Trainer
from server.preprocess import prepare
from tests.export.training.small import SIZE, small_model_config, small_training

SIZES = ((12,), (20,), (32,), (48,), (64,))
BACKBONE: dict[str, Any] = {"depth": 18, "stem_width": 4, "stage_widths": (16, 16, 16, 16)}
HEADS: dict[str, Any] = {"box_fc_widths": (16,), "mask_conv_widths": (8,), "mask_deconv_width": 8}
RPN: dict[str, Any] = {"channels": 8, "pre_nms_topk": 200, "post_nms_topk": 100}
SCALED: dict[str, Any] = {"min_size": 82, "max_size": 110}
"""Doubles pictures of 41 x 55."""

TORCHVISION: dict[str, Any] = {
    "rpn": RpnConfig(
        **RPN, cells=anchor_cells(SIZES, rounded=True), strides="canvas", min_size=1e-3, min_size_inclusive=True
    ),
    "detection": DetectionConfig(min_size=1e-2),
    "input": InputConfig(**SCALED, dtype="float32", rounding="floor", interpolation="linear"),
    "mask_paste": "torchvision",
}
V1 = small_model_config(**TORCHVISION, backbone=BackboneConfig(**BACKBONE, bn_eps=0.0))
V2 = small_model_config(
    **TORCHVISION,
    fpn=FpnConfig(channels=8, norm=True),
    heads=HeadConfig(**HEADS, box_conv_widths=(8,), box_norm=True, mask_norm=True, mask_conv_bias=False),
)
DETECTRON2 = small_model_config(
    backbone=BackboneConfig(**BACKBONE, stride_in_1x1=True),
    rpn=RpnConfig(**RPN, cells=anchor_cells(SIZES)),
    roi_align=RoiAlignConfig(sampling_ratio=0, aligned=True),
    input=InputConfig(**SCALED, mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0)),
)
MATTERPORT = small_model_config(
    corner_coordinates=True,
    backbone=BackboneConfig(**BACKBONE, conv_bias=True, bn_eps=1e-3, stem_pool="same"),
    rpn=RpnConfig(
        channels=8, pre_nms_topk=6000, post_nms_topk=100, objectness="softmax", selection="joint", clip="canvas",
        min_size=None, delta_clamp=None, box_std=(0.1, 0.1, 0.2, 0.2), cells=anchor_cells(SIZES, (2.0, 1.0, 0.5)),
    ),
    roi_align=RoiAlignConfig(crop_and_resize=True, level_rule="round"),
    heads=HeadConfig(**HEADS, box_norm=True, box_norm_eps=1e-3, mask_norm=True, delta_clamp=None),
    detection=DetectionConfig(
        candidates="best_class", score_threshold=0.7, score_threshold_inclusive=True, nms_iou_threshold=0.3
    ),
    input=InputConfig(
        **SCALED, mean=(123.7, 116.8, 103.9), std=(1.0, 1.0, 1.0), resize_rule="grow_shortest_edge",
        rounding="half_even", interpolation="linear_zero_border", placement="centre", padding="black",
        size_divisor=64, square=128,
    ),
    mask_paste="matterport",
)  # fmt: skip
NATIVE = small_model_config(rpn=RpnConfig(**RPN, cells=anchor_cells(SIZES)), input=InputConfig(**SCALED))

CORNERS = ((3, 5, 15, 17), (30, 20, 55, 31), (22, 0, 33, 13), (0, 26, 19, 41))
"""x1, y1, x2, y2 (exclusive) of four objects in a picture of 41 x 55, three of them at its edges."""


class Case(NamedTuple):
    config: ModelConfig
    origin: tuple[int, int] = (0, 0)
    """x, y of the picture in its canvas"""
    canvas_hw: tuple[int, int] = (96, 128)
    mask_iou: float = 0.98
    """Of a perfect mask, pasted by the family's rule: torchvision's makes objects a pixel larger."""


CASES = {
    "native": Case(NATIVE),
    "torchvision v1": Case(V1, mask_iou=0.7),
    "torchvision v2": Case(V2, mask_iou=0.7),
    "detectron2": Case(DETECTRON2),
    "matterport": Case(MATTERPORT, (9, 23), (128, 128)),
}
every_family = pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in CASES.items()])


class FourObjects(ShapesSet):
    """41 x 55, an L in each of `CORNERS`: its box without the top right quarter. The last may be a `crowd`."""

    def __init__(self, *, crowd: bool = False) -> None:
        super().__init__(1, SIZE)
        self.crowd = np.array([False, False, False, crowd])

    def __getitem__(self, index: int) -> Picture:
        masks = np.zeros((len(CORNERS), 41, 55), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, CORNERS, strict=True):
            mask[y1:y2, x1:x2] = 1
            mask[y1 : (y1 + y2) // 2, (x1 + x2) // 2 : x2] = 0
        image = (masks.max(0)[..., None] * np.array([200, 150, 100])).astype(np.uint8)
        rles = tuple(coco_mask.encode(np.asfortranarray(m)) for m in masks)
        return Picture("four", image, rles, np.array([1, 2, 3, 1]), self.crowd)


class Answer(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, boxes: Tensor) -> Any:
        return self.answer(boxes)


class Oracle(MaskRCNN):
    """Knows `FourObjects`, doubled, on its canvas; its RoI features are the RoIs themselves."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.config)
        x, y = case.origin
        picture = FourObjects()[0]
        self.classes = torch.from_numpy(picture.class_ids)
        self.masks = np.zeros((len(CORNERS), *case.canvas_hw))
        for mask, rle in zip(self.masks, picture.rles, strict=True):
            mask[y : y + 82, x : x + 110] = coco_mask.decode(rle).repeat(2, 0).repeat(2, 1)
        last = 1.0 if case.config.corner_coordinates else 0.0
        doubled = 2 * torch.tensor(CORNERS, dtype=torch.float32) + torch.tensor([x, y, x, y])
        self.objects = doubled - torch.tensor([0, 0, last, last])
        self.box_head, self.mask_head = Answer(self._class_and_deltas), Answer(self._masks)

    def rpn(self, pyramid: Sequence[Tensor]) -> RpnOutput:
        anchors = self.anchors(pyramid)
        counts = torch.bincount(self.level_index(pyramid)).tolist()
        iou = _iou(anchors, self.objects)
        near = (iou > 0.3).any(1) | (iou > iou.max(0).values - 1e-4).any(1)
        logits = near.float() * 40 - 20
        if self.config.rpn.objectness == "softmax":
            logits = torch.stack([-logits / 2, logits / 2], dim=1)
        deltas = _deltas(anchors, self.objects[iou.argmax(1)], self.config.rpn.box_std) * near[:, None]
        return RpnOutput(logits[None], deltas[None], counts)

    def box_features(self, pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        return boxes

    def mask_features(self, pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        return boxes

    def _class_and_deltas(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        best, owner = _iou(boxes, self.objects).max(1)
        classes = torch.where(best >= 0.5, self.classes[owner], 0)
        deltas = _deltas(boxes, self.objects[owner], self.config.heads.box_std) * (best >= 0.5)[:, None]
        return 40.0 * nn.functional.one_hot(classes, 4), deltas[:, None].repeat(1, 4, 1)

    def _masks(self, boxes: Tensor) -> Tensor:
        owner = _iou(boxes, self.objects).argmax(1).tolist()
        seen = np.stack([self._seen(self.masks[i], box) for i, box in zip(owner, boxes.tolist(), strict=True)])
        return torch.from_numpy(seen * 12 - 6)[:, None].expand(-1, 4, -1, -1)

    def _seen(self, mask: Any, box: list[float]) -> Any:
        """The mask at the samples of its family: on the RoI's corners and between, or in the middle of its bins."""
        x1, y1, x2, y2 = box
        corners = self.config.roi_align.crop_and_resize
        part = np.arange(28) / 27 if corners else (np.arange(28) + 0.5) / 28
        x, y = (np.floor(a + part * (b - a) + 0.5 * corners).astype(int) for a, b in ((x1, x2), (y1, y2)))
        return mask[y.clip(0, len(mask) - 1)][:, x.clip(0, mask.shape[1] - 1)]


def _iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter).clamp(min=1e-9)


def _deltas(boxes: Tensor, targets: Tensor, std: Sequence[float]) -> Tensor:
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    found = torch.cat([shift / size, (target_size / size).log()], dim=1) / torch.tensor(std)
    return found.nan_to_num(0.0, 0.0, 0.0)  # of proposals without an area


def only_batch(
    config: ModelConfig, mini_mask_size: int | None = 56, pictures: ShapesSet | None = None, **augment: Any
) -> Batch:
    targets, augment = {"mini_mask_size": mini_mask_size}, {"horizontal_flip": 0, **augment}
    plain = small_training(steps=1, batch_size=1, targets=targets, augment=augment)
    return next(load_batches(TrainingViews(pictures or FourObjects(), config.input, plain), plain, 0, 0, 1))


@every_family
@pytest.mark.parametrize("mini_mask_size", [pytest.param(56, id="mini masks"), pytest.param(None, id="full masks")])
def test_who_is_always_right_loses_nothing(case: Case, mini_mask_size: int | None) -> None:
    config = small_training(targets={"mini_mask_size": mini_mask_size, "fill_negatives": True})
    oracle = Oracle(case)
    set_norm_mode(oracle, train_bn=False)
    terms = loss_terms(oracle, only_batch(case.config, mini_mask_size), config)
    assert all(term.count > 0 for term in terms.values())
    losses = {name: float(term.total / term.count) for name, term in terms.items()}
    # Mini masks blur the inner corner of the L.
    assert losses.pop("mask") < (0.06 if mini_mask_size else 0.005)
    assert losses == pytest.approx(dict.fromkeys(losses, 0.0), abs=1e-6)


@every_family
def test_who_is_always_right_finds_every_object_where_it_is(case: Case) -> None:
    picture = FourObjects()[0]
    found = predict(Oracle(case).eval(), picture.image)
    order, wanted = np.lexsort(found.boxes.T[:2]), np.lexsort(np.array(CORNERS).T[:2])
    assert found.boxes[order] == pytest.approx(np.array(CORNERS)[wanted], abs=1e-4)
    assert found.class_ids[order].tolist() == picture.class_ids[wanted].tolist()
    for i, j in zip(order, wanted, strict=True):
        assert coco_mask.iou([found.rles[i]], [picture.rles[j]], [0])[0, 0] >= case.mask_iou


@every_family
def test_a_batch_puts_pictures_where_the_service_does(case: Case) -> None:
    x, y = case.origin
    batch, height, width = only_batch(case.config), *case.canvas_hw
    assert batch.images.shape == (1, height, width, 3)
    assert str(batch.images.dtype) == f"torch.{case.config.input.dtype}"
    assert batch.windows.tolist() == [[x, y, x + 110, y + 82]]
    window = batch.images[0, y : y + 82, x : x + 110].float()
    assert window.sum() == batch.images.float().sum() > 0
    served = prepare(FourObjects()[0].image, serving_input(case.config.input))
    assert (batch.images[0].float() - torch.from_numpy(served.image).float()).abs().mean() < 2
    crowd = only_batch(case.config, pictures=FourObjects(crowd=True)).objects[0].crowd_boxes
    x1, y1, x2, y2 = CORNERS[-1]
    assert crowd.tolist() == [[2 * x1 + x, 2 * y1 + y, 2 * x2 + x, 2 * y2 + y]]


def test_a_view_larger_than_its_square_is_cut() -> None:
    batch = only_batch(MATTERPORT, scale_range=[1.5, 1.5])
    assert batch.images.shape == (1, 128, 128, 3)
    assert batch.windows.tolist() == [[0, 2, 128, 125]]


def test_a_crop_needs_no_square() -> None:
    batch = only_batch(MATTERPORT, crop=60)
    assert batch.images.shape == (1, 64, 64, 3)
    assert batch.windows.tolist() == [[2, 2, 62, 62]]


@every_family
def test_losses_fall(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, pictures = MaskRCNN(case.config), ShapesSet(2, SIZE)
    optimizer = {"name": "adamw", "learning_rate": 0.004}
    train_bn = case.config.backbone.bn_eps > 0
    config = small_training(steps=16, train_bn=train_bn, evaluate_pictures=1, optimizer=optimizer)
    Trainer(model, pictures, pictures, config, tmp_path).run()
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    for name, factor in (("total", 0.8), ("rpn_class", 0.9), ("mask", 0.98)):
        first, last = (sum(row[name] for row in part) for part in (rows[:4], rows[-4:]))
        assert last < factor * first, name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """oneDNN's gradient of so small a convolution in bfloat16 crashes on several (torch 2.13)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@every_family
@pytest.mark.usefixtures("one_thread")
def test_half_precision_gives_the_losses_and_gradients_of_full(case: Case) -> None:
    """What autocast does on an accelerator, as far as a CPU's bfloat16 shows it; by way of the RoIs alone."""
    found, targets = [], {"append_gt_boxes": True, "post_nms_topk": 1}
    for enabled in (False, True):
        torch.manual_seed(1)
        model = MaskRCNN(case.config)
        set_norm_mode(model, train_bn=False)
        config = small_training(targets=targets, loss_weights={"rpn_class": 0, "rpn_box": 0})
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            terms = loss_terms(model, only_batch(case.config), config)
        total, shares = total_loss(terms, config.loss_weights)
        total.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None])
        found.append((shares, gradient))
    (full, gradient), (half, half_gradient) = found
    assert all(torch.isclose(half[name], full[name], rtol=0.05) for name in LOSS_NAMES)
    assert torch.cosine_similarity(gradient, half_gradient, 0) > 0.95
