"""Configuration files: overlays on defaults, and complaints that name the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.model.config import ModelConfig, anchor_cells
from export.model.mask_rcnn import MaskRCNN
from export.training import setup
from export.training.config import ConfigError, TrainingConfig, model_config, read_config_file, training_config

RECIPES = sorted((Path(setup.__file__).parent / "recipes").glob("*.yaml"))


def test_values_overlay_the_defaults() -> None:
    found = training_config(
        {"steps": 7, "optimizer": {"name": "adamw", "regimes": [{"until_step": 3, "layers": "4+"}]}}
    )
    assert found.steps == 7
    assert found.batch_size == TrainingConfig().batch_size
    assert found.optimizer.name == "adamw"
    assert found.optimizer.regimes[0].layers == "4+"
    assert found.optimizer.regimes[0].learning_rate_factor == 1.0


def test_anchor_sizes_stand_for_the_table_of_cells() -> None:
    base = ModelConfig(classes=("background", "thing"))
    found = model_config(base, {"rpn": {"anchor_sizes": [8, 16, [32], 64, 128], "anchor_ratios": [1]}})
    assert found.rpn.cells == anchor_cells(((8,), (16,), (32,), (64,), (128,)), (1.0,))
    assert found.classes == base.classes


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param({"stepps": 7}, "training.stepps: unknown key", id="unknown"),
        pytest.param({"augment": {"krop": 7}}, "training.augment.krop: unknown key", id="nested unknown"),
        pytest.param({"steps": "many"}, "training.steps", id="text for a number"),
        pytest.param({"optimizer": {"name": "adam"}}, "training.optimizer.name", id="not a choice"),
        pytest.param({"optimizer": {"regimes": [{"until_step": 3, "layers": "7+"}]}}, "layers", id="in a list"),
        pytest.param({"augment": 3}, "training.augment: expected a mapping", id="not a mapping"),
        pytest.param({"batch_size": 3, "accumulate": 2}, "multiple", id="uneven parts"),
        pytest.param({"steps": 0}, "at least 1", id="no steps"),
    ],
)
def test_what_is_wrong_with_training_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        training_config(values)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param({"backbone": {"deep": 18}}, "model.backbone.deep: unknown key", id="unknown"),
        pytest.param({"backbone": {"depth": 19}}, "model.backbone.depth", id="not a choice"),
        pytest.param({"classes": ["a"]}, "classes come from the data", id="classes"),
        pytest.param({"input": {"square": 1024}}, "must hold pictures of max_size (1333)", id="square too small"),
        pytest.param({"input": {"square": 1350}}, "multiple of 32", id="square that strides do not fit"),
        pytest.param({"rpn": {"anchor_sizes": "big"}}, "anchor_sizes", id="anchors"),
        pytest.param({"rpn": {"anchor_sizes": [8, 16, 32]}}, "expected 5 levels", id="too few levels"),
        pytest.param({"rpn": {"anchor_sizes": [8, 16, [24, 32], 64, 128]}}, "as many sizes", id="uneven anchors"),
    ],
)
def test_what_is_wrong_with_the_model_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_config(ModelConfig(classes=("background", "thing")), values)
    assert complaint in str(caught.value)


def test_files_are_yaml_or_json(tmp_path: Path) -> None:
    document = {"model": {"fpn": {"channels": 8}}, "training": {"steps": 3}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "a.yaml").write_text("model: {fpn: {channels: 8}}\ntraining:\n  steps: 3\n")
    assert read_config_file(tmp_path / "a.json") == read_config_file(tmp_path / "a.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_config_file(tmp_path / "empty.yaml") == ({}, {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("models: {}", "unknown section models", id="section"),
        pytest.param("- 1", "expected the sections", id="list"),
        pytest.param("a: [", "cannot be read", id="syntax"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_config_file(path)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_config_file(tmp_path / "missing.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_are_sound(path: Path) -> None:
    model_values, training_values = read_config_file(path)
    training_config(training_values)
    model = MaskRCNN(model_config(ModelConfig(classes=("background", "thing")), model_values))
    assert sum(p.numel() for p in model.parameters()) < 3.3e6
