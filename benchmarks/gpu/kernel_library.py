"""The CUDA kernels of plugins/ without TensorRT: built by nvcc for the GPU at hand, called on torch tensors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plugins.c_structs import LEVEL_RULES, NmsSettings, Pyramid, RoiAlignSettings

if TYPE_CHECKING:
    from torch import Tensor

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SOURCES = tuple(PLUGINS / kernel / file for kernel in ("nms", "roi_align") for file in ("kernel.cu", "c_api.cpp"))


class BenchmarkError(Exception):
    """The benchmark cannot run here; the message is for the person who started it."""


@dataclass(frozen=True)
class Nms:
    """Attributes of MaskRcnnNms: see plugins/nms/README.md."""

    iou_threshold: float
    max_output: int
    score_threshold: float = -1.0
    pre_nms_topk: int = 0


@dataclass(frozen=True)
class RoiAlign:
    """Attributes of PyramidRoiAlign: see plugins/roi_align/README.md."""

    output_size: int
    sampling_ratio: int = 2
    aligned: bool = False
    level_rule: str = "floor"


class KernelLibrary:
    """The kernels on tensors of one device. Results go into tensors that the caller made; nothing is waited for."""

    def __init__(self, nms: ctypes.CDLL, roi_align: ctypes.CDLL) -> None:
        self._nms, self._roi_align = nms, roi_align
        nms.maskline_nms_workspace_bytes.restype = ctypes.c_size_t

    @classmethod
    def load(cls, path: Path) -> KernelLibrary:
        library = ctypes.CDLL(str(path))
        return cls(library, library)

    def nms_workspace_bytes(self, images: int, boxes: int, settings: Nms) -> int:
        return int(self._nms.maskline_nms_workspace_bytes(images, boxes, ctypes.byref(_nms_settings(settings))))

    def nms(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, settings: Nms, kept: Tensor, workspace: Tensor, stream: int
    ) -> None:
        """Fills kept [N * max_output, 2] int64 from boxes [N, A, 4], scores [N, A] and groups [N, A] int64."""
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (boxes, scores, groups, kept, workspace)]
        given = ctypes.byref(_nms_settings(settings))
        _check(self._nms.maskline_nms(*scores.shape, given, *pointers, ctypes.c_void_p(stream)))

    def roi_align(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image_index: Tensor,
        settings: RoiAlign,
        out: Tensor,
        stream: int,
    ) -> None:
        """Fills out [R, C, P, P] from float32 levels [N, C, H, W], or [R, P, P, C] from float16 ones [N, H, W, C].

        In float16, C is a multiple of 8.
        """
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (boxes, image_index, out)]
        pyramid, given = _pyramid(features), _roi_align_settings(settings)
        call = self._roi_align.maskline_pyramid_roi_align
        _check(call(ctypes.byref(pyramid), ctypes.byref(given), len(boxes), *pointers, ctypes.c_void_p(stream)))


def _nms_settings(settings: Nms) -> NmsSettings:
    return NmsSettings(settings.iou_threshold, settings.score_threshold, settings.max_output, settings.pre_nms_topk)


def _roi_align_settings(settings: RoiAlign) -> RoiAlignSettings:
    rule = LEVEL_RULES.index(settings.level_rule)
    return RoiAlignSettings(settings.output_size, settings.sampling_ratio, settings.aligned, False, rule)


def _pyramid(features: Sequence[Tensor]) -> Pyramid:
    half = features[0].element_size() == 2
    height, width, channels = (1, 2, 3) if half else (2, 3, 1)
    sizes = {"level_count": len(features), "images": len(features[0]), "channels": features[0].shape[channels]}
    pyramid = Pyramid(**sizes, layout=int(half))
    for i, level in enumerate(features):
        pyramid.features[i] = level.data_ptr()
        pyramid.heights[i], pyramid.widths[i] = level.shape[height], level.shape[width]
    return pyramid


def _check(status: int) -> None:
    if status != 0:
        raise BenchmarkError(f"A kernel could not be launched: cudaError_t {status}.")


def find_nvcc() -> Path:
    """nvcc of CUDA_HOME, PATH or /usr/local/cuda. Raises `BenchmarkError`."""
    folders = [f"{os.environ['CUDA_HOME']}/bin"] if os.environ.get("CUDA_HOME") else []
    folders += [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if nvcc is None:
        raise BenchmarkError("There is no nvcc. Install the CUDA toolkit, or set CUDA_HOME to where it is.")
    return Path(nvcc)


def build_command(nvcc: Path, capability: tuple[int, int], output: Path) -> list[str]:
    """As plugins/CMakeLists.txt builds them, for one architecture; line numbers are for compute-sanitizer."""
    flags = ["-O3", "-std=c++17", "-fmad=false", "-lineinfo", "-shared", "-Xcompiler", "-fPIC"]
    target = f"-arch=sm_{capability[0]}{capability[1]}"
    return [str(nvcc), *flags, target, f"-I{PLUGINS}", "-o", str(output), *map(str, SOURCES)]


def build(capability: tuple[int, int], folder: Path) -> KernelLibrary:
    """Compiles and loads the kernels. Raises `BenchmarkError` with what nvcc says."""
    output = folder / "libmaskline_kernels.so"
    done = subprocess.run(build_command(find_nvcc(), capability, output), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"nvcc could not build the kernels:\n{done.stderr}")
    return KernelLibrary.load(output)
