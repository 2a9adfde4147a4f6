"""The kernels against the reference in float64, on small inputs of every kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu import inputs, reference
from benchmarks.gpu.kernel_library import KernelLibrary, Nms, RoiAlign

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_TOLERANCE = 2e-4
"""Features are normal; float32 places a sample to some 1e-5 of a pixel."""

HALF_TOLERANCE = 2e-3
"""The same, and a result below 4 rounded to float16."""

CANVAS = 512

Stream = Callable[[], int]


@dataclass(frozen=True)
class Check:
    """What was compared, whether it agrees, and how well."""

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok    ' if self.passed else 'FAILED'} {self.name}: {self.detail}"


@dataclass(frozen=True)
class NmsCase:
    """Inputs and attributes."""

    name: str
    images: int
    each: int
    groups: int
    settings: Nms
    part_above: float = 0.5
    ties: bool = True


NMS_CASES = (
    NmsCase("one box", 1, 1, 1, Nms(0.5, 4)),
    NmsCase("more rows than boxes", 2, 37, 3, Nms(0.5, 64)),
    NmsCase("nothing above the threshold", 2, 100, 2, Nms(0.5, 10, score_threshold=0.99)),
    NmsCase("ties", 8, 1000, 1, Nms(0.5, 100)),
    NmsCase("groups of a pyramid", 2, 4741, 5, Nms(0.7, 1000)),
    NmsCase("few of many", 2, 20000, 80, Nms(0.5, 100, score_threshold=0.5), part_above=0.01),
    NmsCase("best of many", 1, 30000, 1, Nms(0.7, 300, pre_nms_topk=6000)),
)

ROI_CASES = (
    RoiAlign(7, 2, aligned=False),
    RoiAlign(14, 2, aligned=True),
    RoiAlign(7, 0, aligned=True),
    RoiAlign(14, 1, aligned=False, level_rule="round"),
)

CHANNELS = (3, 20, 256)


def run_checks(
    library: KernelLibrary, device: str, stream: Stream, seeds: int, roi_count: int = 40, largest: int = 2**31
) -> Iterator[Check]:
    """Every check on every seed; of NMS the cases of at most `largest` boxes an image."""
    for case, seed in itertools.product(NMS_CASES, range(seeds)):
        if case.each <= largest:
            yield check_nms(library, device, stream, case, seed)
    for settings, channels, half, seed in itertools.product(ROI_CASES, CHANNELS, (False, True), range(seeds)):
        yield check_roi_align(library, device, stream, settings, (channels, roi_count), half, seed)


def check_nms(library: KernelLibrary, device: str, stream: Stream, case: NmsCase, seed: int) -> Check:
    """The rows are to be the reference's, and the same twice."""
    given = inputs.candidates(case.images, case.each, case.groups, seed, case.part_above, case.ties)
    settings = case.settings
    arrays = (given.boxes.numpy(), given.scores.numpy(), given.groups.numpy())
    expected = reference.nms(
        *arrays, settings.iou_threshold, settings.max_output, settings.score_threshold, settings.pre_nms_topk
    )
    there = given.to(device)
    first, second = (run_nms(library, there, settings, stream()).cpu().numpy() for _ in range(2))
    wrong = int((first != expected).any(axis=1).sum())
    name = f"NMS, {case.name} ({case.images} x {case.each}, {case.groups} groups), seed {seed}"
    kept = int((expected[:, 1] >= 0).sum())
    steady = "" if np.array_equal(first, second) else ", not the same twice"
    return Check(name, not wrong and not steady, f"{wrong} of {len(expected)} rows differ, {kept} kept{steady}")


def run_nms(library: KernelLibrary, given: inputs.Boxes, settings: Nms, stream: int) -> Tensor:
    """Rows (image, index) [N * max_output, 2]."""
    import torch

    images, each = given.scores.shape
    kept = torch.empty(images * settings.max_output, 2, dtype=torch.int64, device=given.boxes.device)
    needed = library.nms_workspace_bytes(images, each, settings)
    workspace = torch.empty(needed, dtype=torch.uint8, device=given.boxes.device)
    library.nms(given.boxes, given.scores, given.groups, settings, kept, workspace, stream)
    return kept


def check_roi_align(
    library: KernelLibrary,
    device: str,
    stream: Stream,
    settings: RoiAlign,
    channels_and_rois: tuple[int, int],
    half: bool,
    seed: int,
) -> Check:
    channels, count = channels_and_rois
    features = inputs.pyramid(2, channels, CANVAS, seed)
    features = [level.half().float() for level in features] if half else features
    given = inputs.rois(2, count // 2, CANVAS, seed + 1000)
    rule = (settings.output_size, settings.sampling_ratio, settings.aligned, settings.level_rule)
    expected = reference.roi_align(features, given.boxes, given.image_index, *rule)
    levels = [in_layout(level, half).to(device) for level in features]
    result = run_roi_align(library, levels, given.to(device), settings, stream())
    worst = float((as_nchw(result.cpu(), half, channels).double() - expected).abs().max())
    tolerance = HALF_TOLERANCE if half else FLOAT_TOLERANCE
    name = f"RoIAlign {'float16' if half else 'float32'}, C = {channels}, {settings}, seed {seed}"
    return Check(name, worst <= tolerance, f"off by at most {worst:.1e} (allowed: {tolerance:.0e})")


def run_roi_align(
    library: KernelLibrary, levels: list[Tensor], given: inputs.Rois, settings: RoiAlign, stream: int
) -> Tensor:
    out = roi_output(levels, len(given.boxes), settings)
    library.roi_align(levels, given.boxes, given.image_index, settings, out, stream)
    return out


def roi_output(levels: list[Tensor], count: int, settings: RoiAlign) -> Tensor:
    """Room for the result: [R, C, P, P] for float32 levels, [R, P, P, C] for float16 ones."""
    side, level = (settings.output_size, settings.output_size), levels[0]
    shape = (count, *side, level.shape[3]) if level.element_size() == 2 else (count, level.shape[1], *side)
    return level.new_empty(shape)


def in_layout(level: Tensor, half: bool) -> Tensor:
    """A float32 level [N, C, H, W] as the kernel takes it; in half [N, H, W, C], C a multiple of 8, filled with 0."""
    import torch

    if not half:
        return level.contiguous()
    padded = torch.nn.functional.pad(level, (0, 0, 0, 0, 0, -level.shape[1] % 8))
    return padded.permute(0, 2, 3, 1).contiguous().half()


def as_nchw(result: Tensor, half: bool, channels: int) -> Tensor:
    return result.permute(0, 3, 1, 2)[:, :channels] if half else result
