"""Box head and mask head. Shapes: R RoIs, C pyramid channels, P RoIAlign size, K classes with the background."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from export.model.config import HeadConfig


class BoxHead(nn.Module):
    """Convolutions, fully connected layers, then one predictor for the class and one for the deltas of each class.

    Matterport's 7x7 `valid` and 1x1 convolutions with BatchNorm are fully connected layers with BatchNorm.
    """

    def __init__(self, in_channels: int, roi_size: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        widths = (in_channels, *config.box_conv_widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=not config.box_norm) for a, b in pairwise(widths))
        fc_widths = (widths[-1] * roi_size**2, *config.box_fc_widths)
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(fc_widths))
        normed_convs = config.box_conv_widths if config.box_norm else ()
        normed_fcs = config.box_fc_widths if config.box_norm and not config.box_conv_widths else ()
        self.conv_norms = nn.ModuleList(nn.BatchNorm2d(w, eps=config.box_norm_eps) for w in normed_convs)
        self.fc_norms = nn.ModuleList(nn.BatchNorm2d(w, eps=config.box_norm_eps) for w in normed_fcs)
        self.class_logits = nn.Linear(fc_widths[-1], num_classes)
        self.deltas = nn.Linear(fc_widths[-1], num_classes * 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [R, K] and deltas [R, K, 4] (dx, dy, dw, dh) from RoI features [R, C, P, P]."""
        x = features
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.relu(self.conv_norms[i](x) if len(self.conv_norms) else x)
        x = x.flatten(1)
        for i, fc in enumerate(self.fcs):
            x = fc(x)
            if len(self.fc_norms):
                x = self.fc_norms[i](x[:, :, None, None]).flatten(1)
            x = F.relu(x)
        deltas: Tensor = self.deltas(x)
        return self.class_logits(x), deltas.reshape(x.shape[0], deltas.shape[1] // 4, 4)


class MaskHead(nn.Module):
    """3x3 convolutions, a 2x2/2 transposed convolution and a 1x1 predictor with a channel a class."""

    def __init__(self, in_channels: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        widths = (in_channels, *config.mask_conv_widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=config.mask_conv_bias) for a, b in pairwise(widths)
        )
        normed = config.mask_conv_widths if config.mask_norm else ()
        self.norms = nn.ModuleList(nn.BatchNorm2d(w, eps=config.box_norm_eps) for w in normed)
        self.deconv = nn.ConvTranspose2d(widths[-1], config.mask_deconv_width, 2, stride=2)
        self.logits = nn.Conv2d(config.mask_deconv_width, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Mask logits [R, K, 2P, 2P] from RoI features [R, C, P, P]; channel 0 is the background and unused."""
        x = features
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.relu(self.norms[i](x) if len(self.norms) else x)
        logits: Tensor = self.logits(F.relu(self.deconv(x)))
        return logits


def pick_class(mask_logits: Tensor, classes: Tensor) -> Tensor:
    """The channel of each RoI's class (int64 [R]) out of mask logits [R, K, S, S]: [R, S, S]."""
    return mask_logits[torch.arange(mask_logits.shape[0], device=classes.device), classes]
