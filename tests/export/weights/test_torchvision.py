"""Files with torchvision's names, drawn here with small widths, against a second implementation, stage by stage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.serving import serving_input
from export.weights import Given, Imported, MismatchedWeightsError, UnsupportedWeightsError, WeightsConfigError, load
from server.preprocess import prepare
from tests.export.weights.torchvision_files import Tensors, draw
from tests.export.weights.torchvision_oracle import Rules, Stages, run

SIZES = ((12, 20), (24, 36), (48, 70), (96, 130), (160, 220))


@dataclass(frozen=True)
class Case:
    tensors: Mapping[str, Any]
    """Arguments of `draw`."""
    picture_hw: tuple[int, int]
    config: Mapping[str, Any]
    rules: Rules


CASES = {
    "v1, odd P5": Case(
        {"frozen": True}, (100, 150), {"min_size": 96, "max_size": 160}, Rules(eps=0.0, min_size=96, max_size=160)
    ),
    "v2, even P5": Case(
        {"v2": True}, (90, 90), {"min_size": 128, "max_size": 200}, Rules(eps=1e-5, min_size=128, max_size=200)
    ),
    "resnet18, own anchors": Case(
        {"depth": 18, "frozen": True, "anchors": 4},
        (150, 100),
        {
            "min_size": 96,
            "max_size": 130,
            "bbox_reg_weights": [8, 8, 4, 4],
            "rpn_anchor_generator": {"sizes": SIZES, "aspect_ratios": [0.6, 1.5]},
        },
        Rules(eps=1e-5, min_size=96, max_size=130, box_weights=(8, 8, 4, 4), sizes=SIZES, ratios=(0.6, 1.5)),
    ),
}

LIMITS = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 40, "box_detections_per_img": 20}


@dataclass(frozen=True)
class Compared:
    ours: Stages
    theirs: Stages


@pytest.fixture(scope="module", params=CASES)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("torchvision")
    tensors, rules = draw(**case.tensors), replace(case.rules, rpn_top_n=(50, 40), detections=20)
    imported = load(_saved(folder, tensors), Given(config=_configured(folder, {**case.config, **LIMITS})))
    h, w = case.picture_hw
    noise = torch.rand((1, 3, h // 8, w // 8), generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(noise, (h, w), mode="bicubic").clamp(0, 1)
    picture = (smooth[0] * 255).permute(1, 2, 0).to(torch.uint8)
    return Compared(_run_ours(imported, picture), run(tensors, picture, rules))


def test_input_and_pyramid(compared: Compared) -> None:
    ours, theirs = compared.ours, compared.theirs
    torch.testing.assert_close(ours.image, theirs.image, rtol=0, atol=1e-5)
    for level, expected in zip(ours.pyramid, theirs.pyramid, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


def test_rpn(compared: Compared) -> None:
    ours, theirs = compared.ours, compared.theirs
    assert torch.equal(ours.anchors, theirs.anchors)
    torch.testing.assert_close(ours.rpn_logits, theirs.rpn_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.rpn_deltas, theirs.rpn_deltas, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.proposals, theirs.proposals, rtol=0, atol=2e-3)


def test_box_head(compared: Compared) -> None:
    ours, theirs = compared.ours, compared.theirs
    torch.testing.assert_close(ours.class_logits, theirs.class_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.deltas, theirs.deltas, rtol=1e-3, atol=1e-3)


def test_detections(compared: Compared) -> None:
    ours, theirs = compared.ours, compared.theirs
    assert len(theirs.labels) == 20
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=5e-3)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.masks, theirs.masks, rtol=0, atol=1e-3)


def _run_ours(imported: Imported, picture: Tensor) -> Stages:
    model = imported.model
    canvas = prepare(picture.numpy(), serving_input(model.config.input))
    images, windows = torch.from_numpy(canvas.image)[None], torch.tensor([canvas.window_xyxy], dtype=torch.float32)
    with torch.inference_mode():
        x = model.preprocess(images, windows)
        pyramid = model.pyramid(x)
        output, anchors = model.rpn(pyramid), model.anchors(pyramid)
        proposals = model.propose(output, anchors, windows, (x.shape[2], x.shape[3]))
        boxes = proposals.boxes[proposals.valid]
        features = model.box_features(pyramid, boxes, torch.zeros(len(boxes), dtype=torch.int64))
        class_logits, deltas = model.box_head(features)
        rows, masks = model(images, windows)
    return Stages(
        x, pyramid, output.logits[0], output.deltas[0], anchors, boxes, class_logits, deltas,
        rows[:, 1:5], rows[:, 6].to(torch.int64), rows[:, 5], masks,
    )  # fmt: skip


def _saved(folder: Path, content: Mapping[str, Any]) -> Path:
    torch.save(dict(content), folder / "weights.pth")
    return folder / "weights.pth"


def _configured(folder: Path, values: Mapping[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


@pytest.fixture(scope="module")
def v1() -> Tensors:
    return draw(frozen=True)


@pytest.fixture
def load_with(tmp_path: Path) -> Callable[..., Imported]:
    """Tensors and what a configuration says, as `load` sees them."""

    def load_with(tensors: Tensors, config: Mapping[str, Any] | None = None, **given: Any) -> Imported:
        path = None if config is None else _configured(tmp_path, config)
        return load(_saved(tmp_path, tensors), Given(config=path, **given))

    return load_with


def test_old_names(load_with: Callable[..., Imported], v1: Tensors) -> None:
    old = {
        re.sub(r"(blocks\.\d|rpn\.head\.conv)\.0(\.0)?\.", r"\1.", _old_mask_name(name)): tensor
        for name, tensor in v1.items()
    }
    assert "roi_heads.mask_head.mask_fcn1.weight" in old
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    expected = load_with(v1).model.state_dict()
    found = load_with(old).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def _old_mask_name(name: str) -> str:
    return re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_checkpoints_of_a_training(load_with: Callable[..., Imported], v1: Tensors, wrapper: str) -> None:
    found = load_with({wrapper: v1, "epoch": 3, "optimizer": {"state": {}}}).model
    assert torch.equal(found.rpn_head.logits.weight, v1["rpn.head.cls_logits.weight"])


def test_classes_are_numbered_unless_they_are_coco_s(load_with: Callable[..., Imported], v1: Tensors) -> None:
    assert load_with(v1).model.config.classes == ("background", "class 1", "class 2", "class 3")
    coco = load_with(draw(frozen=True, classes=91)).model.config.classes
    assert (len(coco), coco[1], coco[12], coco[90]) == (91, "person", "N/A", "toothbrush")


@pytest.mark.parametrize(
    ("tensors", "given", "body", "fpn"),
    [
        ({"frozen": True}, None, 0.0, None),
        ({"frozen": True}, 1e-5, 1e-5, None),
        ({"frozen": False}, None, 1e-5, None),
        ({"frozen": True, "depth": 18}, None, 1e-5, None),
        ({"v2": True}, None, 1e-5, 1e-5),
        ({"v2": True}, 1e-3, 1e-3, 1e-3),
        ({"v2": True, "frozen": True}, None, 0.0, 1e-5),
    ],
)
def test_epsilon(
    load_with: Callable[..., Imported], tensors: dict[str, Any], given: float | None, body: float, fpn: float | None
) -> None:
    """torchvision freezes a body alone: what is normalised beside it has torch's own epsilon."""
    config = load_with(draw(**tensors), bn_eps=given).model.config
    assert config.backbone.bn_eps == body
    assert config.fpn.norm == (fpn is not None)
    assert fpn is None or (config.fpn.norm_eps, config.heads.box_norm_eps) == (fpn, fpn)


