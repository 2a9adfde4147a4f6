"""What every peer does for a request: Pillow, ONNX Runtime and numpy as their users write it.

Boxes and run lengths come from Maskline's own function, so that all contestants answer the same.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
from PIL import Image

from server.contract.card import ModelCard
from server.contract.wire import PredictOptions
from server.postprocess import to_image_result
from server.preprocess import Canvas

BUNDLE = Path(os.environ["BENCHMARK_BUNDLE"])
OPTIONS = PredictOptions()


def _open_session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(BUNDLE / "model.onnx", options, providers=["CPUExecutionProvider"])


card = ModelCard.model_validate_json((BUNDLE / "model.json").read_bytes())
session = _open_session()


def read(data: bytes) -> Canvas:
    """The picture's shortest edge becomes `min_size`; the canvas is rounded up to the divisor."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = card.input.resize.min_size / min(picture.size)
    w, h = round(picture.width * scale), round(picture.height * scale)
    step = card.input.size_divisor
    image = np.zeros((-(-h // step) * step, -(-w // step) * step, 3), np.uint8)
    image[:h, :w] = np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR))
    return Canvas(image, (0, 0, w, h), (picture.height, picture.width))


def answers(canvases: list[Canvas]) -> list[bytes]:
    """Runs one batch; the canvases are of one size."""
    images = np.stack([canvas.image for canvas in canvases])
    windows = np.array([canvas.window_xyxy for canvas in canvases], np.float32)
    detections, masks = session.run(["detections", "masks"], {"images": images, "windows": windows})
    rows = [detections[:, 0] == i for i in range(len(canvases))]
    return [
        orjson.dumps({"images": [to_image_result(detections[of], masks[of], canvas, card, OPTIONS)]})
        for of, canvas in zip(rows, canvases, strict=True)
    ]
