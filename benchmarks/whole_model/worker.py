"""One contestant of benchmarks/model.py in a process of its own: an answer for each line on standard input.

    python benchmarks/whole_model/worker.py torchvision WEIGHTS.pth PICTURES.npz THREADS
    python benchmarks/whole_model/worker.py ENGINE BUNDLE PICTURES.npz THREADS
    python benchmarks/whole_model/worker.py weights OUT.pth PICTURES.npz THREADS

A line names a picture; the answer is a line of JSON: milliseconds, and the classes, boxes and scores that were found.
Time runs from the picture at the network's size to boxes and masks in the picture: torchvision's pasted, ours as run
lengths. `weights` makes weights that find something in the pictures instead, and ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Found = list[tuple[int, list[float], float]]
Answer = Callable[[Picture], tuple[float, Found]]

CLASSES = 91
CONFIDENT = 5.0
"""Times the class weights of a random head: scores then spread over 0 to 1."""


def main() -> None:
    kind, source, pictures_file, threads = sys.argv[1:]
    pictures = dict(np.load(pictures_file))
    if kind == "weights":
        write_weights(Path(source), list(pictures.values()))
        return
    make = torchvision_eager if kind == "torchvision" else lambda *given: maskline(kind, *given)
    answer = make(Path(source), int(threads))
    for line in sys.stdin:
        ms, found = answer(pictures[line.strip()])
        print(json.dumps({"ms": ms, "found": found}), flush=True)


def maskline(engine: str, bundle: Path, threads: int) -> Answer:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from server.contract.wire import PredictOptions
    from server.pipeline import Pipeline
    from server.preprocess import Canvas

    pipeline = Pipeline.open(bundle, engine, threads=threads)  # type: ignore[arg-type]
    options = PredictOptions(score_threshold=0.0, max_detections=100)

    def answer(picture: Picture) -> tuple[float, Found]:
        h, w = picture.shape[:2]
        canvas = Canvas(picture.astype(pipeline.card.input.dtype), (0, 0, w, h), (h, w))
        started = time.perf_counter()
        (rows,) = pipeline.infer([canvas])
        result = pipeline.finish(canvas, rows, options)
        ms = (time.perf_counter() - started) * 1e3
        return ms, [(found.class_id, list(found.box), found.score) for found in result.detections]

    return answer


def torchvision_eager(weights: Path, threads: int) -> Answer:
    import torch

    torch.set_num_threads(threads)
    model = torchvision_model(weights)

    def answer(picture: Picture) -> tuple[float, Found]:
        # Its own resize would enlarge the smaller picture.
        model.transform.min_size, model.transform.max_size = (min(picture.shape[:2]),), max(picture.shape[:2])
        with torch.inference_mode():
            x = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
            started = time.perf_counter()
            found = model([x])[0]
            ms = (time.perf_counter() - started) * 1e3
        return ms, list(zip(*(found[name].tolist() for name in ("labels", "boxes", "scores")), strict=True))

    return answer


def torchvision_model(weights: Path) -> Any:
    """Ready to answer."""
    import torch

    model = _model()
    model.load_state_dict(torch.load(weights))
    return model.eval()


def write_weights(out: Path, pictures: Sequence[Picture]) -> None:
    """Random, with the statistics of BatchNorm from pictures, and a class head that is sure of itself."""
    import torch

    torch.manual_seed(0)
    model = _model().train()
    for norm in (layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the mean of what it sees
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy(picture).permute(2, 0, 1).float()[None] / 255
            model.backbone((x - x.mean()) / x.std())
        model.roi_heads.box_predictor.cls_score.weight.mul_(CONFIDENT)
    torch.save(model.state_dict(), out)


def _model() -> Any:
    from torch.nn import BatchNorm2d
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=BatchNorm2d)
    return MaskRCNN(backbone, num_classes=CLASSES)


if __name__ == "__main__":
    main()
