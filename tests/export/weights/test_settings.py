"""Where a value comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.weights import WeightsConfigError
from export.weights.settings import Given, Setting, Settings, read_config_file


def settings(**values: object) -> Settings:
    return Settings(Given(config=Path("dir/mine.yaml"), min_size=64), values)


def test_a_flag_is_stronger_than_the_configuration_and_that_than_the_default() -> None:
    asked = settings(min_size=100, INPUT={"MAX": 200})
    assert asked.take("min_size", 800, flag="min_size") == 64
    assert asked.take("INPUT.MAX", 1333, flag="max_size") == 200
    assert asked.take("INPUT.OTHER", 0.5) == 0.5
    assert asked.taken == [
        Setting("min_size", 64, "--min-size"),
        Setting("INPUT.MAX", 200, "mine.yaml"),
        Setting("INPUT.OTHER", 0.5, "default"),
    ]


def test_values_take_the_type_of_the_default() -> None:
    asked = settings(whole=1, listed=[1, [2, 3]])
    taken = asked.take("whole", 0.5)
    assert (taken, type(taken)) == (1.0, float)
    assert asked.take("listed", (0,)) == (1, (2, 3))


@pytest.mark.parametrize(
    ("value", "default"),
    [("wide", 800), (1.5, 800), (True, 800), (800, "word"), (3, (1, 2)), ([1], 1.0), (1, False)],
)
def test_a_value_of_another_type_is_named(value: object, default: int) -> None:
    with pytest.raises(WeightsConfigError, match=r"mine\.yaml: size is .*; it should be like"):
        settings(size=value).take("size", default)


def test_what_cannot_be_rebuilt_and_what_contradicts_the_weights() -> None:
    asked = settings(POOLER="ROIPool", CLASSES=80, STRIDES=[4, 8])
    asked.expect("ABSENT", 1)
    asked.expect("STRIDES", (4, 8))
    asked.check("ABSENT", 6)
    asked.check("STRIDES", (4, 8))
    with pytest.raises(WeightsConfigError, match=r"mine\.yaml: POOLER is 'ROIPool'; only 'ROIAlign' or 'V2' can be"):
        asked.expect("POOLER", "ROIAlign", "V2")
    with pytest.raises(WeightsConfigError, match=r"mine\.yaml says CLASSES 80, but the weights have 6\."):
        asked.check("CLASSES", 6)


def test_names_that_nobody_asked_for() -> None:
    asked = settings(A=1, B={"C": 2, "D": 3}, SOLVER={"LR": 1, "STEPS": {"X": 1}}, LIST=[1])
    asked.take("A", 0)
    asked.take("B.C", 0)
    asked.take("LIST", (0,))
    asked.ignore("SOLVER")
    assert asked.unused() == ("B.D",)


def test_a_configuration_of_something_else() -> None:
    asked = settings(epochs=3, data={"path": "x"})
    asked.take("min_size", 800)
    with pytest.raises(WeightsConfigError, match=r"mine\.yaml says nothing that these weights ask for"):
        asked.unused()
    assert Settings(Given()).unused() == ()


def test_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("INPUT: {MIN: 256}\nmean: [1.5, 2]\n")
    (tmp_path / "a.json").write_text('{"bn_eps": 1e-05}')
    assert read_config_file(tmp_path / "a.yaml") == {"INPUT": {"MIN": 256}, "mean": [1.5, 2]}
    assert read_config_file(tmp_path / "a.json") == {"bn_eps": 1e-05}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "a: [1"),
        ("a.json", "{'a': 1}"),
        ("a.yaml", "- 1"),
        ("a.yaml", ""),
        ("a.yaml", "!!python/name:os.system"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsConfigError, match=name):
        read_config_file(tmp_path / name)


def test_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsConfigError, match="cannot be read as a configuration"):
        read_config_file(tmp_path / "absent.yaml")
