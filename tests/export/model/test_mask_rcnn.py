from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from export.model.config import BackboneConfig, DetectionConfig, HeadConfig, InputConfig, ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.model.resnet import ResNet
from tests.export.model.families import DETECTRON2, MATTERPORT, NATIVE, TINY, TINY_RPN, TORCHVISION_V2

FAMILIES = [pytest.param(c, id=c.family) for c in (NATIVE, TORCHVISION_V2, DETECTRON2, MATTERPORT)]
SIZE_HW = (96, 128)
WINDOWS = torch.tensor([[0.0, 0, 128, 96], [0, 0, 100, 70]])


def _model(config: ModelConfig, seed: int = 0) -> MaskRCNN:
    """A model whose class logits are spread enough to find something."""
    torch.manual_seed(seed)
    model = MaskRCNN(config).eval()
    nn.init.normal_(model.box_head.class_logits.weight, std=1.0)
    return model


def _images(config: ModelConfig = NATIVE) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (2, *SIZE_HW, 3), generator=generator, dtype=torch.uint8)
    images[1, 70:], images[1, :, 100:] = 0, 0
    return images if config.input.dtype == "uint8" else images.to(torch.float32)


@pytest.mark.parametrize("config", FAMILIES)
@torch.no_grad()
def test_every_family_gives_well_formed_rows(config: ModelConfig) -> None:
    detections, masks = _model(config)(_images(config), WINDOWS)
    image, boxes, score, label = detections[:, 0].long(), detections[:, 1:5], detections[:, 5], detections[:, 6]
    count = detections.shape[0]
    assert 1 < count <= 30
    assert masks.shape == (count, 28, 28)
    assert ((masks >= 0) & (masks <= 1)).all()
    assert ((label == 1) | (label == 2)).all()
    assert image.tolist() == sorted(image.tolist())
    far = WINDOWS[image][:, 2:] - (1 if config.corner_coordinates else 0)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= far).all()
    for n in (0, 1):
        assert score[image == n].tolist() == sorted(score[image == n].tolist(), reverse=True)


@pytest.mark.parametrize("config", FAMILIES)
@torch.no_grad()
def test_a_batch_answers_as_its_pictures_alone(config: ModelConfig) -> None:
    model, images = _model(config), _images(config)
    detections, masks = model(images, WINDOWS)
    start = 0
    for n in (0, 1):
        alone, alone_masks = model(images[n : n + 1], WINDOWS[n : n + 1])
        rows = slice(start, start + alone.shape[0])
        assert detections[rows, 0].eq(n).all()
        torch.testing.assert_close(detections[rows, 1:], alone[:, 1:], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(masks[rows], alone_masks, atol=1e-3, rtol=1e-3)
        start = rows.stop
    assert start == detections.shape[0]


@torch.no_grad()
def test_nothing_found_is_one_row_of_score_zero() -> None:
    config = dataclasses.replace(NATIVE, detection=DetectionConfig(score_threshold=1.0))
    detections, masks = _model(config)(_images(), WINDOWS)
    assert detections.tolist() == [[0] * 7]
    assert masks.shape == (1, 28, 28)


@torch.no_grad()
def test_one_picture_of_two_without_detection_has_no_row() -> None:
    detections, _ = _model(NATIVE)(_images(), torch.tensor([[0.0, 0, 0, 0], [0, 0, 100, 70]]))
    assert detections[:, 0].eq(1).all()


@pytest.mark.parametrize("padding", ["zero", "black"])
def test_preprocess_normalises_and_pads(padding: str) -> None:
    settings = InputConfig(mean=(10, 20, 30), std=(2, 4, 5), padding=padding)  # type: ignore[arg-type]  # a word of the Literal
    model = MaskRCNN(dataclasses.replace(NATIVE, input=settings))
    images = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    images[0, 1:3, 2:5] = torch.tensor([20, 40, 60], dtype=torch.uint8)
    found = model.preprocess(images, torch.tensor([[2.0, 1, 5, 3]]))
    outside = 0.0 if padding == "zero" else -5.0
    red = torch.full((4, 6), outside)
    red[1:3, 2:5] = 5.0
    assert found.shape == (1, 3, 4, 6)
    assert torch.equal(found[0, 0], red)
    assert found[0, :, 1, 2].tolist() == [5, 5, 6]


@torch.no_grad()
def test_pyramid_sizes_round_up_and_anchors_follow() -> None:
    model = _model(NATIVE)
    pyramid = model.pyramid(torch.zeros(1, 3, *SIZE_HW))
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (8, 24, 32), (8, 12, 16), (8, 6, 8), (8, 3, 4), (8, 2, 2),
    ]  # fmt: skip
    assert torch.equal(pyramid[4], pyramid[3][:, :, ::2, ::2])
    count = 3 * (24 * 32 + 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2)
    output = model.rpn(pyramid)
    assert output.deltas.shape == (1, count, 4)
    assert model.anchors(pyramid).shape == (count, 4)
    assert model.level_index(pyramid).bincount().tolist() == output.level_counts


