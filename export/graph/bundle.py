"""The bundle: what the configuration says becomes `model.json`, and a folder appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import torch

from export.graph.functions import OPSET
from export.graph.inlined import inlined, share_weights
from export.model.config import ModelConfig
from export.serving import serving_input
from server.contract.card import BundleFile, Canvas, ModelCard, Output, Precision, Provenance

if TYPE_CHECKING:
    from export.tensorrt_plan import Plan

CARD_FILE = "model.json"
ONNX_FILE = "model.onnx"
OPENVINO_FILE = "model.openvino.onnx"
"""Without weights: they are in `ONNX_FILE`."""
PLAN_FILE = "model.plan"

DEFAULT_SCORE_THRESHOLD = 0.5
"""Of models trained here, for a query that gives none; an imported model keeps its family's own."""


class OutputError(Exception):
    """The output cannot be written or must not be replaced; the message is for the person who named it."""


def make_card(
    config: ModelConfig,
    *,
    name: str,
    model_version: str,
    weights: Path,
    files: list[BundleFile],
    canvases: Literal["exact"] | list[Canvas] = "exact",
) -> ModelCard:
    """The card of a model with this configuration, without a verification. Raises pydantic's `ValidationError`."""
    limit = config.detection.score_threshold
    return ModelCard(
        name=name,
        version=model_version,
        classes=list(config.classes),
        input=serving_input(config.input, canvases),
        output=Output(
            mask_size=config.mask_size,
            mask_paste=config.mask_paste,
            max_detections=config.detection.max_detections,
            score_threshold=limit,
            default_score_threshold=max(limit, DEFAULT_SCORE_THRESHOLD) if config.family == "native" else limit,
            nms_iou_threshold=config.detection.nms_iou_threshold,
        ),
        files=files,
        provenance=Provenance(
            weights_sha256=sha256(weights),
            family=config.family,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            maskline=version("maskline"),
            torch=torch.__version__,
            opset=OPSET,
        ),
        verification={},
    )


def save_onnx(proto: onnx.ModelProto, folder: Path, precision: Precision = "fp32") -> BundleFile:
    """Writes the graph into a bundle's folder and says what the card has to say of it."""
    path = folder / ONNX_FILE
    onnx.save(proto, path)
    return BundleFile(path=ONNX_FILE, sha256=sha256(path), engine="onnxruntime", precision=precision)


def save_inlined(proto: onnx.ModelProto, folder: Path, precision: Precision) -> BundleFile:
    """Writes the graph as OpenVINO takes it, beside the file that `save_onnx` has made of it."""
    plain = inlined(proto)
    share_weights(plain, folder / ONNX_FILE)
    path = folder / OPENVINO_FILE
    onnx.save(plain, path)
    return BundleFile(path=OPENVINO_FILE, sha256=sha256(path), engine="openvino", precision=precision)


def save_plan(plan: Plan, folder: Path, precision: Precision) -> BundleFile:
    """Writes a plan of TensorRT into a bundle's folder and says what the card has to say of it."""
    path = folder / PLAN_FILE
    path.write_bytes(plan.data)
    return BundleFile(
        path=PLAN_FILE,
        sha256=sha256(path),
        engine="tensorrt",
        precision=precision,
        tensorrt=plan.tensorrt,
        compute_capability=plan.compute_capability,
        profiles=plan.profiles,
    )


def save_card(card: ModelCard, folder: Path) -> None:
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")


def with_verification(card: ModelCard, verification: dict[str, Any]) -> ModelCard:
    return card.model_copy(update={"verification": verification})


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place when the block ends, and is deleted when it raises.

    A bundle that is already there stays as it is until then. Raises `OutputError` at once when `output` is
    something else than a bundle or an empty folder, or cannot be written.
    """
    _check_replaceable(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error
    try:
        draft.chmod(0o777 & ~_umask())  # mkdtemp keeps a folder to its owner; a server may be somebody else
        yield draft
        _swap(draft, output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_replaceable(output: Path) -> None:
    if output.is_dir() and (not any(output.iterdir()) or (output / CARD_FILE).is_file()):
        return
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} is there and is not a bundle; it is left as it is. Name another --output.")


def _swap(draft: Path, output: Path) -> None:
    """Puts `draft` in the place of `output`; if that fails, what was there comes back."""
    if not output.exists():
        draft.rename(output)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
    output.rename(retired / output.name)
    try:
        draft.rename(output)
    except OSError:
        (retired / output.name).rename(output)
        retired.rmdir()
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
