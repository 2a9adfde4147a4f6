"""A whole Mask R-CNN R50-FPN beside torchvision eager: the same weights, the same picture, no server.

    python benchmarks/model.py --json model.json --plot model.png
    python benchmarks/model.py --weights maskrcnn.pth --threads 2

ONNX Runtime and OpenVINO, fp32 and int8, at 800 x 1216 and 320 x 320, from the picture at the network's size to boxes
and masks in the picture. Weights are random ones that find 100 objects, the mask head at its heaviest, unless --weights
names torchvision's. The peer comes from the interpreter that MASKLINE_PEER_PYTHON names, else from an environment that
is made once. Needs Maskline's extras export, server, cpu and openvino.
Exit status: 0 done, 1 answers differ, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project need not be installed

from benchmarks.gpu.measuring import Summary
from benchmarks.overhead.peer_python import PeersError, peer_python
from benchmarks.reporting import add_outputs, bars, publish

ROOT = Path(__file__).resolve().parent
WORKER = ROOT / "whole_model" / "worker.py"
REQUIREMENTS = ROOT / "pasting" / "peers" / "requirements.txt"
"""The same environment as that of benchmarks/masks.py."""
BASELINE = "torchvision eager"
CASES = {"800x1216": (800, 1216), "320x320": (320, 320)}
CALIBRATION = 6
MOST_DIFFERENT = 0.05
"""Of the detections of fp32: random weights magnify rounding."""


class DifferentAnswersError(Exception):
    """A bundle in fp32 answers something else than torchvision."""


class BuildError(Exception):
    """A bundle cannot be built; its message is above."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        measured = _measured(arguments)
    except DifferentAnswersError as error:
        print(f"model: {error}", file=sys.stderr)
        return 1
    except (PeersError, BuildError) as error:
        print(f"model: {error}", file=sys.stderr)
        return 2
    publish(arguments, measured, table, partial(bars, title="ms a picture"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often everyone has a turn (default 5)")
    add("--threads", type=int, default=1, help="of everyone (default 1)")
    add("--weights", type=Path, metavar="FILE", help="torchvision's maskrcnn_resnet50_fpn, 91 classes, with BatchNorm")
    add_outputs(parser)
    return parser


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    peer = peer_python(REQUIREMENTS)
    with tempfile.TemporaryDirectory() as name:
        folder, threads = Path(name), str(arguments.threads)
        pictures = folder / "pictures.npz"
        np.savez(pictures, **{case: picture(0, *size) for case, size in CASES.items()})
        weights = arguments.weights or folder / "weights.pth"
        if not arguments.weights:
            make_weights(peer, weights, [picture(0, *CASES["800x1216"])])
        bundles = build_bundles(weights, folder, _calibration(folder))
        commands = {BASELINE: [peer, str(WORKER), "torchvision", str(weights)]} | {
            f"{called} {precision}": [sys.executable, str(WORKER), engine, str(bundle)]
            for precision, bundle in bundles.items()
            for engine, called in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"))
        }
        with worker_processes(
            {name: [*command, str(pictures), threads] for name, command in commands.items()}
        ) as workers:
            return [row for case in CASES for row in _rows(case, _turns(case, workers, arguments.rounds))]


def picture(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blots of many sizes."""
    rng = np.random.default_rng(seed)
    layers = (rng.integers(0, 256, (4 << i, 6 << i, 3), dtype=np.uint8) for i in range(4))
    return np.mean([np.asarray(Image.fromarray(layer).resize((width, height))) for layer in layers], 0).astype(np.uint8)


def make_weights(peer: str, out: Path, pictures: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> None:
    """Random ones that find 100 objects in such pictures [h, w, 3]. Raises `PeersError`."""
    statistics = out.with_suffix(".npz")
    np.savez(statistics, *pictures)
    _run([peer, str(WORKER), "weights", str(out), str(statistics), "1"], PeersError)


def _calibration(folder: Path) -> Path:
    calibration = folder / "calibration"
    calibration.mkdir()
    for seed in range(CALIBRATION):
        Image.fromarray(picture(seed, 800, 1216)).save(calibration / f"{seed}.png")
    return calibration


def build_bundles(weights: Path, folder: Path, calibration: Path) -> dict[str, Path]:
    """In `folder`, by precision: fp32, and int8 by the pictures of another folder. Raises `BuildError`."""
    bundles = {}
    for precision, options in {"fp32": [], "int8": ["--calibration", str(calibration)]}.items():
        bundles[precision] = folder / precision
        command = ["--weights", str(weights), "--output", str(bundles[precision]), "--precision", precision, *options]
        _run([sys.executable, "-m", "export.build_engine", *command], BuildError)
    return bundles


def _run(command: Sequence[str], refusal: type[Exception]) -> None:
    if subprocess.run(command, cwd=ROOT.parent, stdout=sys.stderr, check=False).returncode:
        raise refusal(f"{' '.join(command[1:4])} ... failed; its message is above.")


@contextmanager
def worker_processes(commands: Mapping[str, Sequence[str]]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process a variant; each waits for `ask`."""
    workers = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()


def _turns(case: str, workers: Mapping[str, subprocess.Popen[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Everyone in turn, forwards and backwards, after one turn that does not count."""
    _check({name: ask(name, worker, case)["found"] for name, worker in workers.items()})
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in list(workers)[:: 1 if number % 2 == 0 else -1]:
            turns[name].append(ask(name, workers[name], case))
    return turns


def ask(name: str, worker: subprocess.Popen[str], line: str) -> dict[str, Any]:
    """A worker's answer to a line, both on its standard streams. Raises `PeersError` where it has none."""
    if worker.stdin is None or worker.stdout is None:
        raise AssertionError("The worker has no pipes. This is a bug.")
    try:
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
    except (OSError, ValueError) as error:
        raise PeersError(f"{name} does not run; its message is above.") from error
    return answer


def _check(found: Mapping[str, Sequence[Any]]) -> None:
    expected = found[BASELINE]
    for name in (name for name in found if name.endswith("fp32")):
        missing = sum(not any(_same(one, other) for other in found[name]) for one in expected)
        if missing > MOST_DIFFERENT * len(expected):
            raise DifferentAnswersError(f"{name} does not find {missing} of {len(expected)} detections of {BASELINE}.")


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    (label, box, score), (other_label, other_box, other_score) = one, other
    near = all(abs(a - b) < 0.5 for a, b in zip(box, other_box, strict=True))
    return bool(label == other_label and near and abs(score - other_score) < 0.01)


def _rows(case: str, turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row a variant; `speedup` is the baseline's median over this one's."""
    times = {name: Summary.of([turn["ms"] for turn in taken]) for name, taken in turns.items()}
    return [
        {
            "case": case,
            "variant": name,
            "median": round(summary.median, 1),
            "low": round(summary.low, 1),
            "high": round(summary.high, 1),
            "unit": "ms",
            "speedup": round(times[BASELINE].median / summary.median, 2),
            "detections": len(turns[name][0]["found"]),
        }
        for name, summary in times.items()
    ]


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    lines = [f"{'':<10} {'':<20} {'ms':>8} {'10 % .. 90 %':>20} {'ratio':>6} {'found':>6}"]
    for row in measured:
        spread = f"{row['low']:.0f} .. {row['high']:.0f}"
        lines.append(
            f"{row['case']:<10} {row['variant']:<20} {row['median']:>8.0f} {spread:>20} {row['speedup']:>6.2f} "
            f"{row['detections']:>6}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
