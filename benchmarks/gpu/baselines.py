"""torchvision's CUDA operators doing the plugins' work, and the device's own copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.gpu import reference
from benchmarks.gpu.inputs import Boxes, Rois
from benchmarks.gpu.kernel_library import BenchmarkError, Nms, RoiAlign

if TYPE_CHECKING:
    from torch import Tensor

MIB = 2**20

SCRUB_BYTES = 512 * MIB
"""More than any L2 holds."""

HEAD_START = 2_000_000
"""Cycles that the GPU idles, about a millisecond, while the CPU enqueues what is timed."""


def roi_align(features: Sequence[Tensor], rois: Rois, settings: RoiAlign) -> Callable[[], Tensor]:
    """As torchvision's MultiScaleRoIAlign works: an operator a level, and the results put back in order.

    Which RoI is on which level is known beforehand, which is in torchvision's favour. Features [N, C, H, W]; RoIs take
    their type, as the operator wants.
    """
    import torch
    from torchvision.ops import roi_align as one_level

    levels = torch.from_numpy(reference.roi_levels(rois.boxes.cpu().double().numpy(), len(features), "floor"))
    chosen = [(levels == level).nonzero()[:, 0].to(features[0].device) for level in range(len(features))]
    indexed = torch.cat([rois.image_index[:, None].float(), rois.boxes], dim=1).to(features[0].dtype)
    parts = [indexed[rows].contiguous() for rows in chosen]
    side, rest = settings.output_size, (settings.sampling_ratio, settings.aligned)

    def run() -> Tensor:
        result = features[0].new_empty(len(indexed), features[0].shape[1], side, side)
        for level, (feature, rows, boxes) in enumerate(zip(features, chosen, parts, strict=True)):
            result[rows] = one_level(feature, boxes, side, 0.25 / 2**level, *rest)
        return result

    return run


def nms(given: Boxes, settings: Nms) -> list[Tensor]:
    """Indices kept of each image, by torchvision's batched_nms on what passes the threshold and the limit."""
    return [
        _nms_of_image(boxes, scores, groups, settings)
        for boxes, scores, groups in zip(given.boxes, given.scores, given.groups, strict=True)
    ]


def _nms_of_image(boxes: Tensor, scores: Tensor, groups: Tensor, settings: Nms) -> Tensor:
    from torchvision.ops import batched_nms

    if settings.pre_nms_topk:
        candidates = scores.topk(min(settings.pre_nms_topk, len(scores))).indices
        candidates = candidates[scores[candidates] > settings.score_threshold]
    else:
        candidates = (scores > settings.score_threshold).nonzero()[:, 0]
    kept = batched_nms(boxes[candidates], scores[candidates], groups[candidates], settings.iou_threshold)
    result: Tensor = candidates[kept[: settings.max_output]]
    return result


class GpuTimer:
    """Microseconds between two CUDA events; `cold`: with an L2 that holds nothing of the inputs."""

    def __init__(self, cold: bool) -> None:
        import torch

        self._scrub = torch.empty(SCRUB_BYTES if cold else 0, dtype=torch.uint8, device="cuda")
        # PyTorch does not type its events, nor the sleep below.
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], object]) -> float:
        import torch

        self._scrub.fill_(1)
        torch.cuda._sleep(HEAD_START)  # type: ignore[no-untyped-call]
        self._start.record()
        work()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e3


def copy_gb_s() -> float:
    """Bytes read and written by a copy within the device's memory, in 1e9 a second."""
    import torch

    source = torch.empty(1024 * MIB, dtype=torch.uint8, device="cuda").fill_(1)
    target, timer = torch.empty_like(source), GpuTimer(cold=False)
    target.copy_(source)
    times = [timer(lambda: target.copy_(source)) for _ in range(20)]
    return 2 * source.nbytes / (statistics.median(times) * 1e3)


def check_gpu() -> str:
    """The machine, in words. Raises `BenchmarkError` where there is no PyTorch or no GPU for it."""
    try:
        import torch
    except ImportError as error:
        raise BenchmarkError(
            "PyTorch is not installed. Install a build of it for CUDA: pytorch.org says how."
        ) from error
    if not torch.cuda.is_available():
        raise BenchmarkError(
            f"PyTorch {torch.__version__} finds no NVIDIA GPU here. nvidia-smi says what the driver sees; "
            "torch.version.cuda is None for a build without CUDA."
        )
    properties = torch.cuda.get_device_properties(0)
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, PyTorch {torch.__version__}, "
        f"CUDA {torch.version.cuda}"
    )
