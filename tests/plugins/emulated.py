"""The CUDA kernels on a CPU: the unmodified sources with plugins/emulation in place of CUDA, arrays in and out.

Device memory stands between canaries, and what a kernel has to fill is full of noise before.
"""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins.c_structs import LEVEL_RULES, NmsSettings, Pyramid, RoiAlignSettings

_PLUGINS = Path(__file__).parents[2] / "plugins"
# Fortified, _longjmp takes the switch from one fiber's stack to another's for an attack. g++ knows no "pragma unroll".
_FLAGS = (
    "-std=c++20 -O2 -U_FORTIFY_SOURCE -ffp-contract=off -fno-strict-aliasing -shared -fPIC "
    "-Wall -Wextra -Werror -Wno-unknown-pragmas"
)
_LAUNCH_FAILURE = 719
_CANARY = 256
"""Bytes on each side of an array in device memory; also its alignment, as cudaMalloc's."""


class KernelFaultError(Exception):
    """The launch was refused, or the kernel did what it must not; the message says what."""


class _Device:
    """The arrays of one call."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._blocks: list[tuple[NDArray[np.uint8], int, bytes | None]] = []

    def upload(self, array: NDArray[Any]) -> int:
        """The address of a copy of `array`, which the kernel may only read."""
        content = array.tobytes()
        return self._place(np.frombuffer(content, np.uint8), content)[1]

    def noise(self, shape: tuple[int, ...], dtype: Any) -> tuple[NDArray[Any], int]:
        """An array for the kernel to fill, and its address."""
        count = int(np.prod(shape))
        filled = self._random.integers(0, 256, count * np.dtype(dtype).itemsize, dtype=np.uint8)
        inside, address = self._place(filled, None)
        return inside.view(dtype).reshape(shape), address

    def check(self) -> None:
        for block, size, content in self._blocks:
            if (block[:_CANARY] != 0xC5).any() or (block[_CANARY + size :] != 0xC5).any():
                raise KernelFaultError(f"The kernel wrote outside an array of {size} bytes.")
            if content is not None and block[_CANARY : _CANARY + size].tobytes() != content:
                raise KernelFaultError(f"The kernel changed an input of {size} bytes.")

    def _place(self, filled: NDArray[np.uint8], content: bytes | None) -> tuple[NDArray[np.uint8], int]:
        room = np.full(filled.size + 3 * _CANARY, 0xC5, np.uint8)
        block = room[-room.ctypes.data % _CANARY :][: filled.size + 2 * _CANARY]
        inside = block[_CANARY : _CANARY + filled.size]
        inside[:] = filled
        self._blocks.append((block, filled.size, content))
        return inside, block.ctypes.data + _CANARY


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    groups: NDArray[np.int64],
    *,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int = 0,
    seed: int = 1,
) -> NDArray[np.int64]:
    """Rows (image, index) [N * max_output, 2] as plugins/nms/kernel.h says; `seed` decides the order of threads."""
    library = _library("nms")
    images, count = scores.shape
    settings = NmsSettings(iou_threshold, score_threshold, max_output, pre_nms_topk)
    device = _Device(seed)
    inputs = [device.upload(array) for array in (boxes, scores, groups)]
    kept, kept_at = device.noise((images * max_output, 2), np.int64)
    needed = library.maskline_nms_workspace_bytes(images, count, ctypes.byref(settings))
    workspace_at = device.noise((needed,), np.uint8)[1]
    library.maskline_emulation_seed(ctypes.c_uint64(seed))
    pointers = [ctypes.c_void_p(address) for address in (*inputs, kept_at, workspace_at)]
    _check(library, library.maskline_nms(images, count, ctypes.byref(settings), *pointers, None), device)
    return kept


def pyramid_roi_align(
    features: Sequence[NDArray[Any]],
    boxes: NDArray[np.float32],
    image_index: NDArray[np.int64],
    *,
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    crop_and_resize: bool = False,
    level_rule: str = "floor",
    seed: int = 1,
) -> NDArray[Any]:
    """RoI features [R, C, P, P] in the type of `features`, each level [N, C, H, W], float32 or float16.

    Half-precision features go to the kernel as TensorRT's kHWC8, with noise in the channels that pad C to a multiple of
    8; float32 ones as they are. `seed` decides the order of threads.
    """
    library = _library("roi_align")
    device = _Device(seed)
    half = features[0].dtype == np.float16
    settings = RoiAlignSettings(output_size, sampling_ratio, aligned, crop_and_resize, LEVEL_RULES.index(level_rule))
    levels = [_channels_last(level, seed) if half else level for level in features]
    pyramid = _pyramid(features, [device.upload(level) for level in levels])
    rois, channels, stored = len(boxes), features[0].shape[1], levels[0].shape[-1]
    side = (output_size, output_size)
    output, output_at = device.noise((rois, *side, stored) if half else (rois, channels, *side), features[0].dtype)
    library.maskline_emulation_seed(ctypes.c_uint64(seed))
    pointers = [ctypes.c_void_p(address) for address in (device.upload(boxes), device.upload(image_index), output_at)]
    status = library.maskline_pyramid_roi_align(ctypes.byref(pyramid), ctypes.byref(settings), rois, *pointers, None)
    _check(library, status, device)
    return np.moveaxis(output, -1, 1)[:, :channels] if half else output


def _channels_last(level: NDArray[np.float16], seed: int) -> NDArray[np.float16]:
    images, channels, height, width = level.shape
    padding = (images, -channels % 8, height, width)
    noise = np.random.default_rng(seed).integers(0, 2**16, padding, dtype=np.uint16).view(np.float16)
    return np.ascontiguousarray(np.moveaxis(np.concatenate((level, noise), axis=1), 1, -1))


def _pyramid(features: Sequence[NDArray[Any]], addresses: Sequence[int]) -> Pyramid:
    pyramid = Pyramid(level_count=len(features), images=len(features[0]), channels=features[0].shape[1])
    pyramid.layout = int(features[0].dtype == np.float16)
    for i, (level, address) in enumerate(zip(features, addresses, strict=True)):
        pyramid.features[i] = address
        pyramid.heights[i], pyramid.widths[i] = level.shape[2:]
    return pyramid


def _check(library: ctypes.CDLL, status: int, device: _Device) -> None:
    if status == _LAUNCH_FAILURE:
        raise KernelFaultError(library.maskline_emulation_fault().decode())
    if status != 0:
        raise KernelFaultError(f"The launch was refused: cudaError_t {status}.")
    device.check()


@cache
def _library(kernel: str) -> ctypes.CDLL:
    """`kernel` ("nms" or "roi_align") and its C functions, built once a test session."""
    library = compiled(kernel, [_PLUGINS / kernel / "kernel.cu", _PLUGINS / kernel / "c_api.cpp"])
    if kernel == "nms":
        library.maskline_nms_workspace_bytes.restype = ctypes.c_size_t
    return library


def compiled(name: str, sources: Sequence[Path]) -> ctypes.CDLL:
    """CUDA `sources` for the CPU, with the emulation's own C functions.

    Raises FileNotFoundError without a compiler, RuntimeError with what the compiler says.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("The CUDA kernels' tests compile them for the CPU: install g++ (apt-get install g++).")
    built = _folder() / f"{name}.so"
    emulation = _PLUGINS / "emulation"
    command = [compiler, *_FLAGS.split(), f"-I{emulation / 'include'}", f"-I{_PLUGINS}", "-o", str(built), "-xc++"]
    files = map(str, [*sources, *sorted(emulation.glob("*.cpp"))])
    result = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"g++ refused {name}:\n{result.stderr}")
    library = ctypes.CDLL(str(built))
    library.maskline_emulation_fault.restype = ctypes.c_char_p
    return library


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="maskline-emulated-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
