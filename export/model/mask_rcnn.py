"""Mask R-CNN: one module for every family, told apart by `ModelConfig` alone.

Shapes: N images, H x W canvas, A anchors, K proposals an image, R RoIs, M detections over the batch, S mask side.
Boxes are (x1, y1, x2, y2) in canvas pixels, x2 and y2 exclusive. With `corner_coordinates` (Matterport) every box
between the RPN and `forward`'s output is in corner coordinates instead: x2 and y2 name the last pixel, so add one to
both for the exclusive box; windows are always exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from export.model.anchors import Anchors
from export.model.config import ModelConfig
from export.model.detections import detect
from export.model.fpn import FeaturePyramid
from export.model.heads import BoxHead, MaskHead, pick_class
from export.model.initialise import initialise
from export.model.resnet import ResNet
from export.model.roi_align import pyramid_roi_align
from export.model.rpn import Proposals, RpnHead, RpnOutput, propose


class MaskRCNN(nn.Module):
    """The network and its inference. Training calls the parts; `forward` is what is exported."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, classes = config.fpn.channels, config.num_classes
        self.backbone = ResNet(config.backbone)
        self.fpn = FeaturePyramid(self.backbone.out_channels, config.fpn)
        self.rpn_head = RpnHead(channels, config.rpn)
        self.box_head = BoxHead(channels, config.roi_align.box_output_size, classes, config.heads)
        self.mask_head = MaskHead(channels, classes, config.heads)
        self.anchor_generator = Anchors(config.rpn, corner_coordinates=config.corner_coordinates)
        self.register_buffer("mean", torch.tensor(config.input.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.input.std), persistent=False)
        initialise(self)

    def forward(self, images: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Detections [M, 7] and masks [M, S, S] of `images` [N, H, W, 3] RGB 0..255 (uint8 or float32).

        `windows` float32 [N, 4] is the picture inside each canvas, in pixels; H and W are multiples of 32. A detection
        is (image, x1, y1, x2, y2, score, class), grouped by image, by falling score; a mask holds the probabilities
        of that class over the box. M is at least 1: rows of score 0 are padding.
        """
        pyramid = self.pyramid(self.preprocess(images, windows))
        canvas_hw = (images.shape[1], images.shape[2])
        proposals = self.propose(self.rpn(pyramid), self.anchors(pyramid), windows, canvas_hw)
        batch, size = proposals.valid.shape
        image_index = torch.arange(batch, device=images.device)[:, None].expand(batch, size).reshape(-1)
        features = self.box_features(pyramid, proposals.boxes.reshape(-1, 4), image_index)
        class_logits, deltas = self.box_head(features)
        detections = detect(class_logits.float(), deltas.float(), proposals, self._frame(windows), self.config)
        # Detections carry the image and the class as float32, exact far beyond any count of either.
        roi_features = self.mask_features(pyramid, detections[:, 1:5], detections[:, 0].to(torch.int64))
        mask_logits = pick_class(self.mask_head(roi_features), detections[:, 6].to(torch.int64))
        return detections, mask_logits.float().sigmoid()

    def preprocess(self, images: Tensor, windows: Tensor) -> Tensor:
        """Images [N, H, W, 3] as the network's input [N, 3, H, W] float32: (x - mean) / std.

        Outside `windows` [N, 4] the result is zero, or what black gives (`InputConfig.padding`).
        """
        normalised = (images.to(torch.float32) - self.mean) / self.std
        if self.config.input.padding == "zero":
            normalised = normalised * self._inside(windows, images.shape[1], images.shape[2])
        return normalised.permute(0, 3, 1, 2)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """P2..P6, [N, C, H / s, W / s] rounded up for s = 4, 8, 16, 32, 64, from [N, 3, H, W].

        They are of the weights' type, as all is up to the RoI features; `export.graph.precision` makes that float16.
        """
        return cast(list[Tensor], self.fpn(self.backbone(x.to(self.backbone.stem.conv.weight.dtype))))

    def rpn(self, pyramid: Sequence[Tensor]) -> RpnOutput:
        """Objectness and deltas of every anchor, float32; the levels follow each other."""
        output = cast(RpnOutput, self.rpn_head(pyramid))
        return output._replace(logits=output.logits.float(), deltas=output.deltas.float())

    def anchors(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Anchors [A, 4] in canvas pixels, in the order of `rpn`."""
        return cast(Tensor, self.anchor_generator(pyramid))

    def level_index(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The level 0..4 (P2..P6) of each anchor, int64 [A]."""
        return self.anchor_generator.level_index(pyramid)

    @torch.no_grad()
    def propose(
        self,
        rpn_output: RpnOutput,
        anchors: Tensor,
        windows: Tensor,
        canvas_hw: tuple[int, int],
        post_nms_topk: int | None = None,
        pre_nms_topk: int | None = None,
    ) -> Proposals:
        """Proposals without gradient; the limits are the configuration's unless given. `windows` [N, 4]."""
        if self.config.rpn.clip == "canvas":
            height, width = canvas_hw
            far = torch.stack((torch.full_like(windows[:, 0], width), torch.full_like(windows[:, 0], height)), dim=1)
            windows = torch.cat((torch.zeros_like(far), far), dim=1)
        return propose(
            rpn_output,
            anchors,
            self._frame(windows),
            self.config.rpn,
            post_nms_topk=post_nms_topk,
            pre_nms_topk=pre_nms_topk,
        )

    def box_features(self, pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoI features [R, C, 7, 7] for the box head, of boxes [R, 4] of the images `image_index` int64 [R]."""
        return self._roi_features(pyramid, boxes, image_index, self.config.roi_align.box_output_size)

    def mask_features(self, pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """RoI features [R, C, 14, 14] for the mask head, of boxes [R, 4] of the images `image_index` int64 [R]."""
        return self._roi_features(pyramid, boxes, image_index, self.config.roi_align.mask_output_size)

    def _roi_features(self, pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor, size: int) -> Tensor:
        align = self.config.roi_align
        return pyramid_roi_align(
            pyramid,
            boxes,
            image_index,
            output_size=size,
            sampling_ratio=align.sampling_ratio,
            aligned=align.aligned,
            crop_and_resize=align.crop_and_resize,
            level_rule=align.level_rule,
        )

    def _frame(self, windows: Tensor) -> Tensor:
        """Exclusive windows in the model's own frame."""
        return torch.cat((windows[:, :2], windows[:, 2:] - 1.0), dim=1) if self.config.corner_coordinates else windows

    def _inside(self, windows: Tensor, height: int, width: int) -> Tensor:
        """1.0 for pixels whose centre is in the window, else 0.0: [N, H, W, 1]."""
        x = torch.arange(width, device=windows.device) + 0.5
        y = torch.arange(height, device=windows.device) + 0.5
        in_x = (x >= windows[:, 0:1]) & (x < windows[:, 2:3])
        in_y = (y >= windows[:, 1:2]) & (y < windows[:, 3:4])
        return (in_y[:, :, None] & in_x[:, None, :])[..., None].to(torch.float32)
