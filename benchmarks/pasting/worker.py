"""One contestant of benchmarks/masks.py in a process of its own: a turn for each line on standard input.

    python benchmarks/pasting/worker.py VARIANT INPUTS.npz

Runs in the interpreter of the peers or in the project's. A line holds a case and the seconds that a turn takes at
least; the answer is a line of JSON. The first turn of a case also tells the texts that came out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Paste = Callable[[Floats, Floats, int, int], list[str]]
"""Masks [D, S, S] and boxes [D, 4] to the compressed counts of masks [h, w]."""


def maskline(rule: str) -> Paste:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from server.pasting import compress, paste

    return lambda masks, boxes, h, w: compress(paste(masks, boxes, (h, w), rule))  # type: ignore[arg-type]


def torchvision_paste() -> Paste:
    """What torchvision's model does on a CPU, with the threshold and the encoding that its users add."""
    torch = _torch()
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    def paste(masks: Floats, boxes: Floats, h: int, w: int) -> list[str]:
        pasted = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (h, w))
        return _encoded((pasted >= 0.5)[:, 0].numpy())

    return paste


def grid_sample_paste() -> Paste:
    """detectron2's way on a CPU: each mask sampled within its box, into boolean masks of the picture's size."""
    torch = _torch()

    def one(mask: Any, box: list[float], full: Any) -> None:
        (x1, y1, x2, y2), (h, w) = box, full.shape
        left, top = max(int(x1), 0), max(int(y1), 0)
        xs = torch.arange(left, min(int(np.ceil(x2)), w)) + 0.5
        ys = torch.arange(top, min(int(np.ceil(y2)), h)) + 0.5
        x, y = (xs - x1) / (x2 - x1) * 2 - 1, (ys - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
        sampled = torch.nn.functional.grid_sample(mask[None, None], grid, align_corners=False)
        full[top : top + len(ys), left : left + len(xs)] = sampled[0, 0] >= 0.5

    def paste(masks: Floats, boxes: Floats, h: int, w: int) -> list[str]:
        pasted = torch.zeros((len(masks), h, w), dtype=torch.bool)
        for mask, box, full in zip(torch.from_numpy(masks), boxes.tolist(), pasted, strict=True):
            one(mask, box, full)
        return _encoded(pasted.numpy())

    return paste


VARIANTS: dict[str, Callable[[], Paste]] = {
    "maskline": lambda: maskline("detectron2"),
    "maskline, torchvision's rule": lambda: maskline("torchvision"),
    "torchvision paste + pycocotools": torchvision_paste,
    "grid_sample paste + pycocotools": grid_sample_paste,
}


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch


def _encoded(masks: npt.NDArray[np.bool_]) -> list[str]:
    from pycocotools import mask as coco

    return [coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]


def _turn(run: Callable[[], list[str]], at_least_s: float) -> tuple[list[float], list[str]]:
    """CPU milliseconds of each run, and what the last one gave."""
    times: list[float] = []
    while sum(times) < at_least_s * 1e3:
        started = time.process_time()
        texts = run()
        times.append((time.process_time() - started) * 1e3)
    return times, texts


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


def main(variant: str, inputs: str) -> None:
    paste = VARIANTS[variant]()
    with np.load(inputs) as arrays:
        masks, cases = arrays["masks"], {name: arrays[name] for name in arrays.files if name != "masks"}
    paste(masks[:1], np.float32([[0, 0, 9, 9]]), 10, 10)  # what is loaded at first use
    told = set()
    for line in sys.stdin:
        case, at_least_s = json.loads(line)
        *boxes, (h, w, _, _) = cases[case].tolist()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _memory_mb("VmRSS")
        times, texts = _turn(partial(paste, masks, np.float32(boxes), int(h), int(w)), at_least_s)
        answer = {"ms": times, "added_mb": _memory_mb("VmHWM") - before}
        print(json.dumps(answer if case in told else answer | {"texts": texts}), flush=True)
        told.add(case)


if __name__ == "__main__":
    main(*sys.argv[1:])
