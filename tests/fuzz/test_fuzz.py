"""The short form of `make fuzz`: edited seeds through every target."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.one_of(st.binary(max_size=8), st.just(b"\xff" * 8))), max_size=6
)
"""Where, as a share of the length, how many bytes go, and what comes instead."""


def edited(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, instead in edits:
        at = int(place * len(seed))
        seed = seed[:at] + instead + seed[at + gone :]
    return seed


@pytest.mark.parametrize("name", TARGETS)
def test_edited_seeds_break_nothing(name: str) -> None:
    seeds = SEEDS[name]()

    @settings(max_examples=600, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), EDITS)
    def run(seed: bytes, edits: list[tuple[float, int, bytes]]) -> None:
        TARGETS[name](edited(seed, edits))

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_reach_what_they_are_for(name: str) -> None:
    for seed in SEEDS[name]():
        TARGETS[name](seed)
