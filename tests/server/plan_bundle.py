"""A bundle with a plan for the fake TensorRT."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from server.contract.card import BundleFile, ModelCard
from server.engines.fake import FAKE_CARD
from tests.server.fake_tensorrt import plan_of
from tests.server.running import write_bundle
from tests.server.tiny_onnx import MASK_SIZE, tiny_onnx

CANVASES = [(128, 256), (256, 128), (256, 256)]
MAX_BATCH = 3
PROFILES = [{"canvas": list(canvas), "max_batch": MAX_BATCH} for canvas in CANVASES]


def write_plan_bundle(folder: Path, plan: bytes | None = None, **entry: object) -> Path:
    """A bundle with an ONNX file and its plan; `entry` replaces what the card says of the plan."""
    tiny = tiny_onnx()
    card_input = FAKE_CARD.input.model_copy(update={"canvases": CANVASES})
    write_bundle(folder, tiny, name="tiny", input=card_input)
    if plan is None:
        plan = plan_of(tiny, PROFILES, FAKE_CARD.output.max_detections, MASK_SIZE)
    (folder / "model.plan").write_bytes(plan)
    values: dict[str, Any] = {
        "path": "model.plan",
        "sha256": hashlib.sha256(plan).hexdigest(),
        "engine": "tensorrt",
        "precision": "fp16",
        "tensorrt": "11.1.0.106",
        "compute_capability": "9.0",
        "profiles": PROFILES,
    }
    card = ModelCard.model_validate_json((folder / "model.json").read_bytes())
    file = BundleFile.model_validate(values | entry)
    (folder / "model.json").write_text(card.model_copy(update={"files": [*card.files, file]}).model_dump_json())
    return folder
