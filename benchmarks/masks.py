"""What 100 objects of a picture cost from the network's masks to COCO run lengths, beside what people use instead.

    python benchmarks/masks.py --json masks.json --plot masks.png

28 x 28 masks and sub-pixel boxes of 3 to 35 % of the picture's sides, at 1920 x 1080 and 3840 x 2160, one thread. The
figure is CPU time, which other work on the machine moves less; `added_mb` is how far a run raises the process's peak of
resident memory. The baseline needs 7 GB at 4K. Peers come from the interpreter that MASKLINE_PEER_PYTHON names, else
from an environment that is made once. Needs Linux and Maskline's extra server.
Exit status: 0 done, 1 masks differ, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.gpu.measuring import Summary
from benchmarks.overhead.peer_python import PeersError, peer_python
from benchmarks.reporting import add_outputs, bars, publish
from server.contract import rle

FOLDER = Path(__file__).resolve().with_name("pasting")
BASELINE = "torchvision paste + pycocotools"
OURS = {"maskline": "grid_sample paste + pycocotools", "maskline, torchvision's rule": BASELINE}
"""Ours, and whose pixels they should have."""
CASES = {"1080p": (1080, 1920), "4K": (2160, 3840)}
OBJECTS = 100
TURN_S = 0.1
MOST_DIFFERENT = 1e-4
"""Of the pixels set: peers compute in float32."""

Floats = npt.NDArray[np.float32]


class DifferentMasksError(Exception):
    """A variant gives other pixels than the one that it is to equal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        measured = _measured(arguments.rounds)
    except DifferentMasksError as error:
        print(f"masks: {error}", file=sys.stderr)
        return 1
    except PeersError as error:
        print(f"masks: {error}", file=sys.stderr)
        return 2
    publish(arguments, measured, table, partial(bars, title=f"CPU ms for {OBJECTS} objects", log=True))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often everyone has a turn (default 5)")
    add_outputs(parser)
    return parser


def _measured(rounds: int) -> list[dict[str, Any]]:
    peers = peer_python(FOLDER / "peers" / "requirements.txt")
    variants = dict.fromkeys(OURS, sys.executable) | dict.fromkeys([BASELINE, *OURS.values()], peers)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, masks=blobs(OBJECTS), **{case: boxes(*size) for case, size in CASES.items()})
        with _workers(variants, inputs) as workers:
            return [row for case in CASES for row in _rows(case, _turns(case, workers, rounds))]


def blobs(count: int) -> Floats:
    """Probabilities [count, 28, 28] of lobed objects that fill most of their boxes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle, lobes = np.arctan2(y, x), rng.uniform(0, 2 * np.pi, (2, count, 1, 1))
    radius = 0.75 + 0.15 * np.sin(3 * angle + lobes[0]) + 0.1 * np.sin(5 * angle + lobes[1])
    return (1 / (1 + np.exp(12 * (np.hypot(x, y) - radius)))).astype(np.float32)


def boxes(h: int, w: int) -> Floats:
    """Boxes [OBJECTS, 4] within a picture, and its sides as a last row."""
    rng = np.random.default_rng(1)
    sides = rng.uniform(0.03, 0.35, (OBJECTS, 2)) * (w, h)
    corners = rng.random((OBJECTS, 2)) * ((w, h) - sides)
    return np.concatenate((np.hstack((corners, corners + sides)), [[h, w, 0, 0]])).astype(np.float32)


@contextmanager
def _workers(variants: Mapping[str, str], inputs: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process a variant; all but one wait."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    workers = {
        name: subprocess.Popen(
            [python, str(FOLDER / "worker.py"), name, str(inputs)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one_thread,
        )
        for name, python in variants.items()
    }  # fmt: skip
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()


def _turns(case: str, workers: Mapping[str, subprocess.Popen[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Everyone in turn, forwards and backwards: what drifts meets all of them alike."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in list(workers)[:: 1 if number % 2 == 0 else -1]:
            turns[name].append(_turn(name, workers[name], case))
        if number == 0:
            _check(case, {name: taken[0]["texts"] for name, taken in turns.items()})
    return turns


def _turn(name: str, worker: subprocess.Popen[str], case: str) -> dict[str, Any]:
    if worker.stdin is None or worker.stdout is None:
        raise AssertionError("The worker has no pipes. This is a bug.")
    try:
        worker.stdin.write(json.dumps([case, TURN_S]) + "\n")
        worker.stdin.flush()
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
    except (OSError, ValueError) as error:
        raise PeersError(
            f"{name} does not run; its message is above. MASKLINE_PEER_PYTHON may name an interpreter that has "
            "torchvision and pycocotools."
        ) from error
    return answer


def _check(case: str, texts: Mapping[str, Sequence[str]]) -> None:
    for ours, theirs in OURS.items():
        different = sum(_different(a, b, CASES[case]) for a, b in zip(texts[ours], texts[theirs], strict=True))
        pixels = sum(rle.area(rle.decompress(text, CASES[case])) for text in texts[ours])
        if different > MOST_DIFFERENT * pixels:
            raise DifferentMasksError(f"{ours} and {theirs} differ in {different} of {pixels} pixels at {case}.")


def _different(text: str, other: str, size_hw: tuple[int, int]) -> int:
    """Pixels that one of two masks has and the other has not."""
    if text == other:
        return 0
    one, two = (rle.to_mask(rle.decompress(each, size_hw), size_hw) for each in (text, other))
    return int(np.count_nonzero(one != two))


def _rows(case: str, turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row a variant; `speedup` is the baseline's median over this one's."""
    times = {name: Summary.of([ms for turn in taken for ms in turn["ms"]]) for name, taken in turns.items()}
    return [
        {
            "case": case,
            "variant": name,
            "median": round(summary.median, 3),
            "low": round(summary.low, 3),
            "high": round(summary.high, 3),
            "unit": "CPU ms",
            "speedup": round(times[BASELINE].median / summary.median, 2),
            "added_mb": round(max(turn["added_mb"] for turn in turns[name]), 1),
        }
        for name, summary in times.items()
    ]


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    lines = [f"{'':<6} {'':<32} {'CPU ms':>9} {'10 % .. 90 %':>20} {'ratio':>8} {'added MB':>9}"]
    for row in measured:
        spread = f"{row['low']:.2f} .. {row['high']:.2f}"
        lines.append(
            f"{row['case']:<6} {row['variant']:<32} {row['median']:>9.2f} {spread:>20} {row['speedup']:>8.2f} "
            f"{row['added_mb']:>9.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
