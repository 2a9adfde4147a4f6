"""Whose statistics BatchNorm applies in training."""

from __future__ import annotations

from torch import nn

from export.model.mask_rcnn import MaskRCNN
from export.training.norms import set_norm_mode
from tests.export.training.small import small_model_config


def test_frozen_norms_apply_what_they_have_stored() -> None:
    model = MaskRCNN(small_model_config())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    set_norm_mode(model, train_bn=False)
    assert norms
    assert not any(m.training for m in norms)
    assert model.training
    set_norm_mode(model, train_bn=True)
    assert all(m.training for m in norms)
