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
