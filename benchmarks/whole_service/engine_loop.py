"""The engine of a server alone, called in a loop: what the server could reach if all else cost nothing.

    python benchmarks/whole_service/engine_loop.py ENGINE BUNDLE PICTURE...

Pictures are prepared beforehand. A line on standard input says for how many seconds; the answer is a line of JSON:
`per_s`, pictures a second over whole passes. The first line is answered after a pass that does not count.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project need not be installed

from server.pictures.decode import decode_image
from server.pipeline import Pipeline

Inputs = list[tuple[np.ndarray, np.ndarray]]


def main(engine: str, bundle: str, *pictures: str) -> None:
    pipeline = Pipeline.open(bundle, engine)  # type: ignore[arg-type]  # of the command line
    canvases = [pipeline.prepare(decode_image(Path(picture).read_bytes())) for picture in pictures]
    inputs = [(canvas.image[None], np.array([canvas.window_xyxy], np.float32)) for canvas in canvases]
    per_s(pipeline, inputs, 0)
    for line in sys.stdin:
        print(json.dumps({"per_s": per_s(pipeline, inputs, float(line))}), flush=True)


def per_s(pipeline: Pipeline, inputs: Inputs, at_least_s: float) -> float:
    """Pictures a second, over as many passes as that takes."""
    started, passes = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < at_least_s or not passes:
        for image, window in inputs:
            pipeline.engine.infer(image, window)
        passes += 1
    return passes * len(inputs) / passed


if __name__ == "__main__":
    main(*sys.argv[1:])
