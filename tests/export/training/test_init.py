"""`--init`: whose weights a run starts from, what of them is kept, and what becomes of the result."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export import train
from export.graph.bundle import DEFAULT_SCORE_THRESHOLD, make_card
from export.model.config import BackboneConfig, HeadConfig, ModelConfig, RpnConfig, anchor_cells
from export.model.mask_rcnn import MaskRCNN
from export.training.checkpoint import native_checkpoint, write_atomically
from export.training.config import TrainingError
from export.training.setup import Start, make_model
from export.weights import Given, WeightsError, load
from server.contract.card import BundleFile
from tests.export.training.small import small_model_config
from tests.export.training.test_families import MATTERPORT, SIZES

CLASSES = ("background", "cat", "dog", "fish")
CLASS_PREDICTORS = {"box_head.class_logits", "box_head.deltas", "mask_head.logits"}
RPN_PREDICTORS = {"rpn_head.logits", "rpn_head.deltas"}

TORCHVISION_NAMES = [
    (r"backbone\.stem\.conv", "backbone.body.conv1"),
    (r"backbone\.stem\.norm", "backbone.body.bn1"),
    *((rf"backbone\.stage{i + 1}\.(\d)\.", rf"backbone.body.layer{i}.\1.") for i in range(1, 5)),
    (r"(layer\d\.\d\.)norm", r"\1bn"),
    (r"(layer\d\.\d\.)shortcut", r"\1downsample"),
    (r"^fpn\.lateral", "backbone.fpn.inner_blocks"),
    (r"^fpn\.output", "backbone.fpn.layer_blocks"),
    (r"rpn_head\.convs\.0", "rpn.head.conv.0.0"),
    (r"rpn_head\.logits", "rpn.head.cls_logits"),
    (r"rpn_head\.deltas", "rpn.head.bbox_pred"),
    (r"^box_head\.fcs\.0", "roi_heads.box_head.fc6"),
    (r"^box_head\.fcs\.1", "roi_heads.box_head.fc7"),
    (r"^box_head\.class_logits", "roi_heads.box_predictor.cls_score"),
    (r"^box_head\.deltas", "roi_heads.box_predictor.bbox_pred"),
    (r"^mask_head\.convs\.0", "roi_heads.mask_head.0.0"),
    (r"^mask_head\.deconv", "roi_heads.mask_predictor.conv5_mask"),
    (r"^mask_head\.logits", "roi_heads.mask_predictor.mask_fcn_logits"),
]


def save_native(config: ModelConfig, path: Path) -> MaskRCNN:
    torch.manual_seed(11)
    model = MaskRCNN(config)
    write_atomically(native_checkpoint(model), path)
    return model


def save_torchvision(path: Path) -> MaskRCNN:
    """A model of three classes under torchvision's names, as a `state_dict`."""
    torch.manual_seed(11)
    model = MaskRCNN(
        small_model_config(
            backbone=BackboneConfig(depth=18, stem_width=4, stage_widths=(16, 16, 16, 16)),
            rpn=RpnConfig(channels=8),
            heads=HeadConfig(box_fc_widths=(16, 12), mask_conv_widths=(8,), mask_deconv_width=8),
        )
    )
    torch.save({_torchvision_name(name): tensor for name, tensor in model.state_dict().items()}, path)
    return model


def _torchvision_name(name: str) -> str:
    for ours, theirs in TORCHVISION_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def start(path: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0, **model: Any) -> Start:
    return make_model(classes, model, seed, str(path))


def layers_that_differ(found: MaskRCNN, expected: MaskRCNN) -> set[str]:
    kept: dict[str, Tensor] = expected.state_dict()
    state = found.state_dict()
    assert state.keys() == kept.keys()
    return {n.rsplit(".", 1)[0] for n, t in state.items() if not torch.equal(t, kept[n])}


def test_equal_classes_keep_every_tensor(tmp_path: Path) -> None:
    source = save_native(MATTERPORT, tmp_path / "a.pt")
    begun = start(tmp_path / "a.pt", source.config.classes)
    assert layers_that_differ(begun.model, source) == set()
    assert begun.told == f"starting from {tmp_path}/a.pt: native, ResNet-18, 3 classes; all tensors kept"


