"""The default list of canvases, against the service's own resize: every picture must fit one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.model.config import InputConfig
from export.serving import listed_canvases, missing_canvas, serving_input
from server.contract.card import Canvas
from server.preprocess import canvas_size, resized_size

COCO = InputConfig(min_size=800, max_size=1333)

Rule = Literal["shortest_edge", "grow_shortest_edge"]

rules = st.builds(
    lambda rule, rounding, least, more, divisor: InputConfig(
        resize_rule=rule, rounding=rounding, min_size=least, max_size=least + more, size_divisor=divisor
    ),
    rule=st.sampled_from(["shortest_edge", "grow_shortest_edge"]),
    rounding=st.sampled_from(["floor", "half_up", "half_even"]),
    least=st.integers(16, 1200),
    more=st.integers(0, 1200),
    divisor=st.sampled_from([32, 64]),
)
sides = st.integers(1, 6000)


@given(rules, sides, sides)
def test_every_picture_fits_a_canvas_of_the_list(rule: InputConfig, height: int, width: int) -> None:
    listed = serving_input(rule, listed_canvases(rule))
    resized = resized_size(height, width, listed.resize)
    h, w = canvas_size(resized, listed)  # raises where none holds it
    assert (h % rule.size_divisor, w % rule.size_divisor) == (0, 0)
    assert missing_canvas(rule, listed_canvases(rule)) is None


def test_the_list_of_the_usual_rule() -> None:
    assert listed_canvases(COCO) == [(800, 800), (800, 1088), (800, 1344), (1088, 800), (1344, 800)]


def test_a_rule_that_leaves_large_pictures_large_has_large_squares() -> None:
    listed = listed_canvases(replace(COCO, resize_rule="grow_shortest_edge"))
    assert {(800, 800), (800, 1344), (1088, 1344), (1344, 1344), (1344, 1088)} <= set(listed)
    assert len(listed) <= 8


@pytest.mark.parametrize(
    ("rule", "canvases"),
    [
        pytest.param(replace(COCO, square=1024), [(1024, 1024)], id="square"),
        pytest.param(replace(COCO, min_size=500, max_size=510), [(512, 512)], id="one size after rounding up"),
        pytest.param(replace(COCO, min_size=64, max_size=96), [(64, 64), (64, 96), (96, 64)], id="no middle"),
    ],
)
def test_short_lists(rule: InputConfig, canvases: list[Canvas]) -> None:
    assert listed_canvases(rule) == canvases


@pytest.mark.parametrize(
    ("rule", "canvases", "missing"),
    [
        ("shortest_edge", [(800, 1344)], (1344, 800)),
        ("shortest_edge", [(1344, 800), (1344, 1344)], None),
        ("shortest_edge", [(768, 1344), (1344, 800)], (800, 1344)),
        ("grow_shortest_edge", [(800, 1344), (1344, 800)], (1344, 1344)),
    ],
)
def test_a_list_without_room_for_some_pictures(rule: Rule, canvases: list[Canvas], missing: Canvas | None) -> None:
    assert missing_canvas(replace(COCO, resize_rule=rule), canvases) == missing
