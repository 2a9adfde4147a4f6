"""What the protocol tells of models: their tensors, whether they are ready, what they have answered."""

from __future__ import annotations

from typing import Any

import orjson

from server.model import EngineHealth
from server.models import Model
from server.protocols.open_inference.tensors import INPUTS, OUTPUTS
from server.statistics import ModelStatistics, Sum

PLATFORM = "maskline"
EXTENSIONS = ("binary_tensor_data", "model_repository", "schedule_policy", "statistics")
TYPES = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "INT32": "TYPE_INT32", "FP32": "TYPE_FP32"}
STAGES = {
    "queue": "queue",
    "compute_input": "decode",
    "compute_infer": "inference",
    "compute_output": "postprocess",
}
STATES = {"ready": "READY", "warming": "LOADING", "restarting": "LOADING", "failed": "UNAVAILABLE"}


def metadata(model: Model, versions: list[str]) -> dict[str, Any]:
    def listed(tensors: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": type_, "shape": shape} for name, (type_, shape) in tensors.items()]

    return {
        "name": model.card.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": listed(INPUTS),
        "outputs": listed(OUTPUTS),
    }


def config(model: Model) -> dict[str, Any]:
    """Triton's model configuration, as far as it says something of this model."""
    inputs = [
        {"name": name, "data_type": TYPES[type_], "dims": shape, "optional": True}
        for name, (type_, shape) in INPUTS.items()
    ]
    outputs = [
        {"name": name, "data_type": TYPES[type_], "dims": shape, "optional": False}
        for name, (type_, shape) in OUTPUTS.items()
    ]
    return {
        "name": model.card.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": inputs,
        "output": outputs,
        "model_transaction_policy": {"decoupled": False},
        "parameters": {"classes": {"string_value": orjson.dumps(model.card.classes).decode()}},
    }


def index_entry(model: Model) -> dict[str, str]:
    return {
        "name": model.card.name,
        "version": model.card.version,
        "state": STATES[model.state],
        "reason": "" if model.state == "ready" else model.reason,
    }


def statistics(model: Model, counted: ModelStatistics) -> dict[str, Any]:
    """Requests and pictures by what was `counted` of them, batches by what the model's batcher counted."""
    batches, none = model.serving.batcher.stats, _duration(Sum())
    return {
        "name": model.card.name,
        "version": model.card.version,
        "last_inference": counted.last_answer_ms,
        "inference_count": counted.pictures,
        "execution_count": batches.batches,
        "inference_stats": {
            "success": _duration(counted.success),
            "fail": _duration(counted.fail),
            **{name: _duration(counted.stages.get(stage, Sum())) for name, stage in STAGES.items()},
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": none,
                "compute_infer": _duration(Sum(count, seconds)),
                "compute_output": none,
            }
            for size, (count, seconds) in sorted(batches.by_size.items())
        ],
        "engine_stats": [_engine_statistics(engine) for engine in model.engines],
    }


def _engine_statistics(engine: EngineHealth) -> dict[str, Any]:
    return {
        "engine": engine.description,
        "state": engine.state,
        "reason": engine.reason,
        "inference_count": engine.counted.items,
        "fail_count": engine.counted.failed_batches,
        "restart_count": engine.counted.restarts,
        "compute_infer": _duration(Sum(engine.counted.batches, engine.counted.run_s)),
    }


def _duration(total: Sum) -> dict[str, int]:
    return {"count": total.count, "ns": round(total.seconds * 1e9)}
