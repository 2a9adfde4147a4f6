"""What benchmarks/gpu does besides running on a GPU: references against ONNX Runtime, checks and comparisons on the
kernels emulated on the CPU, statistics, commands."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from benchmarks.gpu import checks, inputs, kernels, measuring, reference
from benchmarks.gpu.kernel_library import (
    PLUGINS,
    BenchmarkError,
    KernelLibrary,
    Nms,
    RoiAlign,
    build,
    build_command,
    find_nvcc,
)
from tests.plugins import emulated

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "gpu"


def run_operator(operator: str, values: dict[str, np.ndarray[Any, Any]], **attributes: Any) -> np.ndarray[Any, Any]:
    """One of ONNX's operators in ONNX Runtime."""
    node = onnx.helper.make_node(operator, list(values), ["out"], **attributes)
    given = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in values.items()
    ]
    graph = onnx.helper.make_graph([node], operator, given, [onnx.ValueInfoProto(name="out")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, values)[0]
    return found


def onnx_roi_align(
    feature: Tensor, boxes: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """torchvision's operator on one level, by ONNX Runtime; boxes [R, 5] (image, x1, y1, x2, y2)."""
    if not len(boxes):
        return feature.new_zeros(0, feature.shape[1], side, side)
    values = {
        "x": feature.float().numpy(),
        "rois": boxes[:, 1:].float().numpy(),
        "image": boxes[:, 0].long().numpy(),
    }
    mode = "half_pixel" if aligned else "output_half_pixel"
    size = {"output_height": side, "output_width": side, "sampling_ratio": sampling_ratio, "spatial_scale": scale}
    found = run_operator("RoiAlign", values, coordinate_transformation_mode=mode, **size)
    return torch.from_numpy(found).to(feature.dtype)


def onnx_batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's batched_nms, by ONNX Runtime: each group by itself, then by falling score."""
    kept = []
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        values = {
            "boxes": boxes[rows][None].numpy(),
            "scores": scores[rows][None, None].numpy(),
            "most": np.array([len(rows)]),
            "iou": np.array([iou_threshold], np.float32),
        }
        found = run_operator("NonMaxSuppression", values)
        kept.append(rows[torch.from_numpy(found[:, 2])])
    together = torch.cat(kept) if kept else groups[:0]
    by_index = together.sort().values
    return by_index[scores[by_index].sort(descending=True, stable=True).indices]


@pytest.fixture(scope="module")
def library() -> KernelLibrary:
    return KernelLibrary(emulated._library("nms"), emulated._library("roi_align"))


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = types.ModuleType("torchvision.ops")
    vars(ops).update(roi_align=onnx_roi_align, batched_nms=onnx_batched_nms)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_the_reference_of_roi_align_is_onnx_runtimes(aligned: bool, sampling_ratio: int) -> None:
    feature = inputs.pyramid(2, 3, 128, seed=1, levels=1)
    given = inputs.rois(2, 20, 128, seed=2)
    ours = reference.roi_align(feature, given.boxes, given.image_index, 7, sampling_ratio, aligned, "floor")
    indexed = torch.cat([given.image_index[:, None].float(), given.boxes], dim=1)
    theirs = onnx_roi_align(feature[0], indexed, 7, 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("rule", "sides", "levels"),
    [("floor", (111, 112, 224, 448, 5000), (0, 1, 2, 3, 3)), ("round", (79, 80, 159, 317, 5000), (0, 1, 2, 3, 3))],
)
def test_a_roi_goes_to_the_level_of_the_papers_formula(
    rule: str, sides: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    boxes = np.array([[3, 5, 3 + side, 5 + side] for side in sides], np.float64)
    assert tuple(reference.roi_levels(boxes, 4, rule)) == levels
    exact = 4 + np.log2(np.sqrt(np.array(sides, np.float64) ** 2) / 224) - 2
    rounded = np.floor(exact) if rule == "floor" else np.round(exact)
    assert tuple(np.clip(rounded, 0, 3).astype(int)) == levels


@pytest.mark.parametrize(("groups", "ties"), [(1, True), (5, False), (4, True)])
def test_the_reference_of_nms_is_onnx_runtimes(groups: int, ties: bool) -> None:
    given = inputs.candidates(1, 300, groups, 3, 0.5, ties)
    arrays = (given.boxes.numpy(), given.scores.numpy(), given.groups.numpy())
    rows = reference.nms(*arrays, 0.5, 300, -1.0, 0)
    theirs = onnx_batched_nms(given.boxes[0], given.scores[0], given.groups[0], 0.5)
    found = rows[rows[:, 1] >= 0, 1]
    assert found.tolist() == theirs.tolist()
    assert 20 < len(found) < 290


def test_the_reference_of_nms_keeps_its_limits() -> None:
    boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9], [40, 0, 50, 10]]], np.float32)
    scores, groups = np.array([[0.5, 0.9, 0.8, 0.5]], np.float32), np.zeros((1, 4), np.int64)
    assert reference.nms(boxes, scores, groups, 0.5, 5, 0.1, 0)[:, 1].tolist() == [1, 2, 3, -1, -1]
    assert reference.nms(boxes, scores, groups, 0.5, 2, 0.1, 0)[:, 1].tolist() == [1, 2]
    assert reference.nms(boxes, scores, groups, 0.5, 3, 0.5, 0)[:, 1].tolist() == [1, 2, -1]
    assert reference.nms(boxes, scores, groups, 0.9, 4, 0.1, 3)[:, 1].tolist() == [1, 2, 0, -1]