def test_an_epsilon_that_is_a_guess_is_spoken_of(load_with: Callable[..., Imported], v1: Tensors) -> None:
    (remark,) = load_with(v1).remarks
    assert "--bn-eps 1e-5" in remark
    assert load_with(v1, bn_eps=0.0).remarks == ()
    assert load_with(draw(frozen=False)).remarks == ()


def test_the_builder_s_arguments(load_with: Callable[..., Imported], v1: Tensors) -> None:
    values = {
        "num_classes": 4,
        "box_score_thresh": 0.3,
        "box_nms_thresh": 0.4,
        "rpn_nms_thresh": 0.6,
        "image_mean": [0, 0.5, 0.2],
        "image_std": [1, 1, 0.5],
        "rpn_batch_size_per_image": 128,
        "box_roi_pool": {"output_size": [7, 7], "sampling_ratio": 2},
        "mask_size": 28,
    }
    imported = load_with(v1, values, max_detections=5)
    config = imported.model.config
    assert (config.detection.score_threshold, config.detection.nms_iou_threshold) == (0.3, 0.4)
    assert (config.rpn.nms_iou_threshold, config.detection.max_detections) == (0.6, 5)
    assert (config.input.mean, config.input.std) == ((0, 127.5, 51), (255, 255, 127.5))
    assert imported.unused == ("mask_size",)


