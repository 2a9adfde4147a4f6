"""Matterport's files: every stage of a small network against a plain second implementation, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from export.model.detections import detect
from export.model.mask_rcnn import MaskRCNN
from export.model.rpn import Proposals, RpnOutput
from export.weights import (
    Given,
    Imported,
    MismatchedWeightsError,
    UnsupportedWeightsError,
    WeightsConfigError,
    load,
)
from tests.export.weights import matterport_oracle as oracle
from tests.export.weights.matterport_files import STAGES, Array, draw, layer_shapes, save

SIDE = 128
WINDOW_YXYX = (16, 0, 112, SIDE)
"""Of a picture of 96 x 128 pixels, centred."""

VALUES: dict[str, Any] = {
    "NAME": "shapes",
    "BACKBONE": "resnet50",
    "NUM_CLASSES": 4,
    "IMAGE_MIN_DIM": 96,
    "IMAGE_MAX_DIM": SIDE,
    "IMAGE_META_SIZE": 16,
    "MEAN_PIXEL": [120.0, 110.0, 100.0],
    "RPN_ANCHOR_SCALES": [8, 16, 32, 64, 128],
    "RPN_ANCHOR_RATIOS": [0.5, 1, 3],
    "RPN_BBOX_STD_DEV": [0.1, 0.15, 0.2, 0.25],
    "BBOX_STD_DEV": [0.2, 0.1, 0.15, 0.25],
    "PRE_NMS_LIMIT": 250,
    "POST_NMS_ROIS_INFERENCE": 60,
    "RPN_NMS_THRESHOLD": 0.6,
    "POOL_SIZE": 5,
    "MASK_POOL_SIZE": 6,
    "MASK_SHAPE": [12, 12],
    "DETECTION_MIN_CONFIDENCE": 0.25,
    "DETECTION_MAX_INSTANCES": 60,
    "DETECTION_NMS_THRESHOLD": 0.4,
    "LOSS_WEIGHTS": {"rpn_class_loss": 1.0},
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return draw(layer_shapes(), seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matterport")


@pytest.fixture(scope="module")
def file(folder: Path, weights: dict[str, Array]) -> Path:
    return save(weights, folder / "mask_rcnn_shapes.h5")


@pytest.fixture(scope="module")
def imported(folder: Path, file: Path) -> Imported:
    config = folder / "config.json"
    config.write_text(json.dumps(VALUES))
    return load(file, Given(config=config))


# Every stage


@pytest.fixture(scope="module")
def canvas() -> Array:
    """A picture of coarse noise in the window of a black canvas, uint8 [128, 128, 3]."""
    y1, x1, y2, x2 = WINDOW_YXYX
    coarse = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[y1:y2, x1:x2] = coarse.repeat(8, 0).repeat(8, 1)
    return pixels


@pytest.fixture(scope="module")
def levels(weights: dict[str, Array], canvas: Array) -> list[Array]:
    return oracle.pyramid(weights, canvas.astype(np.float32) - np.array(VALUES["MEAN_PIXEL"], np.float32))


@pytest.fixture(scope="module")
def rpn(weights: dict[str, Array], levels: list[Array]) -> tuple[Array, Array]:
    return oracle.rpn(weights, levels)


@pytest.fixture(scope="module")
def rois(rpn: tuple[Array, Array]) -> Array:
    return oracle.proposals(VALUES, *rpn, oracle.anchors(VALUES, SIDE, SIDE))


@pytest.fixture(scope="module")
def head(weights: dict[str, Array], levels: list[Array], rois: Array) -> tuple[Array, Array]:
    return oracle.classify(weights, oracle.roi_features(levels, rois, 5, SIDE, SIDE))


def channels_first(maps: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(maps.transpose(0, 3, 1, 2)))


def to_xy(rows: Array) -> Array:
    """Boxes or deltas with x before y, and back."""
    return rows[..., [1, 0, 3, 2]]


def to_canvas(boxes: Array) -> Tensor:
    return torch.from_numpy(to_xy(boxes)) * (SIDE - 1)


def windows() -> Tensor:
    return torch.tensor([WINDOW_YXYX], dtype=torch.float32)[:, [1, 0, 3, 2]]


def assert_near(found: Tensor, expected: Array, tolerance: float = 1e-4) -> None:
    assert expected.size
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_pyramid(imported: Imported, canvas: Array, levels: list[Array]) -> None:
    model = imported.model
    found = model.pyramid(model.preprocess(torch.from_numpy(canvas)[None], windows()))
    assert len(found) == 5
    for ours, theirs in zip(found, levels, strict=True):
        assert_near(ours, theirs.transpose(0, 3, 1, 2))


def test_rpn(imported: Imported, levels: list[Array], rpn: tuple[Array, Array]) -> None:
    found = imported.model.rpn([channels_first(level) for level in levels])
    assert_near(found.logits[0].softmax(-1), rpn[0])
    assert_near(found.deltas[0], to_xy(rpn[1]))


def test_anchors(imported: Imported, levels: list[Array]) -> None:
    found = imported.model.anchors([channels_first(level) for level in levels])
    assert_near(found / (SIDE - 1), to_xy(oracle.anchors(VALUES, SIDE, SIDE)), 1e-6)


def test_proposals(imported: Imported, levels: list[Array], rpn: tuple[Array, Array], rois: Array) -> None:
    model = imported.model
    probabilities, deltas = (torch.from_numpy(part)[None] for part in rpn)
    output = RpnOutput(probabilities.log(), deltas[..., [1, 0, 3, 2]], [])
    found = model.propose(output, model.anchors([channels_first(level) for level in levels]), windows(), (SIDE, SIDE))
    assert found.valid.sum() == len(rois) == VALUES["POST_NMS_ROIS_INFERENCE"]
    assert_near(found.boxes[0] / (SIDE - 1), to_xy(rois), 1e-5)


@pytest.mark.parametrize(("layer", "size"), [(MaskRCNN.box_features, 5), (MaskRCNN.mask_features, 6)])
def test_roi_features(
    imported: Imported, levels: list[Array], rois: Array, layer: Callable[..., Tensor], size: int
) -> None:
    # On the border of the canvas, rounding in the original decides between the map's edge and nothing.
    inside = rois[(rois.min(axis=1) > 0) & (rois.max(axis=1) < 1)]
    inside = np.concatenate((inside, np.array([[0.1, 0.1, 0.8, 0.85], [0.4, 0.5, 0.41, 0.52]], np.float32)))
    pyramid = [channels_first(level) for level in levels]
    found = layer(imported.model, pyramid, to_canvas(inside), torch.zeros(len(inside), dtype=torch.int64))
    expected = oracle.roi_features(levels, inside, size, SIDE, SIDE)
    assert len(inside) > 10
    assert_near(found, expected.transpose(0, 3, 1, 2))


def test_box_head(imported: Imported, levels: list[Array], rois: Array, head: tuple[Array, Array]) -> None:
    features = oracle.roi_features(levels, rois, 5, SIDE, SIDE)
    logits, deltas = imported.model.box_head(channels_first(features))
    assert_near(logits, head[0])
    assert_near(deltas, to_xy(head[1]))


def expected_detections(rois: Array, head: tuple[Array, Array]) -> Array:
    window = oracle.normalised(np.array(WINDOW_YXYX), SIDE, SIDE)
    return oracle.detections(VALUES, rois, *head, window)


def test_detections(imported: Imported, rois: Array, head: tuple[Array, Array]) -> None:
    model, count = imported.model, len(rois)
    proposals = Proposals(to_canvas(rois)[None], torch.ones(1, count), torch.ones(1, count, dtype=torch.bool))
    logits, deltas = torch.from_numpy(head[0]), torch.from_numpy(to_xy(head[1]))
    last_pixels = windows() - torch.tensor([0.0, 0.0, 1.0, 1.0])
    found = detect(logits, deltas, proposals, last_pixels, model.config)
    expected = expected_detections(rois, head)
    assert len(set(expected[:, 4])) > 1
    assert found[:, 6].tolist() == expected[:, 4].tolist()
    assert_near(found[:, 1:5] / (SIDE - 1), to_xy(expected[:, :4]), 1e-5)
    assert_near(found[:, 5], expected[:, 5], 1e-5)


def test_masks(
    imported: Imported, weights: dict[str, Array], levels: list[Array], rois: Array, head: tuple[Array, Array]
) -> None:
    boxes = expected_detections(rois, head)[:, :4].astype(np.float32)
    features = oracle.roi_features(levels, boxes, 6, SIDE, SIDE)
    found = imported.model.mask_head(channels_first(features)).sigmoid()
    assert_near(found, oracle.masks(weights, features).transpose(0, 3, 1, 2))


# What the file and the configuration say


def test_a_whole_model_is_the_same(tmp_path: Path, weights: dict[str, Array], imported: Imported) -> None:
    model = load(save(weights, tmp_path / "whole.h5", whole=True)).model
    found, expected = model.state_dict(), imported.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resnet_101(tmp_path: Path) -> None:
    blocks = STAGES | {"4": "abcdefghijklmnopqrstuvw"}
    weights = draw(layer_shapes(blocks=blocks))
    model = load(save(weights, tmp_path / "a.h5")).model
    assert model.config.backbone.depth == 101
    last = model.state_dict()["backbone.stage4.22.conv2.weight"]
    assert_near(last, weights["res4w_branch2b/kernel"].transpose(3, 2, 0, 1), 0)


def test_configuration(imported: Imported) -> None:
    config = imported.model.config
    assert (config.family, config.classes) == ("matterport", ("background", "class 1", "class 2", "class 3"))
    assert (config.input.min_size, config.input.max_size, config.input.square) == (96, SIDE, SIDE)
    assert config.detection.score_threshold_inclusive
    assert imported.unused == ()


def test_defaults_are_the_family_s(tmp_path: Path) -> None:
    imported = load(save(draw(layer_shapes(classes=81)), tmp_path / "coco.h5"))
    config = imported.model.config
    assert config.classes[1] == "person"
    assert (config.input.min_size, config.input.square) == (800, 1024)
    assert (config.rpn.pre_nms_topk, config.rpn.post_nms_topk) == (6000, 1000)
    assert (config.detection.score_threshold, config.detection.nms_iou_threshold) == (0.7, 0.3)
    assert {setting.origin for setting in imported.settings} == {"default"}


def test_flags_come_first(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(VALUES))
    given = Given(
        config=config,
        bn_eps=1e-5,
        min_size=64,
        max_size=192,
        max_detections=7,
        score_threshold=0.2,
        family="matterport",
    )
    found = load(file, given).model.config
    assert (found.input.min_size, found.input.max_size, found.input.square) == (64, 192, 192)
    assert (found.detection.max_detections, found.detection.score_threshold) == (7, 0.2)
    assert found.backbone.bn_eps == found.heads.box_norm_eps == 1e-5
    assert found.rpn.pre_nms_topk == VALUES["PRE_NMS_LIMIT"]


@pytest.mark.parametrize(("mode", "min_size"), [("pad64", 96), ("none", 1)])
def test_other_resize_modes(file: Path, tmp_path: Path, mode: str, min_size: int) -> None:
    rule = load(file, say(tmp_path, IMAGE_RESIZE_MODE=mode)).model.config.input
    assert (rule.min_size, rule.square, rule.size_divisor) == (min_size, None, 64)
    assert rule.max_size > 2000


def test_no_least_side(file: Path, tmp_path: Path) -> None:
    assert load(file, say(tmp_path, IMAGE_MIN_DIM=0)).model.config.input.min_size == 1


def test_values_of_ones_own_are_named(file: Path, tmp_path: Path) -> None:
    assert load(file, say(tmp_path, MY_DATA="somewhere")).unused == ("MY_DATA",)


def say(folder: Path, **values: Any) -> Given:
    config = folder / "config.json"
    config.write_text(json.dumps(VALUES | values))
    return Given(config=config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_CLASSES", 5),
        ("BACKBONE", "resnet101"),
        ("POOL_SIZE", 7),
        ("TOP_DOWN_PYRAMID_SIZE", 256),
        ("FPN_CLASSIF_FC_LAYERS_SIZE", 1024),
        ("BACKBONE_STRIDES", [4, 8, 16, 32, 128]),
        ("RPN_ANCHOR_STRIDE", 2),
        ("RPN_ANCHOR_RATIOS", [0.5, 1]),
        ("RPN_ANCHOR_SCALES", [8, 16, 32, 64]),
        ("RPN_ANCHOR_SCALES", [[8], [16], [32], [64], [128]]),
        ("RPN_BBOX_STD_DEV", [0.1, 0.1, 0.2]),
        ("BBOX_STD_DEV", [0.1, 0.1, 0.2, 0]),
        ("MASK_SHAPE", [28, 28]),
        ("IMAGE_CHANNEL_COUNT", 4),
        ("MEAN_PIXEL", [120.0]),
        ("IMAGE_MIN_SCALE", 2),
        ("IMAGE_RESIZE_MODE", "crop"),
        ("IMAGE_MAX_DIM", 100),
        ("IMAGE_MAX_DIM", 0),
    ],
)
def test_what_cannot_be_or_contradicts_the_weights(file: Path, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(WeightsConfigError, match=name):
        load(file, say(tmp_path, **{name: value}))


def test_a_side_that_is_no_multiple_names_the_flag(file: Path) -> None:
    with pytest.raises(WeightsConfigError, match=r"--max-size\) is 1000; it must be a multiple of 64"):
        load(file, Given(max_size=1000))


# Files that do not fit


def test_a_missing_layer(tmp_path: Path, weights: dict[str, Array]) -> None:
    rest = {name: value for name, value in weights.items() if not name.startswith("bn3b_branch2a/")}
    with pytest.raises(MismatchedWeightsError) as raised:
        load(save(rest, tmp_path / "a.h5"))
    kinds = ("gamma", "beta", "moving_mean", "moving_variance")
    assert set(raised.value.missing) == {f"bn3b_branch2a/{kind}" for kind in kinds}
    assert not raised.value.misshapen
    assert not raised.value.unexpected


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [
        ("res3b_branch2b/kernel", (3, 3, 4, 5), (3, 3, 4, 4)),
        ("rpn_conv_shared/kernel", (1, 1, 10, 14), (3, 3, 10, 14)),
        ("rpn_bbox_pred/kernel", (1, 1, 14, 24), (1, 1, 14, 12)),
        ("mrcnn_class_conv1/kernel", (5, 5, 11, 18), (5, 5, 10, 18)),
        ("mrcnn_class_conv1/kernel", (250, 18), (7, 7, 10, 18)),
        ("mrcnn_class_conv2/kernel", (1, 1, 16, 18), (1, 1, 18, 16)),
        ("mrcnn_bbox_fc/kernel", (16, 12), (16, 16)),
        ("mrcnn_mask_deconv/kernel", (2, 2, 7, 5), (2, 2, 5, 7)),
    ],
)
def test_a_misshapen_kernel_is_told_in_the_file_s_layout(
    tmp_path: Path, weights: dict[str, Array], name: str, shape: tuple[int, ...], needed: tuple[int, ...]
) -> None:
    changed = weights | {name: np.zeros(shape, np.float32)}
    with pytest.raises(MismatchedWeightsError) as raised:
        load(save(changed, tmp_path / "a.h5"))
    assert raised.value.misshapen == ((name, shape, needed),)


def test_a_layer_of_ones_own(tmp_path: Path, weights: dict[str, Array]) -> None:
    changed = weights | {"keypoints/kernel": np.zeros((1, 1, 5, 17), np.float32)}
    with pytest.raises(MismatchedWeightsError) as raised:
        load(save(changed, tmp_path / "a.h5"))
    assert raised.value.unexpected == ("keypoints/kernel",)


def test_another_body(tmp_path: Path) -> None:
    blocks = STAGES | {"4": "abcde"}
    with pytest.raises(UnsupportedWeightsError, match="3, 4, 5, 3 bottleneck blocks"):
        load(save(draw(layer_shapes(blocks=blocks)), tmp_path / "a.h5"))