def test_the_checks_pass_on_the_kernels(library: KernelLibrary) -> None:
    made = list(checks.run_checks(library, "cpu", lambda: 0, seeds=1, roi_count=4, largest=1000))
    assert len(made) > 25
    assert not [str(check) for check in made if not check.passed]


def test_the_checks_fail_on_kernels_that_compute_something_else(
    library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    right_nms, right_roi_align = library.nms, library.roi_align

    def nms(*arguments: Any) -> None:
        right_nms(*arguments)
        arguments[4][5, 1] += 1

    def roi_align(*arguments: Any) -> None:
        right_roi_align(*arguments)
        arguments[4][-1, ..., -1] += 0.01

    monkeypatch.setattr(library, "nms", nms)
    monkeypatch.setattr(library, "roi_align", roi_align)
    case = checks.NmsCase("ties", 1, 100, 1, Nms(0.5, 20))
    assert not checks.check_nms(library, "cpu", lambda: 0, case, 0).passed
    for half, channels in ((False, 3), (True, 8)):
        assert not checks.check_roi_align(library, "cpu", lambda: 0, RoiAlign(7), (channels, 4), half, 0).passed


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    "timing",
    [
        kernels.NmsTiming("groups", 2, 300, 5, Nms(0.7, 60)),
        kernels.NmsTiming("few", 2, 900, 20, Nms(0.5, 40, score_threshold=0.5), 0.05),
        kernels.NmsTiming("best", 1, 3000, 1, Nms(0.7, 50, pre_nms_topk=300)),
    ],
)
def test_nms_is_compared_on_the_same_work(library: KernelLibrary, timing: kernels.NmsTiming) -> None:
    prepared = kernels.prepare_nms(library, timing, "cpu", 0)
    assert prepared.check.passed, str(prepared.check)
    assert " 0 boxes" not in prepared.check.detail
    for run in prepared.variants.values():
        run(1)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("half", [False, True])
def test_roi_align_is_compared_on_the_same_work(
    library: KernelLibrary, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "CANVAS", 256)
    monkeypatch.setattr(kernels, "CHANNELS", 8)
    timing = kernels.RoiTiming("r", 4, RoiAlign(7), half)
    prepared = kernels.prepare_roi_align(library, timing, "cpu", 0)
    assert prepared.check.passed, str(prepared.check)
    pixels = 8 * 8 * (64**2 + 32**2 + 16**2 + 8**2)
    assert prepared.moved_bytes == (pixels + 32 * 8 * 49) * (2 if half else 4)
    for run in prepared.variants.values():
        run(1)


