"""That the emulation finds the mistakes it is there to find; else the kernels' tests would show less than they seem."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.plugins import emulated

THREADS = 96


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    library = emulated.compiled("faulty", [Path(__file__).with_name("faulty_kernels.cu")])
    library.from_half.restype = ctypes.c_float
    library.to_half.restype = ctypes.c_uint16
    return library


def turned_around(kernels: ctypes.CDLL, mistake: int, seed: int = 1) -> tuple[int, str, list[int]]:
    """Status, fault and values after a run."""
    values = np.arange(THREADS, dtype=np.int32)
    kernels.maskline_emulation_seed(ctypes.c_uint64(seed))
    status = kernels.turn_around_with(ctypes.c_void_p(values.ctypes.data), mistake)
    return status, kernels.maskline_emulation_fault().decode(), values.tolist()


def test_a_right_kernel_runs_in_any_order_of_threads(kernels: ctypes.CDLL) -> None:
    for seed in range(5):
        assert turned_around(kernels, 0, seed) == (0, "", list(range(THREADS))[::-1])


@pytest.mark.parametrize(
    ("mistake", "fault"),
    [
        (1, "1 of 96 threads have ended, 95 wait for the whole block at"),
        (2, "threads wait for each other in two places:"),
        (3, "a thread is not in its own mask at"),
        (4, "wrote past the 384 bytes of shared memory asked for"),
    ],
)
def test_a_mistake_is_named(kernels: ctypes.CDLL, mistake: int, fault: str) -> None:
    status, message, _ = turned_around(kernels, mistake)
    assert status == 719
    assert message.startswith("block (0, 0, 0): " + fault)
    assert turned_around(kernels, 0)[0] == 0  # the next launch is sound


def test_a_missing_barrier_shows(kernels: ctypes.CDLL) -> None:
    assert turned_around(kernels, 5)[2] != list(range(THREADS))[::-1]


@pytest.mark.parametrize(("shared_bytes", "threads", "status"), [(0, 1025, 9), (0, 0, 9), (49_153, 32, 1)])
def test_a_launch_that_no_gpu_takes(kernels: ctypes.CDLL, shared_bytes: int, threads: int, status: int) -> None:
    assert kernels.launch_with(ctypes.c_size_t(shared_bytes), threads) == status


def test_halves_are_those_of_numpy(kernels: ctypes.CDLL) -> None:
    halves = np.arange(0, 2**16, 7, dtype=np.uint16)
    wide = np.array([kernels.from_half(ctypes.c_uint16(int(bits))) for bits in halves], np.float32)
    np.testing.assert_array_equal(wide, halves.view(np.float16).astype(np.float32))


def test_floats_round_to_the_even_half(kernels: ctypes.CDLL) -> None:
    bits = np.arange(0, 0x7BFF, 7, dtype=np.uint16)  # of finite halves, whose next one is finite too
    lower, upper = bits.view(np.float16).astype(np.float32), (bits + 1).astype(np.uint16).view(np.float16)
    between = (lower + upper.astype(np.float32)) / 2
    around = np.concatenate((between, np.nextafter(between, 0), np.nextafter(between, np.inf, dtype=np.float32)))
    values = np.append(around, [65519.0, 65520.0, 1e30, -np.inf, 1e-30]).astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float16)
    narrow = np.array([kernels.to_half(ctypes.c_float(value)) for value in values.tolist()], np.uint16)
    np.testing.assert_array_equal(narrow.view(np.float16), wanted)
