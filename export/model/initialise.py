"""Weights of a new model."""

from __future__ import annotations

from torch import nn


def initialise(model: nn.Module) -> None:
    """Draw the weights of a `MaskRCNN` from torch's global generator.

    Kaiming normal for ReLU: fan-out for convolutions, fan-in for fully connected layers. The pyramid, which has no
    ReLU: Kaiming uniform with gain 1. RPN and predictors: normal with 0.01, box deltas 0.001. Biases are zero.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _draw(name, module)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _draw(name: str, module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    part, leaf = name.split(".")[0], name.split(".")[-1]
    if name == "box_head.deltas":
        nn.init.normal_(module.weight, std=0.001)
    elif part == "rpn_head" or leaf in {"class_logits", "logits"}:
        nn.init.normal_(module.weight, std=0.01)
    elif part == "fpn":
        nn.init.kaiming_uniform_(module.weight, a=1)
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    else:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
