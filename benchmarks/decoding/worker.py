"""One contestant of benchmarks/decode.py in a process of its own: a turn for each line on standard input.

    python benchmarks/decoding/worker.py VARIANT

Runs in the interpreter of the peers or in the project's. A line of JSON holds the JPEG `file`, `resized_hw`,
`canvas_hw` and `corner_yx` of the canvas that is asked for, the `seconds` that a turn takes at least, and where the
canvas is to be written (`save`), or null; the answer is a line of JSON. Everyone has one thread.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Canvas = npt.NDArray[Any]
Job = Mapping[str, Any]
Read = Callable[[bytes, Job], Canvas]
"""From the bytes of a JPEG to a canvas [H, W, 3], uint8 or float32, 0 to 255."""


def maskline(family: str) -> Read:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.decoding.rules import model
    from server.pictures.decode import PictureFile
    from server.preprocess import prepare_file

    card = model(family)
    return lambda data, _: prepare_file(PictureFile(data), card).image


def pillow(draft: bool) -> Read:
    """The straightforward way; `draft` has libjpeg leave out frequencies, down to the size that is wanted."""
    from PIL import Image

    def read(data: bytes, job: Job) -> Canvas:
        (h, w), image = job["resized_hw"], Image.open(io.BytesIO(data))
        if draft:
            image.draft("RGB", (w, h))
        resized = image.convert("RGB").resize((w, h), Image.Resampling.BILINEAR)
        return _placed(np.asarray(resized), job)

    return read


def opencv(area: bool) -> Read:
    import cv2

    cv2.setNumThreads(1)
    interpolation = cv2.INTER_AREA if area else cv2.INTER_LINEAR

    def read(data: bytes, job: Job) -> Canvas:
        h, w = job["resized_hw"]
        picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return _placed(cv2.resize(picture, (w, h), interpolation=interpolation), job)

    return read


def torchvision_io() -> Read:
    """Its own decoder and its antialiased resize of bytes."""
    torch = _torch()
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resize

    def read(data: bytes, job: Job) -> Canvas:
        picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return _placed(resize(picture, job["resized_hw"], antialias=True).permute(1, 2, 0).numpy(), job)

    return read


def torchvision_model() -> Read:
    """What its model does with what its users give it: Pillow, `to_tensor`, and `interpolate` in float32."""
    torch = _torch()
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    def read(data: bytes, job: Job) -> Canvas:
        picture = to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
        resized = torch.nn.functional.interpolate(picture[None], job["resized_hw"], mode="bilinear")[0]
        return _placed(resized.mul_(255).permute(1, 2, 0).numpy(), job)

    return read


def scikit_image() -> Read:
    """What Matterport's code does."""
    from PIL import Image
    from skimage.transform import resize

    def read(data: bytes, job: Job) -> Canvas:
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        if list(picture.shape[:2]) != job["resized_hw"]:
            size = job["resized_hw"]
            resized = resize(picture, size, order=1, mode="constant", preserve_range=True, anti_aliasing=False)
            picture = resized.astype(np.uint8)
        return _placed(picture, job)

    return read


VARIANTS: dict[str, Callable[[], Read]] = {
    "maskline, trained here": lambda: maskline("native"),
    "maskline, detectron2's rule": lambda: maskline("detectron2"),
    "maskline, torchvision's rule": lambda: maskline("torchvision"),
    "maskline, Matterport's rule": lambda: maskline("matterport"),
    "Pillow": lambda: pillow(draft=False),
    "Pillow, draft": lambda: pillow(draft=True),
    "OpenCV, INTER_LINEAR": lambda: opencv(area=False),
    "OpenCV, INTER_AREA": lambda: opencv(area=True),
    "torchvision.io": torchvision_io,
    "torchvision's model": torchvision_model,
    "scikit-image": scikit_image,
}


def _placed(resized: Canvas, job: Job) -> Canvas:
    (h, w), (y, x) = resized.shape[:2], job["corner_yx"]
    canvas = np.zeros((*job["canvas_hw"], 3), resized.dtype)
    canvas[y : y + h, x : x + w] = resized
    return canvas


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch


def main(variant: str) -> None:
    read = VARIANTS[variant]()
    for line in sys.stdin:
        job = json.loads(line)
        data, times = Path(job["file"]).read_bytes(), []
        canvas = read(data, job)  # does not count: what is loaded at first use, memory that has grown
        if job["save"]:
            np.save(job["save"], canvas)
        while not times or sum(times) < job["seconds"] * 1e3:
            started = time.process_time()
            read(data, job)
            times.append((time.process_time() - started) * 1e3)
        print(json.dumps({"ms": times}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
