"""The CUDA kernels of the TensorRT plugins: are they right, and how fast are they beside torchvision's?

    python benchmarks/gpu/kernels.py [--json FILE]      check, then time
    python benchmarks/gpu/kernels.py --checks           check only
    python benchmarks/gpu/kernels.py --sanitizer        the checks under NVIDIA's compute-sanitizer

Needs an NVIDIA GPU, nvcc and PyTorch; torchvision to compare with; no TensorRT, no network, no installation. Exit
status: 0 done, 1 a check failed, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project need not be installed

from benchmarks.gpu import baselines, checks, inputs, measuring
from benchmarks.gpu.kernel_library import BenchmarkError, KernelLibrary, Nms, RoiAlign, build

if TYPE_CHECKING:
    from torch import Tensor

OURS, THEIRS = "maskline", "torchvision"
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SETS = 5
REPETITIONS = 20
CANVAS = 1024
CHANNELS = 256


@dataclass(frozen=True)
class NmsTiming:
    """One case of NMS to be timed."""

    name: str
    images: int
    each: int
    groups: int
    settings: Nms
    part_above: float = 1.0


@dataclass(frozen=True)
class RoiTiming:
    """One case of RoIAlign to be timed: `each` RoIs of each of 8 images."""

    name: str
    each: int
    settings: RoiAlign
    half: bool


NMS_TIMINGS = (
    NmsTiming("NMS 8 x 1000", 8, 1000, 1, Nms(0.5, 100)),
    NmsTiming("NMS 8 x 4741, 5 groups", 8, 4741, 5, Nms(0.7, 1000)),
    NmsTiming("NMS 8 x 80000, 1 % above threshold", 8, 80000, 80, Nms(0.5, 100, score_threshold=0.5), 0.01),
    NmsTiming("NMS 1 x 261888, best 6000", 1, 261_888, 1, Nms(0.7, 1000, pre_nms_topk=6000)),
)

ROI_TIMINGS = tuple(
    RoiTiming(f"RoIAlign 8 x {each}, {side} x {side}, {kind}", each, RoiAlign(side), kind == "float16")
    for each, side in ((1000, 7), (100, 14))
    for kind in ("float16", "float32")
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        machine = baselines.check_gpu()
        print(machine)
        return _sanitize() if arguments.sanitizer else _run(arguments, machine)
    except BenchmarkError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the times there")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--checks", action="store_true", help="check and do not time")
    only.add_argument("--sanitizer", action="store_true", help="check under compute-sanitizer, each of its tools")
    return parser


def _run(arguments: argparse.Namespace, machine: str) -> int:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        library = build(torch.cuda.get_device_capability(), Path(folder))
        if not _all_pass(checks.run_checks(library, "cuda", _stream, seeds=3)):
            return 1
        if arguments.checks:
            return 0
        if find_spec("torchvision") is None:
            raise BenchmarkError(
                "torchvision is not installed: the checks passed, and there is nothing to compare with."
            )
        return _time_all(library, arguments.json, machine)


def _stream() -> int:
    import torch

    return int(torch.cuda.current_stream().cuda_stream)


def _all_pass(made: Iterable[checks.Check]) -> bool:
    """Prints each check as it is done; goes on after one that failed."""
    passed = True
    for check in made:
        print(check, flush=True)
        passed = passed and check.passed
    return passed


def _time_all(library: KernelLibrary, report: Path | None, machine: str) -> int:
    copied = baselines.copy_gb_s()
    print(f"A copy on this device moves {copied:.0f} GB/s.")
    rows: list[dict[str, Any]] = []
    passed = True
    for prepared in _prepared(library):
        passed = _all_pass([prepared.check]) and passed
        for cold in (True, False):
            case = f"{prepared.name}, {'cold' if cold else 'warm'} L2"
            summaries = measuring.measure(prepared.variants, SETS, REPETITIONS, baselines.GpuTimer(cold))
            rows += measuring.rows(case, summaries, THEIRS, {OURS: prepared.moved_bytes}, copied)
    print(measuring.table(rows))
    if report is not None:
        measuring.write_report(report, machine, rows)
    return 0 if passed else 1


@dataclass(frozen=True)
class Prepared:
    """A case on the device: whether both give the same on its first input set, and what is timed."""

    name: str
    check: checks.Check
    variants: dict[str, measuring.Run]
    moved_bytes: int
    """That at least go through the device's memory: inputs once, outputs once."""


