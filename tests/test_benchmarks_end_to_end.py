"""benchmarks/gpu/end_to_end.py without a GPU: what counts as agreement, turns and rows, pictures, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.gpu import contestants, end_to_end
from benchmarks.gpu.contestants import Found
from benchmarks.gpu.kernel_library import BenchmarkError
from server.engines.fake import FakeEngine
from server.pipeline import Pipeline
from server.repository import load_bundle


def test_agreement_is_of_class_place_and_score() -> None:
    one = Found(3, 0.9, (0.0, 0.0, 100.0, 100.0))
    same = Found(3, 0.87, (0.0, 0.0, 100.0, 95.0))
    expected = [[one], [one, Found(1, 0.1, (0.0, 0.0, 5.0, 5.0))]]
    assert contestants.agreement(expected, [[same], [same]], 0.5) == 1.0
    for other in (
        Found(2, 0.9, one.box),
        Found(3, 0.8, one.box),
        Found(3, 0.9, (0.0, 0.0, 100.0, 85.0)),
        Found(3, 0.9, (200.0, 0.0, 300.0, 100.0)),
    ):
        assert contestants.agreement(expected, [[same], [other]], 0.5) == 0.5
    assert contestants.agreement(expected, [[], []], 0.5) == 0.0
    assert contestants.agreement([[], []], [[one], []], 0.5) == 1.0


def test_engines_are_compared_and_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(end_to_end, "REPETITIONS", 2)
    card = load_bundle(Path(__file__).parents[1] / "models" / "demo").card
    entered = [(contestants.engine(name, Pipeline(FakeEngine(card))), "fp32") for name in ("one", "two")]
    pictures = end_to_end.read_pictures(None)
    rows, agreed = end_to_end.compare(entered, pictures)
    assert agreed
    assert "two: 100.0% of the detections of one found" in capsys.readouterr().out
    cases = [f"{what}, batch {batch}" for batch in (1, 8) for what in ("picture to answer", "network alone")]
    assert [(row["case"], row["variant"]) for row in rows] == [
        (case, name) for case in cases for name in ("one", "two")
    ]


def test_an_engine_that_finds_something_else_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "BATCHES", (1,))
    monkeypatch.setattr(end_to_end, "REPETITIONS", 1)

    def contestant(box: tuple[float, ...]) -> contestants.Contestant:
        return contestants.Contestant(
            "c", lambda pictures: [[Found(1, 0.9, box)] for _ in pictures], lambda _: lambda: 0
        )

    entered = [(contestant((0.0, 0.0, 9.0, 9.0)), "fp32"), (contestant((50.0, 0.0, 59.0, 9.0)), "fp16")]
    assert not end_to_end.compare(entered, end_to_end.read_pictures(None))[1]


def test_pictures_of_a_folder_are_of_one_size_and_fill_the_batch(tmp_path: Path) -> None:
    for i, size in enumerate([(30, 20), (40, 20), (40, 20)]):
        Image.new("RGB", size, (i, 0, 0)).save(tmp_path / f"{i}.png")
    pictures = end_to_end.read_pictures(tmp_path)
    assert [(picture.shape, int(picture[0, 0, 0])) for picture in pictures] == [((20, 40, 3), 1), ((20, 40, 3), 2)] * 4
    with pytest.raises(BenchmarkError, match="not a folder"):
        end_to_end.read_pictures(tmp_path / "0.png")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_whole_model_needs_a_gpu_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_to_end.main(["--bundle", "models/demo"]) == 2
    assert "finds no NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        end_to_end.main([])
