"""Pictures whose answers are known beforehand: the fake engine's follow from the picture alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from server.engines.fake import FAKE_CARD, FakeEngine
from server.pipeline import Pipeline

SIZES_WH = ((64, 64), (160, 120), (120, 160), (320, 200), (500, 375), (37, 301))
ADMIN_KEY = "soak"


@dataclass(frozen=True)
class Case:
    """A picture file and `images` of its answer; None: it is bad, and the answer is a 4xx."""

    data: bytes
    content_type: str
    images: list[dict[str, Any]] | None


def good_cases(count: int, seed: int = 0) -> list[Case]:
    """Of several sizes and formats, each with an answer that no other has."""
    pipeline, rng = Pipeline(FakeEngine()), np.random.default_rng(seed)
    cases: list[Case] = []
    seen: set[bytes] = set()
    while len(cases) < count:
        kind = ("PNG", "JPEG")[len(cases) % 2]
        data = _picture(rng, SIZES_WH[len(cases) % len(SIZES_WH)], kind)
        answer = orjson.dumps([pipeline.predict(data)])
        if answer not in seen:
            seen.add(answer)
            cases.append(Case(data, f"image/{kind.lower()}", orjson.loads(answer)))
    return cases


def bad_cases(good: Sequence[Case]) -> list[Case]:
    """Nothing, noise, and pictures that are cut off."""
    noise = np.random.default_rng(1).bytes(2000)
    cut = [case.data[: len(case.data) * 2 // 3] for case in good[:4]]
    return [Case(data, "image/png", None) for data in (b"", noise, b"\x89PNG\r\n\x1a\n" + noise, *cut)]


def write_bundle(folder: Path) -> Path:
    """What `--engine fake` serves, as a bundle, so that it can be loaded again."""
    folder.mkdir(parents=True)
    network = b"The fake engine opens no file."
    (folder / "model.onnx").write_bytes(network)
    file = FAKE_CARD.files[0].model_copy(update={"path": "model.onnx", "sha256": hashlib.sha256(network).hexdigest()})
    card = FAKE_CARD.model_copy(update={"files": [file]})
    (folder / "model.json").write_text(card.model_dump_json(), encoding="utf-8")
    return folder


def _picture(rng: np.random.Generator, size_wh: tuple[int, int], kind: str) -> bytes:
    """One colour and a little noise."""
    w, h = size_wh
    pixels = rng.integers(0, 256, 3) + rng.integers(-20, 21, (h, w, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()
