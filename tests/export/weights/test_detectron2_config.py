"""What detectron2's config.yaml may say: values, a base, names without effect, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from export.weights import Given, Imported, WeightsConfigError, load
from tests.export.weights.detectron2_files import Network, draw, imported, save_config, save_pth


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return draw(Network())


def origins(found: Imported) -> dict[str, str]:
    return {setting.name: setting.origin for setting in found.settings}


def test_without_a_configuration_the_defaults_of_mask_r_cnn_with_fpn_hold(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    found = imported(tensors, tmp_path)
    assert found.model.config.classes == ("background", "class 1", "class 2", "class 3")
    assert (found.model.config.input.min_size, found.model.config.input.max_size) == (800, 1333)
    assert found.model.config.input.mean == (123.675, 116.28, 103.53)
    assert set(origins(found).values()) == {"default"}


def test_eighty_classes_are_coco_s(tmp_path: Path) -> None:
    classes = imported(draw(Network(classes=80)), tmp_path).model.config.classes
    assert (len(classes), classes[0], classes[1], classes[80]) == (81, "background", "person", "toothbrush")


def test_flags_go_before_the_configuration(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    config = save_config({"INPUT.MIN_SIZE_TEST": 0, "TEST.DETECTIONS_PER_IMAGE": 20}, tmp_path)
    given = Given(config=config, min_size=320, max_size=480, max_detections=5, score_threshold=0.3)
    model_config = load(save_pth(tensors, tmp_path), given).model.config
    assert (model_config.input.min_size, model_config.input.max_size) == (320, 480)
    assert (model_config.detection.max_detections, model_config.detection.score_threshold) == (5, 0.3)


def test_a_partial_configuration_lies_over_its_base(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "fpn.yaml").write_text(
        "_BASE_: older.yaml\nINPUT: {MIN_SIZE_TEST: 600}\nMODEL: {RPN: {NMS_THRESH: 0.6, POST_NMS_TOPK_TEST: 500}}\n"
    )
    (tmp_path / "base" / "older.yaml").write_text("INPUT: {MIN_SIZE_TEST: 300, MAX_SIZE_TEST: 700}\n")
    found = imported(tensors, tmp_path, "_BASE_: base/fpn.yaml\nMODEL: {RPN: {NMS_THRESH: 0.5}}\n")
    rpn, rule = found.model.config.rpn, found.model.config.input
    assert (rpn.nms_iou_threshold, rpn.post_nms_topk) == (0.5, 500)
    assert (rule.min_size, rule.max_size) == (600, 700)
    assert [s.value for s in found.settings if s.name == "_BASE_"] == ["base/fpn.yaml", "older.yaml"]
    assert found.unused == ()


def test_a_base_that_is_not_there_is_said(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    found = imported(tensors, tmp_path, "_BASE_: ../Base-RCNN-FPN.yaml\nINPUT: {MIN_SIZE_TEST: 640}\n")
    assert origins(found)["_BASE_"] == "not found; Mask R-CNN with FPN has its defaults"
    assert found.model.config.input.min_size == 640
    assert found.unused == ()


@pytest.mark.parametrize(("statistics", "told"), [(True, False), (False, True)])
def test_a_body_that_might_have_groupnorm_is_said_to_have_batchnorm(
    tmp_path: Path, statistics: bool, told: bool
) -> None:
    found = imported(draw(Network(statistics=statistics)), tmp_path)
    assert (origins(found).get("MODEL.RESNETS.NORM") == "default") is told


def test_a_base_that_comes_round_again(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("_BASE_: config.yaml\n")
    with pytest.raises(WeightsConfigError, match="is its own _BASE_"):
        imported(tensors, tmp_path, "_BASE_: other.yaml\n")


def test_strings_are_read_as_the_values_they_write(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    text = (
        'MODEL: {PIXEL_STD: "(2.0, 3.0, 4.0)", ROI_HEADS: {SCORE_THRESH_TEST: 1e-3}, WEIGHTS: "detectron2://a/b.pkl"}\n'
        'DATASETS: {TRAIN: ("coco_2017_train",)}\n'
    )
    found = imported(tensors, tmp_path, text)
    assert found.model.config.input.std == (4.0, 3.0, 2.0)
    assert found.model.config.detection.score_threshold == 1e-3


def test_one_list_of_sizes_is_for_every_level(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    config = {"MODEL.ANCHOR_GENERATOR.SIZES": [10, 20, 30], "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [1.0]}
    cells = imported(tensors, tmp_path, config).model.config.rpn.cells
    assert cells == (((-5.0, -5.0, 5.0, 5.0), (-10.0, -10.0, 10.0, 10.0), (-15.0, -15.0, 15.0, 15.0)),) * 5


def test_only_names_that_might_matter_are_called_unused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    config = {
        "CUDNN_BENCHMARK": False,
        "INPUT.CROP.SIZE": [0.9, 0.9],
        "INPUT.FORMATT": "RGB",
        "MODEL.DEVICE": "cuda",
        "MODEL.FPN.OUT_CHANNELS": 8,
        "MODEL.RETINANET.NUM_CLASSES": 80,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
        "MODEL.ROI_HEADS.SCORE_TRESH_TEST": 0.5,
        "SOLVER.AMP.ENABLED": False,
        "TEST.AUG.MIN_SIZES": [400],
        "VERSION": 2,
    }
    assert set(imported(tensors, tmp_path, config).unused) == {"INPUT.FORMATT", "MODEL.ROI_HEADS.SCORE_TRESH_TEST"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "PanopticFPN"),
        ("MODEL.MASK_ON", False),
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        ("MODEL.RESNETS.NORM", "GN"),
        ("MODEL.RESNETS.NUM_GROUPS", 32),
        ("MODEL.RESNETS.RES5_DILATION", 2),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.FPN.FUSE_TYPE", "avg"),
        ("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"]),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4"]),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool"),
        ("INPUT.FORMAT", "L"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(
    tensors: dict[str, Tensor], tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(WeightsConfigError, match=rf"config\.yaml: {name} is .* can be rebuilt here"):
        imported(tensors, tmp_path, {name: value})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param({"MODEL.ROI_HEADS.NUM_CLASSES": 80}, "NUM_CLASSES 80, but the weights have 3", id="classes"),
        pytest.param({"MODEL.RESNETS.DEPTH": 50}, "DEPTH 50, but the weights have 18", id="depth"),
        pytest.param({"MODEL.ROI_BOX_HEAD.NUM_FC": 1}, "NUM_FC 1, but the weights have 2", id="layers"),
        pytest.param(
            {"MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]]},
            "3 anchors a location, but these SIZES and ASPECT_RATIOS make 15, 15, 15, 15, 15 on",
            id="anchors",
        ),
        pytest.param({"MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16]]}, "SIZES is .* each of P2 to P6", id="two levels"),
        pytest.param({"MODEL.ANCHOR_GENERATOR.SIZES": [["a"]]}, "it needs positive numbers", id="no number"),
        pytest.param({"MODEL.PIXEL_MEAN": [1.0]}, "PIXEL_MEAN is .* needs 3 numbers", id="grey"),
        pytest.param({"MODEL.PIXEL_STD": [1, 0, 1]}, "needs 3 positive numbers", id="zero"),
        pytest.param({"MODEL.RPN.BBOX_REG_WEIGHTS": [1, 1]}, "needs 4 positive numbers", id="two weights"),
        pytest.param(
            {"MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2}, "must have the same POOLER_SAMPLING_RATIO", id="poolers"
        ),
        pytest.param(
            {"INPUT.MIN_SIZE_TEST": 0}, "MIN_SIZE_TEST is 0; a bundle needs one above zero: --min-size", id="no resize"
        ),
        pytest.param({"TEST.DETECTIONS_PER_IMAGE": -1}, "needs one above zero: --max-detections", id="no limit"),
    ],
)
def test_a_configuration_that_does_not_fit(
    tensors: dict[str, Tensor], tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(WeightsConfigError, match=sentence):
        imported(tensors, tmp_path, config)
