from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from server.contract.card import ModelCard
from tests.server.contract.cards import card_values


def test_model_json_survives_reading_and_writing() -> None:
    text = json.dumps(card_values())

    card = ModelCard.model_validate_json(text)

    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert card.classes[1:] == ["disc", "square"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("schema_version", 2, id="a later schema"),
        pytest.param("classes", ["background"], id="no class but the background"),
        pytest.param("name", "../etc", id="a name that is a path"),
        pytest.param("files", [], id="no file"),
        pytest.param("colour", "red", id="an unknown field"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ModelCard.model_validate({**card_values(), field: value})


PLAN = {
    "path": "model.plan",
    "sha256": "0" * 64,
    "engine": "tensorrt",
    "precision": "fp16",
    "tensorrt": "11.1.0.106",
    "compute_capability": "9.0",
    "profiles": [{"canvas": [64, 96], "max_batch": 8}],
}


def test_a_plan_says_what_it_fits() -> None:
    values = card_values()
    wide = PLAN | {"tensorrt": "10.7.0+", "compute_capability": "8.0+"}

    card = ModelCard.model_validate(values | {"files": [*values["files"], PLAN, wide]})

    _, plan, _ = card.files
    assert plan.profiles is not None
    assert (plan.profiles[0].canvas, plan.profiles[0].max_batch) == ((64, 96), 8)
    assert json.loads(plan.model_dump_json()) == PLAN


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tensorrt", None),
        ("tensorrt", "eleven"),
        ("compute_capability", None),
        ("compute_capability", "sm_90"),
        ("profiles", None),
        ("profiles", []),
        ("profiles", [{"canvas": [64], "max_batch": 8}]),
        ("profiles", [{"canvas": [64, 96], "max_batch": 0}]),
    ],
)
def test_a_plan_that_does_not_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ModelCard.model_validate({**card_values(), "files": [PLAN | {field: value}]})
