"""Checkpoints that training here writes: what loads, and the sentence for what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from export.model.mask_rcnn import MaskRCNN
from export.weights import Given, MismatchedWeightsError, UnrecognisedWeightsError, WeightsConfigError, load


def values_of(model: MaskRCNN) -> dict[str, Any]:
    return {"maskline_checkpoint": 1, "config": model.config.to_dict(), "model": dict(model.state_dict())}


def test_a_checkpoint_gives_its_model_in_eval_mode(checkpoint: Path, tiny_model: MaskRCNN) -> None:
    imported = load(str(checkpoint))
    assert not imported.model.training
    assert imported.model.config == tiny_model.config
    expected = tiny_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in imported.model.state_dict().items())


def test_flags_take_the_place_of_what_the_checkpoint_says(
    tmp_path: Path, checkpoint: Path, tiny_model: MaskRCNN
) -> None:
    (tmp_path / "names.txt").write_text("disc\ntile\n")
    given = Given(
        classes=tmp_path / "names.txt",
        min_size=64,
        max_size=200,
        max_detections=7,
        score_threshold=0.5,
        family="native",
    )
    config = load(checkpoint, given).model.config
    assert config.classes == ("background", "disc", "tile")
    assert (config.input.min_size, config.input.max_size) == (64, 200)
    assert (config.detection.max_detections, config.detection.score_threshold) == (7, 0.5)
    assert config.backbone == tiny_model.config.backbone


@pytest.mark.parametrize("flag", ["config", "bn_eps"])
def test_a_flag_for_imported_weights_is_refused(tmp_path: Path, checkpoint: Path, flag: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    given = Given(config=tmp_path / "config.json") if flag == "config" else Given(bn_eps=1e-3)
    with pytest.raises(WeightsConfigError, match=f"--{flag.replace('_', '-')} is for imported weights"):
        load(checkpoint, given)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"maskline_checkpoint": 2}, "of format 2; this version reads format 1", id="later format"),
        pytest.param({"maskline_checkpoint": torch.ones(2)}, "this version reads format 1", id="no format"),
        pytest.param({"config": {"classes": ["background", "a"], "depht": 1}}, "depht", id="unknown setting"),
        pytest.param({"config": None}, "configuration", id="no configuration"),
        pytest.param({"model": None}, "has no tensors", id="no tensors"),
        pytest.param({"model": {}}, "has no tensors", id="empty"),
    ],
)
def test_a_checkpoint_that_this_version_cannot_read(
    tmp_path: Path, tiny_model: MaskRCNN, change: dict[str, Any], sentence: str
) -> None:
    torch.save(values_of(tiny_model) | change, tmp_path / "best.pt")
    with pytest.raises(UnrecognisedWeightsError, match=sentence):
        load(tmp_path / "best.pt")


@pytest.mark.parametrize("change", [{"depth": 51}, {"depth": None}, {"stem_width": -1}, {"stem_width": "8"}])
def test_a_configuration_of_no_model(tmp_path: Path, tiny_model: MaskRCNN, change: dict[str, Any]) -> None:
    values = values_of(tiny_model)
    values["config"]["backbone"] |= change
    torch.save(values, tmp_path / "best.pt")
    with pytest.raises(UnrecognisedWeightsError, match="has a model configuration that this version cannot read"):
        load(tmp_path / "best.pt")


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path, tiny_model: MaskRCNN) -> None:
    values = values_of(tiny_model)
    tensors = values["model"]
    del tensors["box_head.class_logits.weight"]
    tensors["mask_head.logits.bias"] = torch.zeros(7)
    tensors["extra.weight"] = torch.zeros(1)
    torch.save(values, tmp_path / "best.pt")
    with pytest.raises(MismatchedWeightsError) as raised:
        load(tmp_path / "best.pt")
    error = raised.value
    assert error.missing == ("box_head.class_logits.weight",)
    assert error.misshapen == (("mask_head.logits.bias", (7,), (3,)),)
    assert error.unexpected == ("extra.weight",)
    assert "Missing: box_head.class_logits.weight; misshapen: mask_head.logits.bias is 7, not 3" in str(error)


def test_a_long_list_of_tensors_is_cut_short_in_the_message(tmp_path: Path, tiny_model: MaskRCNN) -> None:
    values = values_of(tiny_model) | {"model": {"extra.weight": torch.zeros(1)}}
    torch.save(values, tmp_path / "best.pt")
    with pytest.raises(MismatchedWeightsError, match=r"backbone\.stem\.conv\.weight, .* and \d+ more; not part"):
        load(tmp_path / "best.pt")


def test_a_checkpoint_of_an_earlier_version(tmp_path: Path, tiny_model: MaskRCNN) -> None:
    """Settings that were added since have their defaults; none may go or change its name."""
    config = tiny_model.config.to_dict()
    del config["fpn"]["norm_eps"]
    config["heads"]["box_norm_eps"] = 1e-5
    values = {"maskline_checkpoint": 1, "config": config, "model": dict(tiny_model.state_dict())}
    torch.save(values, tmp_path / "best.pt")
    assert load(tmp_path / "best.pt").model.config == tiny_model.config
