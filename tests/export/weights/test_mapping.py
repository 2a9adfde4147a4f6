"""Filling a model: what is refused beside names and shapes, which the families' tests cover."""

from __future__ import annotations

import pytest
import torch

from export.model.mask_rcnn import MaskRCNN
from export.weights import UnsupportedWeightsError
from export.weights.files import Tensors
from export.weights.mapping import fill, sources


def test_whole_numbers_are_no_weights(tiny_model: MaskRCNN) -> None:
    tensors = Tensors("q.pth", dict(tiny_model.state_dict()))
    tensors["box_head.deltas.bias"] = torch.zeros(12, dtype=torch.int8)
    with pytest.raises(UnsupportedWeightsError, match=r"q\.pth: box_head\.deltas\.bias holds whole numbers"):
        fill(tiny_model, tensors, sources(tensors, ()))
