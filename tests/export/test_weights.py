"""Reading checkpoints: what loads, and the sentence for what does not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from export.model.mask_rcnn import MaskRCNN
from export.weights import (
    MismatchedWeightsError,
    MissingWeightsError,
    UnrecognisedWeightsError,
    WeightsError,
    load,
)


def values_of(model: MaskRCNN) -> dict[str, Any]:
    return {"maskline_checkpoint": 1, "config": model.config.to_dict(), "model": dict(model.state_dict())}


def test_a_checkpoint_gives_its_model_in_eval_mode(checkpoint: Path, tiny_model: MaskRCNN) -> None:
    model = load(str(checkpoint))
    assert not model.training
    assert model.config == tiny_model.config
    expected = tiny_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"There is no weights file .*absent\.pt\."):
        load(tmp_path / "absent.pt")


def test_a_folder_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello, I am a text file\n", id="text"),
        pytest.param(b"PK\x03\x04 and then nothing", id="broken zip"),
        pytest.param(b"\x80\x04garbage", id="broken pickle"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UnrecognisedWeightsError, match="not a checkpoint of plain tensors"):
        load(path)


def test_a_truncated_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(checkpoint.read_bytes()[:20_000])
    with pytest.raises(UnrecognisedWeightsError):
        load(path)


class Touch:
    """Unpickles by running code: creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_not_run(tmp_path: Path, save: Any) -> None:
    save({"maskline_checkpoint": 1, "config": Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UnrecognisedWeightsError):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"maskline_checkpoint": 2}, "of format 2; this version reads format 1", id="later format"),
        pytest.param({"config": {"classes": ["background", "a"], "depht": 1}}, "depht", id="unknown setting"),
        pytest.param({"config": None}, "configuration", id="no configuration"),
        pytest.param({"model": None}, "has no tensors", id="no tensors"),
    ],
)
def test_a_checkpoint_that_this_version_cannot_read(
    tmp_path: Path, tiny_model: MaskRCNN, change: dict[str, Any], sentence: str
) -> None:
    torch.save(values_of(tiny_model) | change, tmp_path / "best.pt")
    with pytest.raises(UnrecognisedWeightsError, match=sentence):
        load(tmp_path / "best.pt")


def test_the_weights_of_something_else(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UnrecognisedWeightsError, match="not a Maskline checkpoint"):
        load(tmp_path / "other.pth")


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
    assert isinstance(error, WeightsError)


def test_a_long_list_of_tensors_is_cut_short_in_the_message(tmp_path: Path, tiny_model: MaskRCNN) -> None:
    torch.save(values_of(tiny_model) | {"model": {}}, tmp_path / "best.pt")
    with pytest.raises(MismatchedWeightsError, match=r"backbone\.stem\.conv\.weight, .* and \d+ more\.$"):
        load(tmp_path / "best.pt")