@pytest.mark.parametrize(
    "classes",
    [
        pytest.param(CLASSES, id="other names"),
        pytest.param(("background", "square", "circle", "triangle"), id="another order"),
        pytest.param(("background", "circle"), id="fewer"),
        pytest.param(("background", "circle", "square", "triangle", "star"), id="more"),
    ],
)
def test_other_classes_get_fresh_predictors_and_keep_the_rest(classes: tuple[str, ...], tmp_path: Path) -> None:
    source = save_native(MATTERPORT, tmp_path / "a.pt")
    begun = start(tmp_path / "a.pt", classes)
    differing = {
        name.rsplit(".", 1)[0]
        for name, tensor in source.state_dict().items()
        if name.endswith("weight") and not torch.equal(tensor, begun.model.state_dict()[name])
    }
    assert differing == CLASS_PREDICTORS
    assert begun.model.config == replace(MATTERPORT, classes=classes)
    logits = begun.model.box_head.class_logits
    assert logits.weight.shape[0] == len(classes)
    assert logits.bias.abs().max() == 0
    assert 0.005 < logits.weight.std() < 0.02
    assert begun.told is not None
    assert begun.told.endswith("made anew: box_head.class_logits, box_head.deltas, mask_head.logits")
    again, other = start(tmp_path / "a.pt", classes), start(tmp_path / "a.pt", classes, seed=1)
    assert layers_that_differ(again.model, begun.model) == set()
    assert layers_that_differ(other.model, begun.model) == CLASS_PREDICTORS


def test_other_anchors_a_location_get_a_fresh_rpn_predictor(tmp_path: Path) -> None:
    source = save_native(MATTERPORT, tmp_path / "a.pt")
    sizes = [[s, 1.5 * s] for (s,) in SIZES]
    begun = start(tmp_path / "a.pt", source.config.classes, rpn={"anchor_sizes": sizes})
    assert begun.model.rpn_head.logits.weight.shape[0] == 2 * 6
    assert begun.told is not None
    assert begun.told.endswith("made anew: rpn_head.logits, rpn_head.deltas")
    fresh = RPN_PREDICTORS | {"rpn_head"}
    kept = begun.model.state_dict()
    assert all(torch.equal(kept[n], t) for n, t in source.state_dict().items() if n.rsplit(".", 1)[0] not in fresh)


def test_new_anchor_sizes_keep_the_predictors_and_the_familys_table(tmp_path: Path) -> None:
    source = save_torchvision(tmp_path / "tv.pth")
    begun = start(tmp_path / "tv.pth", rpn={"anchor_sizes": [10, 20, 40, 80, 160]})
    assert begun.model.config.rpn.cells[0] == ((-7, -4, 7, 4), (-5, -5, 5, 5), (-4, -7, 4, 7))
    assert torch.equal(begun.model.rpn_head.deltas.weight, source.rpn_head.deltas.weight)
    save_native(MATTERPORT, tmp_path / "m.pt")
    begun = start(tmp_path / "m.pt", rpn={"anchor_sizes": [10, 20, 40, 80, 160]})
    assert begun.model.config.rpn.cells == anchor_cells(((10,), (20,), (40,), (80,), (160,)), (2.0, 1.0, 0.5))


def test_imported_weights_are_told_and_keep_their_rules(tmp_path: Path) -> None:
    path = tmp_path / "tv.pth"
    source = save_torchvision(path)
    begun = start(path, input={"min_size": 64}, backbone={"bn_eps": 1e-4})
    assert begun.told == (
        f"starting from {path}: torchvision, ResNet-18, 3 classes; "
        "made anew: box_head.class_logits, box_head.deltas, mask_head.logits"
    )
    imported = load(path).model.config
    wanted = replace(
        imported,
        classes=CLASSES,
        family="native",
        input=replace(imported.input, min_size=64),
        backbone=replace(imported.backbone, bn_eps=1e-4),
    )
    assert begun.model.config == wanted
    assert begun.model.backbone.stem.norm.eps == 1e-4
    assert layers_that_differ(begun.model, source) == CLASS_PREDICTORS


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        pytest.param({"fpn": {"channels": 16}}, "fpn.lateral.0.0.weight", id="another width"),
        pytest.param({"heads": {"mask_conv_widths": [8, 8]}}, "mask_head.convs.1.weight", id="one more"),
        pytest.param({"heads": {"mask_conv_widths": []}}, "mask_head.convs.0.weight", id="one less"),
    ],
)
def test_layers_that_the_weights_lack_are_refused(model: dict[str, Any], layer: str, tmp_path: Path) -> None:
    save_native(MATTERPORT, tmp_path / "a.pt")
    with pytest.raises(TrainingError, match=f"asks for other layers than .*a.pt has: .*{layer}"):
        start(tmp_path / "a.pt", **model)