def _prepared(library: KernelLibrary) -> Iterator[Prepared]:
    for timing in NMS_TIMINGS:
        yield prepare_nms(library, timing)
    for roi_timing in ROI_TIMINGS:
        yield prepare_roi_align(library, roi_timing)


def prepare_nms(library: KernelLibrary, timing: NmsTiming, device: str = "cuda", stream: int | None = None) -> Prepared:
    import torch

    settings = timing.settings
    shape = (timing.images, timing.each, timing.groups)
    sets = [inputs.candidates(*shape, seed, timing.part_above, ties=False).to(device) for seed in range(SETS)]
    kept = torch.empty(timing.images * settings.max_output, 2, dtype=torch.int64, device=device)
    needed = library.nms_workspace_bytes(timing.images, timing.each, settings)
    workspace = torch.empty(needed, dtype=torch.uint8, device=device)
    stream = _stream() if stream is None else stream

    def ours(number: int) -> None:
        given = sets[number]
        library.nms(given.boxes, given.scores, given.groups, settings, kept, workspace, stream)

    def theirs(number: int) -> list[Tensor]:
        return baselines.nms(sets[number], settings)

    ours(0)
    check = compare_kept(timing.name, kept, theirs(0), settings.max_output)
    return Prepared(timing.name, check, {OURS: ours, THEIRS: theirs}, sets[0].nbytes + kept.nbytes)


def compare_kept(name: str, kept: Tensor, expected: list[Tensor], max_output: int) -> checks.Check:
    """Rows (image, index or -1) [N * K, 2] against the indices that torchvision keeps of each image."""
    per_image = kept.view(len(expected), max_output, 2)[..., 1].tolist()
    wrong = sum(
        [index for index in found if index >= 0] != wanted.tolist()
        for found, wanted in zip(per_image, expected, strict=True)
    )
    count = sum(map(len, expected))
    return checks.Check(f"{name} against torchvision", not wrong, f"{wrong} images differ, {count} boxes kept")


def prepare_roi_align(
    library: KernelLibrary, timing: RoiTiming, device: str = "cuda", stream: int | None = None
) -> Prepared:
    settings, half, images = timing.settings, timing.half, 8
    features = [level.to(device) for level in inputs.pyramid(images, CHANNELS, CANVAS, seed=0)]
    if half:
        features = [level.half() for level in features]
    levels = [level.permute(0, 2, 3, 1).contiguous() for level in features] if half else features
    sets = [inputs.rois(images, timing.each, CANVAS, seed).to(device) for seed in range(SETS)]
    out = checks.roi_output(levels, images * timing.each, settings)
    stream = _stream() if stream is None else stream
    theirs = [baselines.roi_align(features, given, settings) for given in sets]

    def ours(number: int) -> None:
        library.roi_align(levels, sets[number].boxes, sets[number].image_index, settings, out, stream)

    ours(0)
    # In float32 for both types: in float16, torchvision places samples by coordinates in float16.
    expected = baselines.roi_align([level.float() for level in features], sets[0], settings)()
    worst = float((checks.as_nchw(out, half, CHANNELS).float() - expected).abs().max())
    allowed = checks.HALF_TOLERANCE if half else checks.FLOAT_TOLERANCE
    detail = f"off by at most {worst:.1e} (allowed: {allowed:.0e})"
    moved = sum(tensor.nbytes for tensor in (*levels, out))
    variants: dict[str, measuring.Run] = {OURS: ours, THEIRS: lambda number: theirs[number]()}
    return Prepared(
        timing.name, checks.Check(f"{timing.name} against torchvision", worst <= allowed, detail), variants, moved
    )


def sanitizer_command(tool: str, program: str) -> list[str]:
    """`program` is compute-sanitizer; only our kernels are looked at."""
    options = ["--tool", tool, "--error-exitcode", "1", "--kernel-regex", "kns=maskline"]
    return [program, *options, sys.executable, str(Path(__file__).resolve()), "--checks"]


def _sanitize() -> int:
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        raise BenchmarkError("There is no compute-sanitizer on PATH. It comes with the CUDA toolkit.")
    # PyTorch's cache would put tensors side by side in one allocation, where an access past the end is not seen.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    failed = []
    for tool in SANITIZER_TOOLS:
        print(f"compute-sanitizer --tool {tool}", flush=True)
        if subprocess.run(sanitizer_command(tool, program), env=environment, check=False).returncode:
            failed.append(tool)
    print(f"Failed: {', '.join(failed)}." if failed else "No tool found anything.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
