"""What a JPEG costs from its bytes to a canvas for the network, beside what people use instead.

    python benchmarks/decode.py --json decode.json --plot decode.png
    python benchmarks/decode.py --picture holiday.jpg

12 megapixels, 1080p and 400 x 300, resized by the usual rules of the families: 800/1333, Matterport's 1024 square. The
picture is made up, or the given one brought to each size and saved anew (quality 90, 4:2:0). The figure is CPU time
of one thread, which other work on the machine moves less. `difference` is the mean over the canvas in levels of 0 to
255, from what the same rule gives in its family's own way: Pillow's bilinear for models trained here and detectron2,
torchvision's model, scikit-image for Matterport. Peers come from the interpreter that MASKLINE_PEER_PYTHON names, else
from an environment that is made once. Needs Maskline's extra server.
Exit status: 0 done, 1 a canvas is further from its reference than it may be, 2 it cannot run here.
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

from benchmarks.decoding.rules import sizes
from benchmarks.gpu.measuring import Summary
from benchmarks.overhead.peer_python import PeersError, peer_python
from benchmarks.reporting import add_outputs, bars, publish

FOLDER = Path(__file__).resolve().with_name("decoding")
CASES = {"12 MP": (3000, 4000), "1080p": (1080, 1920), "400x300": (300, 400)}
BASELINE = "Pillow"
RULES = {
    "maskline, trained here": "native", "maskline, detectron2's rule": "detectron2",
    "maskline, torchvision's rule": "torchvision", "maskline, Matterport's rule": "matterport",
    BASELINE: "native", "Pillow, draft": "native", "OpenCV, INTER_LINEAR": "native", "OpenCV, INTER_AREA": "native",
    "torchvision.io": "native", "torchvision's model": "torchvision", "scikit-image": "matterport",
}  # fmt: skip
"""Of each variant; those of Maskline run in this interpreter."""
REFERENCES = {
    "native": BASELINE, "detectron2": BASELINE, "torchvision": "torchvision's model", "matterport": "scikit-image",
}  # fmt: skip
MOST_DIFFERENT = 1.5
"""Mean levels, for models trained here, which get pictures by way of half their size; for others: 1 level anywhere."""
TURN_S = 0.3


class DifferentCanvasError(Exception):
    """A canvas is further from its reference than it may be."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        measured = _measured(arguments.rounds, arguments.picture)
    except DifferentCanvasError as error:
        print(f"decode: {error}", file=sys.stderr)
        return 1
    except (PeersError, OSError) as error:
        print(f"decode: {error}", file=sys.stderr)
        return 2
    publish(arguments, measured, table, partial(bars, title="CPU ms", log=True))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often everyone has a turn (default 5)")
    add("--picture", type=Path, metavar="FILE", help="a photograph, in place of a made-up picture")
    add_outputs(parser)
    return parser


def _measured(rounds: int, picture: Path | None) -> list[dict[str, Any]]:
    peers = peer_python(FOLDER / "peers" / "requirements.txt")
    with tempfile.TemporaryDirectory() as name, _workers(peers) as workers:
        folder, measured = Path(name), []
        for case, size_hw in CASES.items():
            file = folder / f"{case}.jpg"
            _scaled(picture, size_hw).save(file, quality=90, subsampling="4:2:0")
            times = _turns(size_hw, file, workers, rounds)
            measured += _rows(case, file, times)
    return measured


def _scaled(picture: Path | None, size_hw: tuple[int, int]) -> Image.Image:
    if picture is None:
        return scene(*size_hw)
    with Image.open(picture) as image:
        return image.convert("RGB").resize(size_hw[::-1], Image.Resampling.BICUBIC)


def scene(h: int, w: int) -> Image.Image:
    """Blots from the size of the picture down to that of a few pixels, the finest of them grey, and grain: at 12
    megapixels about as many bytes as a telephone's picture."""
    rng, total = np.random.default_rng(0), np.zeros((h, w, 3), np.float32)
    for i in range(9):
        layer = rng.integers(0, 256, (3 << i, 4 << i, 3 if i < 5 else 1), dtype=np.uint8)
        blots = Image.fromarray(np.broadcast_to(layer, (*layer.shape[:2], 3)))
        total += np.asarray(blots.resize((w, h), Image.Resampling.BICUBIC))
    pixels = total / 9 * 2 - 128 + rng.normal(0, 2, (h, w, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@contextmanager
def _workers(peers: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process a variant; all but one wait."""
    workers = {
        name: subprocess.Popen(
            [sys.executable if name.startswith("maskline") else peers, str(FOLDER / "worker.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in RULES
    }  # fmt: skip
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()


def _turns(
    size_hw: tuple[int, int], file: Path, workers: Mapping[str, subprocess.Popen[str]], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds of each; everyone in turn, forwards and backwards: what drifts meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in list(workers)[:: 1 if number % 2 == 0 else -1]:
            save = None if number else str(_canvas_file(file, name))
            job = {"file": str(file), "seconds": TURN_S, "save": save, **sizes(RULES[name], *size_hw)}
            times[name] += _turn(name, workers[name], job)
    return times


def _canvas_file(picture: Path, variant: str) -> Path:
    return picture.with_name(f"{picture.stem} {variant}.npy")


def _turn(name: str, worker: subprocess.Popen[str], job: Mapping[str, Any]) -> list[float]:
    if worker.stdin is None or worker.stdout is None:
        raise AssertionError("The worker has no pipes. This is a bug.")
    try:
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        times: list[float] = json.loads(worker.stdout.readline())["ms"]
    except (OSError, ValueError) as error:
        raise PeersError(
            f"{name} does not run; its message is above. MASKLINE_PEER_PYTHON may name an interpreter that has "
            f"what is in {FOLDER.name}/peers/requirements.txt."
        ) from error
    return times


def _rows(case: str, file: Path, times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row a variant; `speedup` is the baseline's median over this one's. Raises `DifferentCanvasError`."""
    summaries = {name: Summary.of(taken) for name, taken in times.items()}
    canvases = {name: np.load(_canvas_file(file, name)).astype(np.float32) for name in times}
    rows = []
    for name, summary in summaries.items():
        rule = RULES[name]
        differences = np.abs(canvases[name] - canvases[REFERENCES[rule]])
        mean, largest = float(differences.mean()), float(differences.max())
        if name.startswith("maskline") and (mean > MOST_DIFFERENT if rule == "native" else largest > 1):
            raise DifferentCanvasError(f"{name} differs by {mean:.2f} levels, at most {largest:.0f}, at {case}.")
        rows.append(
            {
                "case": case,
                "variant": name,
                "median": round(summary.median, 3),
                "low": round(summary.low, 3),
                "high": round(summary.high, 3),
                "unit": "CPU ms",
                "speedup": round(summaries[BASELINE].median / summary.median, 2),
                "difference": round(mean, 3),
                "largest_difference": round(largest, 3),
                "jpeg_bytes": file.stat().st_size,
            }
        )
    return rows


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person."""
    lines = [f"{'':<8} {'':<30} {'CPU ms':>8} {'10 % .. 90 %':>18} {'ratio':>6} {'difference':>11} {'largest':>8}"]
    for row in measured:
        spread = f"{row['low']:.2f} .. {row['high']:.2f}"
        lines.append(
            f"{row['case']:<8} {row['variant']:<30} {row['median']:>8.2f} {spread:>18} {row['speedup']:>6.2f} "
            f"{row['difference']:>11.3f} {row['largest_difference']:>8.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