@torch.no_grad()
def test_clip_to_canvas_or_window() -> None:
    wide = dataclasses.replace(NATIVE, rpn=dataclasses.replace(TINY_RPN, clip="canvas"))
    for config, far in ((NATIVE, 50), (wide, 128)):
        model = _model(config)
        pyramid = model.pyramid(torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(2)))
        window = torch.tensor([[0.0, 0, 50, 96]])
        found = model.propose(model.rpn(pyramid), model.anchors(pyramid), window, SIZE_HW, 500, 500)
        assert found.boxes[..., 2].max() == far


def test_every_weight_gets_a_gradient() -> None:
    wide_enough = dataclasses.replace(TINY, stage_widths=(16, 16, 16, 16))  # for oneDNN, as `Trainer` says
    model = MaskRCNN(dataclasses.replace(NATIVE, backbone=wide_enough)).train()
    pyramid = model.pyramid(model.preprocess(_images(), WINDOWS))
    output = model.rpn(pyramid)
    # Small enough for P2, large enough for P3, P4 and P5.
    boxes = torch.tensor([[0.0, 0, 30, 40], [0, 0, 128, 112], [0, 0, 300, 300], [0, 0, 500, 500]])
    images = torch.tensor([0, 1, 0, 1])
    logits, deltas = model.box_head(model.box_features(pyramid, boxes, images))
    masks = model.mask_head(model.mask_features(pyramid, boxes, images))
    assert (logits.shape, deltas.shape, masks.shape) == ((4, 3), (4, 3, 4), (4, 3, 28, 28))
    sum(t.square().sum() for t in (output.logits, output.deltas, logits, deltas, masks)).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_new_model_is_drawn_as_the_paper_does() -> None:
    torch.manual_seed(1)
    model = MaskRCNN(dataclasses.replace(NATIVE, backbone=BackboneConfig(depth=18), heads=HeadConfig()))
    state = model.state_dict()
    assert state["backbone.stage5.1.conv2.weight"].std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    assert state["rpn_head.convs.0.weight"].std().item() == pytest.approx(0.01, rel=0.1)
    assert state["box_head.deltas.weight"].std().item() == pytest.approx(0.001, rel=0.05)
    biases = [value for name, value in state.items() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_weights_hold_nothing_that_the_configuration_gives() -> None:
    names = set(MaskRCNN(NATIVE).state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "fpn", "rpn_head", "box_head", "mask_head"}


@pytest.mark.parametrize(("depth", "blocks", "widths"), [
    (18, [2, 2, 2, 2], (4, 6, 8, 10)), (34, [3, 4, 6, 3], (4, 6, 8, 10)),
    (50, [3, 4, 6, 3], (16, 24, 32, 40)), (101, [3, 4, 23, 3], (16, 24, 32, 40)),
])  # fmt: skip
def test_backbone_depths(depth: int, blocks: list[int], widths: tuple[int, ...]) -> None:
    backbone = ResNet(dataclasses.replace(TINY, depth=depth)).eval()  # type: ignore[arg-type]  # a word of the Literal
    stages = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in stages] == [
        (w, 64 // s, 96 // s) for w, s in zip(widths, (4, 8, 16, 32), strict=True)
    ]
    assert [len(getattr(backbone, f"stage{k}")) for k in (2, 3, 4, 5)] == blocks


def test_shortcuts_only_where_the_shape_changes() -> None:
    stages = [getattr(ResNet(TINY), f"stage{k}") for k in (2, 3)]
    assert [isinstance(block.shortcut, nn.Identity) for stage in stages for block in stage] == [True, True, False, True]


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_where_a_bottleneck_strides(stride_in_1x1: bool) -> None:
    block = ResNet(dataclasses.replace(TINY, depth=50, stride_in_1x1=stride_in_1x1)).stage3[0]  # type: ignore[index]
    assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1)) if stride_in_1x1 else ((1, 1), (2, 2)))


def test_same_pool_pads_right_and_bottom_only() -> None:
    stem = ResNet(dataclasses.replace(TINY, stem_width=1, stem_pool="same")).stem.eval()
    with torch.no_grad():
        stem.conv.weight.zero_()
        stem.conv.weight[0, 0, 3, 3] = 1.0  # passes every other pixel of the first channel on
        x = torch.zeros(1, 3, 16, 16)
        x[0, 0, ::2, ::2] = torch.arange(1.0, 65).reshape(8, 8)
        found = stem(x)[0, 0] * (1 + 1e-5) ** 0.5
    rows = torch.tensor([2, 4, 6, 7]) * 8
    torch.testing.assert_close(found, rows[:, None] + torch.tensor([3.0, 5, 7, 8]))
