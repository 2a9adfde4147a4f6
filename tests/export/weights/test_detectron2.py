"""Networks that the tests draw, as detectron2 would save them, against a second implementation, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.model.mask_rcnn import MaskRCNN
from export.model.rpn import RpnOutput
from export.weights import Given, MismatchedWeightsError, UnsupportedWeightsError, load
from tests.export.weights import detectron2_oracle as oracle
from tests.export.weights.detectron2_files import Network, draw, imported, save_config, save_pkl, save_pth

CANVAS_HW, PICTURE_HW = (96, 128), (90, 117)
WINDOWS = torch.tensor([[0.0, 0.0, PICTURE_HW[1], PICTURE_HW[0]]])


@dataclass(frozen=True)
class Case:
    network: Network
    rules: oracle.Rules
    seed: int
    """One with detections of several classes and no equal scores."""
    config: Mapping[str, Any] = field(default_factory=dict)
    save: Callable[[Mapping[str, Tensor], Path], Path] = save_pth
    buffers: tuple[str, ...] = ()
    """Of old versions, beside the weights."""


FEW = {"MODEL.RPN.POST_NMS_TOPK_TEST": 40, "MODEL.RPN.PRE_NMS_TOPK_TEST": 60}
CASES = {
    "R-50 of the zoo": Case(
        Network(depth=50), oracle.Rules(pre_nms_topk=60, post_nms_topk=40), seed=3, config=FEW, save=save_pkl
    ),
    "R-50 of Caffe2": Case(
        Network(depth=50, classes=2, statistics=False),
        oracle.Rules(pre_nms_topk=60, post_nms_topk=40, stride_in_1x1=False),
        seed=1,
        config={**FEW, "MODEL.RESNETS.STRIDE_IN_1X1": False},
        save=save_pkl,
        buffers=("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.0"),
    ),
    "R-18 with everything said": Case(
        Network(anchors=4, classes=5, rpn_convs=2, box_convs=2, box_fcs=1, resolution=5, norm=True),
        oracle.Rules(
            image_format="RGB",
            pixel_mean=(120.0, 110.0, 100.0),
            pixel_std=(50.0, 60.0, 70.0),
            sizes=((12, 20), (30, 40), (60, 80), (100, 120), (200, 230)),
            ratios=((0.5, 1.8),) * 5,
            offset=0.5,
            rpn_weights=(2.0, 2.0, 1.5, 1.5),
            pre_nms_topk=12,
            post_nms_topk=24,
            rpn_nms=0.6,
            min_size=16.0,
            box_weights=(8.0, 9.0, 4.0, 3.0),
            box_resolution=5,
            mask_resolution=6,
            sampling_ratio=2,
            aligned=False,
            score_threshold=0.1,
            nms=0.4,
            detections=15,
        ),
        seed=1,
        config={
            "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [120, 110, 100],
            "MODEL.PIXEL_STD": [50, 60, 70],
            "MODEL.ANCHOR_GENERATOR.SIZES": [[12, 20], [30, 40], [60, 80], [100, 120], [200, 230]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.8]],
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            "MODEL.RPN.BBOX_REG_WEIGHTS": [2.0, 2.0, 1.5, 1.5],
            "MODEL.RPN.PRE_NMS_TOPK_TEST": 12,
            "MODEL.RPN.POST_NMS_TOPK_TEST": 24,
            "MODEL.RPN.NMS_THRESH": 0.6,
            "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 16,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [8.0, 9.0, 4.0, 3.0],
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 6,
            "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.1,
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.4,
            "TEST.DETECTIONS_PER_IMAGE": 15,
        },
    ),
}


@dataclass(frozen=True)
class Both:
    """The imported model and, of the oracle, every stage on one picture."""

    model: MaskRCNN
    rules: oracle.Rules
    tensors: Mapping[str, Tensor]
    images: Tensor
    network_input: Tensor
    pyramid: list[Tensor]
    logits: list[Tensor]
    deltas: list[Tensor]
    proposals: Tensor


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("detectron2")
    tensors = draw(case.network, case.seed)
    buffers = {name: torch.ones(3, 1, 1) for name in case.buffers}
    model = load(case.save({**tensors, **buffers}, folder), Given(config=save_config(case.config, folder))).model
    squares = torch.randint(0, 256, (10, 13, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    picture = squares.repeat_interleave(9, dim=0).repeat_interleave(9, dim=1)
    images = torch.zeros(1, *CANVAS_HW, 3, dtype=torch.uint8)
    images[0, : PICTURE_HW[0], : PICTURE_HW[1]] = picture
    with torch.no_grad():
        x = oracle.network_input(picture, CANVAS_HW, case.rules)
        levels = oracle.pyramid(tensors, oracle.body(tensors, x, case.rules))
        logits, deltas = oracle.rpn(tensors, levels)
        boxes = oracle.proposals(logits, deltas, oracle.anchors(levels, case.rules), PICTURE_HW, case.rules)
        yield Both(model, case.rules, tensors, images, x, levels, logits, deltas, boxes)


def close(found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_the_pyramid(both: Both) -> None:
    found = both.model.pyramid(both.model.preprocess(both.images, WINDOWS))
    for level, expected in zip(found, both.pyramid, strict=True):
        close(level, expected)


def test_the_rpn(both: Both) -> None:
    found = both.model.rpn(both.pyramid)
    close(found.logits[0], torch.cat(both.logits))
    close(found.deltas[0], torch.cat(both.deltas))


def test_the_anchors(both: Both) -> None:
    close(both.model.anchors(both.pyramid), torch.cat(oracle.anchors(both.pyramid, both.rules)), scale=0.1)


def test_the_proposals(both: Both) -> None:
    output = RpnOutput(
        torch.cat(both.logits)[None], torch.cat(both.deltas)[None], [len(level) for level in both.logits]
    )
    found = both.model.propose(output, both.model.anchors(both.pyramid), WINDOWS, CANVAS_HW)
    close(found.boxes[found.valid], both.proposals)


def test_the_box_head(both: Both) -> None:
    expected_features = oracle.roi_features(both.pyramid, both.proposals, both.rules.box_resolution, both.rules)
    features = both.model.box_features(
        both.pyramid, both.proposals, torch.zeros(len(both.proposals), dtype=torch.int64)
    )
    close(features, expected_features)
    logits, deltas = both.model.box_head(expected_features)
    expected_logits, expected_deltas = oracle.box_head(both.tensors, expected_features)
    close(logits[:, 1:], expected_logits[:, :-1], scale=10)
    close(logits[:, 0], expected_logits[:, -1], scale=10)  # the background
    close(deltas[:, 1:], expected_deltas)


def test_detections_and_masks(both: Both) -> None:
    features = oracle.roi_features(both.pyramid, both.proposals, both.rules.box_resolution, both.rules)
    expected = oracle.detections(both.proposals, *oracle.box_head(both.tensors, features), PICTURE_HW, both.rules)
    rows, masks = both.model(both.images, WINDOWS)
    assert len(expected.boxes) > 10
    assert len(set(expected.classes.tolist())) > 1
    close(rows[:, 5], expected.scores)
    assert rows[:, 6].tolist() == [label + 1 for label in expected.classes.tolist()]
    close(rows[:, 1:5], expected.boxes, scale=10)
    pooled = oracle.roi_features(both.pyramid, expected.boxes, both.rules.mask_resolution, both.rules)
    close(masks, oracle.mask_head(both.tensors, pooled)[range(len(pooled)), expected.classes], scale=10)


# Weights that do not fit


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return draw(Network())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("backbone.bottom_up.res3.0.conv2_offset.weight", "deformable convolutions"),
        ("backbone.fpn_lateral2.norm.weight", "GroupNorm"),
    ],
)
def test_other_layers_are_refused(tensors: dict[str, Tensor], tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(UnsupportedWeightsError, match=sentence):
        imported({**tensors, name: torch.zeros(8)}, tmp_path)


def test_a_body_without_a_pyramid_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in tensors.items() if "fpn_" not in name}
    with pytest.raises(UnsupportedWeightsError, match="no feature pyramid"):
        imported(without, tmp_path)


@pytest.mark.parametrize(
    ("layer", "rows", "part"),
    [("roi_heads.box_predictor.bbox_pred", 4, "boxes"), ("roi_heads.mask_head.predictor", 1, "masks")],
)
def test_outputs_that_all_classes_share_are_refused(
    tensors: dict[str, Tensor], tmp_path: Path, layer: str, rows: int, part: str
) -> None:
    shared = {f"{layer}.{kind}": tensors[f"{layer}.{kind}"][:rows] for kind in ("weight", "bias")}
    with pytest.raises(UnsupportedWeightsError, match=f"the same {part} for every class"):
        imported({**tensors, **shared}, tmp_path)


def test_what_does_not_fit_is_named_as_the_file_names_it(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    changed = dict(tensors)
    del changed["backbone.bottom_up.res3.1.conv2.norm.running_var"]
    changed["roi_heads.mask_head.predictor.bias"] = torch.zeros(2)
    changed["roi_heads.mask_head.extra.weight"] = torch.zeros(1)
    with pytest.raises(MismatchedWeightsError) as raised:
        imported(changed, tmp_path)
    assert raised.value.missing == ("backbone.bottom_up.res3.1.conv2.norm.running_var",)
    assert raised.value.misshapen == (("roi_heads.mask_head.predictor.bias", (2,), (3,)),)
    assert raised.value.unexpected == ("roi_heads.mask_head.extra.weight",)