def test_corners_of_anchors_are_rounded_half_to_even_in_float32(load_with: Callable[..., Imported]) -> None:
    config = {"rpn_anchor_generator": {"sizes": [25.8, 33, 35, 256, 512], "aspect_ratios": [0.36, 1]}}
    cells = load_with(draw(anchors=2), config).model.config.rpn.cells
    assert [level[1] for level in cells[1:3]] == [(-16, -16, 16, 16), (-18, -18, 18, 18)]
    # 25.8 / 0.6 / 2 is 21.5, and 22 by the rule; torchvision's AnchorGenerator gives this.
    assert cells[0][0] == (-21, -8, 21, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_classes": 5}, "num_classes 5, but the weights have 4"),
        ({"rpn_anchor_generator": {"aspect_ratios": [0.5, 1]}}, r"3 anchors a location, but .* make 2, 2, 2, 2, 2 on"),
        ({"rpn_anchor_generator": {"sizes": [[32, 64, 128]]}}, "for each of the five levels"),
        ({"rpn_anchor_generator": {"sizes": [32, 64, 128, 256, "512"]}}, "should be 1 positive numbers"),
        ({"rpn_anchor_generator": {"aspect_ratios": [[0.5, 1, 2], 1, 1, 1, 1]}}, "should be 5 positive numbers"),
        ({"rpn_anchor_generator": {"sizes": []}}, "for each of the five levels"),
        ({"image_mean": [0.5]}, r"image_mean is \(0.5,\); it should be 3 numbers"),
        ({"image_std": [0, 1, 1]}, "should be 3 positive numbers"),
        ({"bbox_reg_weights": [10, 10, 5]}, "should be 4 positive numbers"),
        ({"min_size": "640"}, "min_size is '640'; it should be like 800"),
        ({"fixed_size": [640, 640]}, "fixed_size"),
        ({"rpn_score_thresh": 0.1}, "rpn_score_thresh"),
        ({"box_roi_pool": {"output_size": 6}}, "only 7 or"),
        ({"box_roi_pool": {"sampling_ratio": 0}}, "same sampling_ratio"),
    ],
)
def test_what_the_configuration_gets_wrong(
    load_with: Callable[..., Imported], v1: Tensors, config: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(WeightsConfigError, match=message):
        load_with(v1, config)


def test_tensors_that_are_missing_left_over_or_misshapen(load_with: Callable[..., Imported], v1: Tensors) -> None:
    tensors = {**v1, "roi_heads.box_head.fc7.bias": torch.zeros(3), "roi_heads.extra.weight": torch.zeros(1)}
    del tensors["backbone.body.layer1.0.conv2.weight"]
    with pytest.raises(MismatchedWeightsError) as caught:
        load_with(tensors)
    assert caught.value.missing == ("backbone.body.layer1.0.conv2.weight",)
    assert caught.value.misshapen == (("roi_heads.box_head.fc7.bias", (3,), (12,)),)
    assert caught.value.unexpected == ("roi_heads.extra.weight",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.fpn.extra_blocks.p6.weight": torch.zeros(8, 8, 3, 3)}, "convolutions above P5"),
        ({"roi_heads.box_predictor.cls_score.weight": torch.zeros(0)}, "has 1 axes instead of 2"),
    ],
)
def test_what_cannot_be_rebuilt(
    load_with: Callable[..., Imported], v1: Tensors, changes: Tensors, message: str
) -> None:
    with pytest.raises(UnsupportedWeightsError, match=message):
        load_with({**v1, **changes})
