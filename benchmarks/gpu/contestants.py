"""Who answers pictures in end_to_end.py: torchvision's own model, and a bundle through an engine.

Shape shorthand: N pictures of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.kernel_library import BenchmarkError

if TYPE_CHECKING:
    import torch

    from export.weights import Imported
    from server.pictures.decode import Picture
    from server.pipeline import Pipeline

MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Found:
    """One detection; box x1, y1, x2, y2 in pixels of the picture."""

    class_id: int
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class Contestant:
    """`answer`: from pictures to what is found in each, masks of the picture's size (ours as run lengths) included.

    `network` prepares pictures, and gives what then runs the network alone, from host memory to host memory.
    """

    name: str
    answer: Callable[[Sequence[Picture]], list[list[Found]]]
    network: Callable[[Sequence[Picture]], Callable[[], object]]


def engine(name: str, pipeline: Pipeline) -> Contestant:
    """A bundle in one of the server's engines."""

    def answer(pictures: Sequence[Picture]) -> list[list[Found]]:
        canvases = [pipeline.prepare(picture) for picture in pictures]
        return [_found(pipeline, *pair) for pair in zip(canvases, pipeline.infer(canvases), strict=True)]

    def network(pictures: Sequence[Picture]) -> Callable[[], object]:
        canvases = [pipeline.prepare(picture) for picture in pictures]
        images: Any = np.stack([canvas.image for canvas in canvases])
        windows = np.array([canvas.window_xyxy for canvas in canvases], np.float32)
        return lambda: pipeline.engine.infer(images, windows)

    return Contestant(name, answer, network)


def _found(pipeline: Pipeline, canvas: Any, detections: Any) -> list[Found]:
    from server.contract.wire import PredictOptions

    options = PredictOptions(score_threshold=pipeline.card.output.score_threshold)
    answered = pipeline.finish(canvas, detections, options).detections
    return [Found(one.class_id, one.score, one.box) for one in answered]


def torchvision_eager(name: str, model: torch.nn.Module, half: bool) -> Contestant:
    """torchvision's model on the GPU as its users run it; in half precision through autocast."""
    import torch

    torch.backends.cudnn.allow_tf32 = False  # on by default; fp32 is fp32 in the engines as well

    def precision() -> AbstractContextManager[object]:
        return torch.autocast("cuda", torch.float16) if half else nullcontext()

    def answer(pictures: Sequence[Picture]) -> list[list[Found]]:
        with torch.inference_mode(), precision():
            answers = model([_on_gpu(picture) for picture in pictures])
        masks = [(one["masks"][:, 0] > MASK_THRESHOLD).cpu() for one in answers]
        return [_found_by_torchvision(one, len(mask)) for one, mask in zip(answers, masks, strict=True)]

    def network(pictures: Sequence[Picture]) -> Callable[[], object]:
        # A part of the model, which PyTorch types as a tensor or a module.
        images, _ = model.transform([_on_gpu(picture) for picture in pictures])  # type: ignore[operator]
        host = images.tensors.cpu()
        return lambda: _network(model, images, host, precision)

    return Contestant(name, answer, network)


def _network(model: Any, images: Any, host: torch.Tensor, precision: Callable[[], Any]) -> list[Any]:
    import torch

    with torch.inference_mode(), precision():
        images.tensors = host.cuda()
        features = model.backbone(images.tensors)
        proposals, _ = model.rpn(images, features)
        detections, _ = model.roi_heads(features, proposals, images.image_sizes)
        return [{name: tensor.cpu() for name, tensor in one.items()} for one in detections]


def _on_gpu(picture: Picture) -> torch.Tensor:
    import torch

    return torch.from_numpy(picture).cuda().permute(2, 0, 1).float() / 255


def _found_by_torchvision(answer: dict[str, torch.Tensor], count: int) -> list[Found]:
    labels, scores, boxes = (answer[name].float().cpu().tolist() for name in ("labels", "scores", "boxes"))
    return [Found(int(labels[i]), scores[i], tuple(boxes[i])) for i in range(count)]


def torchvision_model(imported: Imported) -> torch.nn.Module:
    """torchvision's model with the file's weights and the limits that Maskline takes for it, on the GPU.

    Raises `BenchmarkError`: torchvision is not there, or the weights are not of one of its two published models.
    """
    try:
        from torchvision.models import detection
        from torchvision.ops.misc import FrozenBatchNorm2d
    except ImportError as error:
        raise BenchmarkError("torchvision is not installed; --bundle compares engines without it.") from error
    from export.weights.files import read

    config, tensors = imported.model.config, read(imported.path).tensors
    limits = {
        "num_classes": len(config.classes),
        "min_size": config.input.min_size,
        "max_size": config.input.max_size,
        "box_score_thresh": config.detection.score_threshold,
        "box_detections_per_img": config.detection.max_detections,
    }
    for builder in (detection.maskrcnn_resnet50_fpn, detection.maskrcnn_resnet50_fpn_v2):
        model: torch.nn.Module = builder(weights=None, weights_backbone=None, **limits)
        for layer in model.modules():
            if isinstance(layer, FrozenBatchNorm2d):
                layer.eps = config.backbone.bn_eps
        try:
            model.load_state_dict(dict(tensors))
        except RuntimeError:
            continue  # of the other one
        return model.eval().cuda()
    raise BenchmarkError(
        f"{imported.path} is not of torchvision's maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2; build a bundle of "
        "it and give --bundle, which compares engines."
    )


def agreement(expected: Sequence[Sequence[Found]], answers: Sequence[Sequence[Found]], least_score: float) -> float:
    """The part of the expected detections with such a score that have a partner: same class, IoU of 0.9, and a score
    within 0.05. 1 where none is expected."""
    wanted = [(one, found) for ones, found in zip(expected, answers, strict=True) for one in ones]
    wanted = [(one, found) for one, found in wanted if one.score >= least_score]
    agreeing = sum(any(_agree(one, other) for other in found) for one, found in wanted)
    return agreeing / len(wanted) if wanted else 1.0


def _agree(one: Found, other: Found) -> bool:
    return one.class_id == other.class_id and abs(one.score - other.score) <= 0.05 and _iou(one.box, other.box) >= 0.9


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0