def test_boxes_that_differ_from_torchvisions_are_noticed() -> None:
    kept = torch.tensor([[0, 4], [0, 2], [1, 7], [1, -1]])
    assert kernels.compare_kept("n", kept, [torch.tensor([4, 2]), torch.tensor([7])], 2).passed
    assert not kernels.compare_kept("n", kept, [torch.tensor([2, 4]), torch.tensor([7])], 2).passed
    assert not kernels.compare_kept("n", kept, [torch.tensor([4, 2]), torch.tensor([7, 1])], 2).passed


def test_variants_take_turns_on_every_input_set() -> None:
    log: list[str] = []
    variants: dict[str, measuring.Run] = {name: lambda i, name=name: log.append(f"{name}{i}") for name in "ab"}
    clock = iter(range(100))

    def timer(work: Any) -> float:
        work()
        return float(next(clock))

    summaries = measuring.measure(variants, 2, 4, timer)
    assert log == ["a0"] * 3 + ["b0"] * 3 + list(("a0", "b0", "b0", "a0") * 2) + [
        *["a1"] * 3,
        *["b1"] * 3,
        *("a1", "b1", "b1", "a1") * 2,
    ]
    assert summaries["a"].median == np.median([0, 3, 4, 7, 8, 11, 12, 15])


def test_rows_are_those_of_every_benchmark(tmp_path: Path) -> None:
    summaries = {"maskline": measuring.Summary.of([10.0] * 9 + [50.0] * 2), "torchvision": measuring.Summary.of([30.0])}
    rows = measuring.rows("case", summaries, "torchvision", {"maskline": 20_000_000}, 4000.0)
    common = {"case": "case", "unit": "us"}
    ours = {"variant": "maskline", "median": 10.0, "low": 10.0, "high": 50.0, "speedup": 3.0, "bandwidth_fraction": 0.5}
    theirs = {"variant": "torchvision", "median": 30.0, "low": 30.0, "high": 30.0, "speedup": 1.0}
    assert rows == [common | ours, common | theirs]
    measuring.write_report(tmp_path / "r.json", "a GPU", rows)
    report = json.loads((tmp_path / "r.json").read_text())
    assert (set(report), report["machine"], report["rows"]) == ({"machine", "date", "rows"}, "a GPU", rows)
    assert "3.00" in measuring.table(rows)


def test_the_kernels_are_built_for_the_gpu_at_hand() -> None:
    command = build_command(Path("/cuda/bin/nvcc"), (9, 0), Path("out.so"))
    assert command[0] == "/cuda/bin/nvcc"
    assert {"-arch=sm_90", "-fmad=false", "-shared", f"-I{PLUGINS}"} < set(command)
    sources = [Path(word) for word in command if word.endswith((".cu", ".cpp"))]
    assert len(sources) == 4
    assert all(source.is_file() for source in sources)


def test_nvcc_is_that_of_cuda_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_nvcc() == nvcc


def test_every_tool_of_the_sanitizer_runs_the_checks() -> None:
    command = kernels.sanitizer_command("racecheck", "/cuda/bin/compute-sanitizer")
    assert command[:3] == ["/cuda/bin/compute-sanitizer", "--tool", "racecheck"]
    assert command[-2:] == [str(SCRIPTS / "kernels.py"), "--checks"]
    assert "--error-exitcode" in command


@pytest.mark.parametrize("script", ["kernels.py", "end_to_end.py"])
def test_help_says_what_is_needed(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / script), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--json FILE" in result.stdout
    assert "GPU" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [[], ["--checks"], ["--sanitizer"]])
def test_without_a_gpu_it_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "finds no NVIDIA GPU" in said.err
    assert said.err.count("\n") == 1


def test_kernels_that_nvcc_refuses_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'kernel.cu: no such register' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(BenchmarkError, match="no such register"):
        build((9, 0), tmp_path)
