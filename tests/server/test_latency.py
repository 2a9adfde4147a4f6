"""The latency model learns from batches whose times are known."""

from __future__ import annotations

import random

import pytest

from server.scheduling.latency import MOST_KEYS, LatencyModel, rest_s


def learned(*batches: tuple[int, float], key: str = "") -> LatencyModel[str]:
    model = LatencyModel[str]()
    for items, seconds in batches:
        model.learn(key, items, seconds)
    return model


def test_nothing_is_expected_before_the_first_batch() -> None:
    assert LatencyModel[str]().run_s("", 8) == 0
    assert LatencyModel[str]().any_work_s(1000, 8) == 0


@pytest.mark.parametrize(
    ("batches", "items", "seconds"),
    [
        pytest.param([(1, 0.3), (4, 0.6), (8, 1.0)], 6, 0.8, id="line"),
        pytest.param([(1, 0.3), (8, 1.0)], 2, 0.4, id="line through two"),
        pytest.param([(4, 1.0)], 4, 1.0, id="one batch"),
        pytest.param([(4, 1.0)] * 9, 8, 2.0, id="always the same size: in proportion"),
        pytest.param([(1, 1.0), (2, 0.9), (4, 1.0), (8, 0.9)], 8, 0.95, id="no slower for more items"),
        pytest.param([(1, 0.1), (2, 0.4), (4, 0.8), (8, 1.6)], 2, 0.4, id="never below nothing"),
        pytest.param([(1, 0.0), (2, 0.0)], 2, 0.0, id="too fast to measure"),
    ],
)
def test_expected_seconds(batches: list[tuple[int, float]], items: int, seconds: float) -> None:
    assert learned(*batches).run_s("", items) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_noise(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.randint(1, 8) for _ in range(50)]
    model = learned(*((n, (0.1 * n + 0.2) * rng.uniform(0.8, 1.2)) for n in sizes))
    for items in (1, 4, 8):
        assert model.run_s("", items) == pytest.approx(0.1 * items + 0.2, rel=0.3)


@pytest.mark.parametrize("before", [0, 1, 5, 20])
def test_one_slow_batch_is_soon_forgotten(before: int) -> None:
    model = learned(*[(8, 0.8), (1, 0.1)] * before, (8, 80.0))
    if before >= 5:
        assert model.run_s("", 8) < 1.6
    for items, seconds in ((1, 0.1), (1, 0.1), (1, 0.1)):
        model.learn("", items, seconds)
    assert model.run_s("", 8) < 1.6


def test_a_machine_that_slows_down_for_good_is_noticed() -> None:
    model = learned(*[(8, 1.0)] * 30, *[(8, 2.0)] * 4)
    assert model.run_s("", 8) > 1.5
    for _ in range(20):
        model.learn("", 8, 10.0)
    assert model.run_s("", 8) == pytest.approx(10, rel=0.05)


def test_keys_have_lines_of_their_own_and_unknown_ones_that_of_all() -> None:
    model = learned(*[(2, 2.0)] * 3, key="large")
    for _ in range(3):
        model.learn("small", 2, 0.2)
    assert model.run_s("large", 4) == pytest.approx(4)
    assert model.run_s("small", 4) == pytest.approx(0.4)
    assert 0.4 <= model.run_s("unknown", 4) <= 4


def test_work_is_full_batches_and_a_rest() -> None:
    model = learned((1, 0.3), (4, 0.6), (8, 1.0))
    assert model.work_s("", 19, 8) == pytest.approx(1.0 + 1.0 + 0.5)
    assert model.any_work_s(8, 8) == pytest.approx(1.0)
    assert model.work_s("", 0, 8) == 0


def test_keys_that_no_longer_come_are_forgotten() -> None:
    model = learned((1, 1.0), key="old")
    for i in range(2 * MOST_KEYS):
        model.learn(str(i), 1, 0.1)
    assert model.run_s("old", 1) == pytest.approx(0.1)


@pytest.mark.parametrize(("elapsed_s", "rest"), [(0, 2), (1.5, 0.5), (2, 0), (7, 5)])
def test_rest_of_what_runs(elapsed_s: float, rest: float) -> None:
    assert rest_s(2, elapsed_s) == rest
