"""The endpoint that people write for a Mask R-CNN of torchvision: FastAPI, Pillow, the eager model, pycocotools.

    python -m benchmarks.whole_service.fastapi_torchvision WEIGHTS.pth PORT

A plain `def` route, which FastAPI runs in its pool of threads. One forward runs at a time and has all cores, in
channels_last, which is faster on CPUs; pictures are decoded and masks encoded beside it.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import torch
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from PIL import Image, ImageOps
from pycocotools import mask as coco

from benchmarks.whole_model import worker

torch.set_num_threads(len(os.sched_getaffinity(0)))
model = worker.torchvision_model(Path(sys.argv[1])).to(memory_format=torch.channels_last)
alone = threading.Lock()
app = FastAPI()


async def picture(request: Request) -> bytes:
    return await request.body()


@app.post("/predict")
def predict(data: Annotated[bytes, Depends(picture)]) -> Response:
    x = tensor(data)
    with alone, torch.inference_mode():
        found = model([x])[0]
    answer = {"images": [{"detections": detections(found)}]}
    return Response(orjson.dumps(answer), media_type="application/json")


@app.get("/health")
def health() -> str:
    return "ok"


def tensor(data: bytes) -> torch.Tensor:
    """RGB [3, h, w] from 0 to 1, upright."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def detections(found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Masks are the picture's size: [D, 1, h, w] probabilities."""
    masks = (found["masks"][:, 0] >= 0.5).numpy()
    boxes, labels, scores = (found[name].tolist() for name in ("boxes", "labels", "scores"))
    return [
        {"box": box, "class_id": label, "score": score, "mask": encoded(mask)}
        for box, label, score, mask in zip(boxes, labels, scores, masks, strict=True)
    ]


def encoded(mask: Any) -> dict[str, Any]:
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