def run_file(folder: Path, **training: Any) -> Path:
    path = folder / "run.json"
    model = {"input": {"min_size": 64, "max_size": 64}, "rpn": {"anchor_sizes": [12, 20, 32, 48, 64]}}
    plain = {"steps": 1, "evaluate_pictures": 1, "targets": {"post_nms_topk": 20}}
    path.write_text(json.dumps({"model": model, "training": plain | training}))
    return path


def test_the_command_starts_from_torchvisions_weights_and_leaves_a_checkpoint_that_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_torchvision(tmp_path / "tv.pth")
    output, config = tmp_path / "run", run_file(tmp_path)
    arguments = ["--data", "shapes", "--config", str(config), "--output", str(output)]
    assert train.main([*arguments, "--init", str(tmp_path / "tv.pth")]) == 0
    printed = capsys.readouterr().out
    assert "tv.pth: torchvision, ResNet-18, 3 classes; made anew: box_head.class_logits" in printed
    result = load(output / "best.pt").model.config
    assert result.classes == ("background", "circle", "square", "triangle")
    assert (result.rpn.strides, result.input.dtype, result.mask_paste) == ("canvas", "float32", "torchvision")
    card = make_card(
        result,
        name="mine",
        model_version="1",
        weights=output / "best.pt",
        files=[BundleFile(path="model.onnx", sha256="0" * 64, engine="onnxruntime", precision="fp32")],
    )
    assert card.output.score_threshold == 0.05
    assert card.output.default_score_threshold == DEFAULT_SCORE_THRESHOLD


def test_generated_shapes_need_no_model_section_beside_weights(tmp_path: Path) -> None:
    """The shapes' own recipe has one, for a model from scratch."""
    from export.training.setup import read_settings

    assert read_settings(None, ["shapes"], None)[0] != {}
    model, training = read_settings(None, ["shapes"], "tv.pth")
    assert model == {}
    assert training["steps"] > 0


def test_frozen_batchnorm_cannot_learn_from_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_native(small_model_config(backbone=BackboneConfig(18, 4, (4, 8, 8, 8), bn_eps=0.0)), tmp_path / "a.pt")
    arguments = ["--data", "shapes", "--init", str(tmp_path / "a.pt"), "--output", str(tmp_path / "run")]
    assert train.main([*arguments, "--config", str(run_file(tmp_path, train_bn=True))]) == 2
    assert "train_bn: these weights have BatchNorm with epsilon 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04 cut off", id="broken"),
        pytest.param({"fc.weight": torch.zeros(3, 3)}, id="a classifier"),
        pytest.param({"roi_heads.mask_predictor.mask_fcn_logits.weight": torch.zeros(3, 3, 1, 1)}, id="half a model"),
        pytest.param(None, id="no file"),
    ],
)
def test_bad_weights_end_with_the_importers_sentence(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    assert train.main(["--data", "shapes", "--init", str(path), "--output", str(tmp_path / "run")]) == 2
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert capsys.readouterr().err == f"train: {caught.value}\n"
    assert not (tmp_path / "run").exists()


def test_published_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name reaches the importer as it was typed, with the file of what it does not tell."""
    asked: list[Any] = []

    def refuse(*words: Any) -> None:
        asked.extend(words)
        raise TrainingError("stop here")

    monkeypatch.setattr("export.weights.load", refuse)
    arguments = ["--data", "shapes", "--output", str(tmp_path / "run")]
    init = ["--init", "torchvision:maskrcnn_resnet50_fpn", "--init-config", "arguments.json"]
    assert train.main([*arguments, *init]) == 2
    assert asked == ["torchvision:maskrcnn_resnet50_fpn", Given(config=Path("arguments.json"))]
