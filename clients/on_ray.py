"""Shards of pictures through engines on a Ray cluster, with Ray Data."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clients.errors import MasklineError, MissingExtraError
from clients.in_process import Answers, Job, answer
from clients.prediction import Prediction, from_image_result
from clients.sources import Shard


@dataclass(frozen=True)
class Workers:
    """How many there are, and what each has."""

    count: int
    cpus: int
    gpus: int


def workers_of(nodes: Iterable[Mapping[str, float]]) -> Workers:
    """One a GPU where there are GPUs, else one a machine; all alike. `nodes`: the resources of each."""
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
    if with_gpu:
        gpus = sum(int(node["GPU"]) for node in with_gpu)
        return Workers(gpus, min(int(node.get("CPU", 0) // int(node["GPU"])) for node in with_gpu), 1)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise MasklineError("The Ray cluster has neither GPUs nor CPUs.")
    return Workers(sum(each // min(cpus) for each in cpus), min(cpus), 0)


def answer_on_ray(address: str | None, job: Job, shards: Sequence[Shard]) -> Answers:
    """`Job.answer` of all pictures of the shards, in their order. Paths of the bundle and of pictures are the same on
    every machine.

    Without an address: the cluster that the environment names, else one that lives as long as this.

    Raises:
        MissingExtraError: no Ray here.
        MasklineError: no cluster; the bundle cannot be loaded, here or there; options that are not for it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("maskline batch --ray", str(error.name), "ray") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError) as error:
        raise MasklineError(f"No Ray cluster at {address}: {error}") from error
    try:
        job.check()
        rows = _rows(ray.data, job, shards, workers_of([node["Resources"] for node in ray.nodes() if node["Alive"]]))
        pictures = (picture for shard in shards for picture in shard.listed())
        for picture, row in zip(pictures, rows, strict=True):
            yield picture, _found(row)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().rpartition("\n")[2]  # after the trace of a worker
        raise MasklineError(f"The cluster gave up. {reason}") from error
    finally:
        ray.shutdown()


def _rows(data: Any, job: Job, shards: Sequence[Shard], workers: Workers) -> Iterator[dict[str, Any]]:
    """One a picture, in order."""
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    given = data.from_items([{"shard": pickle.dumps(shard)} for shard in shards], override_num_blocks=len(shards))
    answered = given.flat_map(
        Worker,
        fn_constructor_args=(job, workers.cpus),
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers.count, len(shards))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    yield from answered.iter_rows()


class Worker:
    """An engine on one of the cluster's machines."""

    def __init__(self, job: Job, cpus: int) -> None:
        self._offline = job.open(cpus or None)

    def __call__(self, row: dict[str, bytes]) -> list[dict[str, str]]:
        """The answers for a shard as JSON, and empty ones with the reason."""
        shard: Shard = pickle.loads(row["shard"])
        return [_row(found) for _, found in answer(self._offline, [shard], lambda _: False)]


def _row(found: Prediction | MasklineError) -> dict[str, str]:
    if isinstance(found, MasklineError):
        return {"answer": "", "failure": str(found)}
    return {"answer": json.dumps([found.to_wire(), found.model, found.version]), "failure": ""}


def _found(row: Mapping[str, str]) -> Prediction | MasklineError:
    if row["failure"]:
        return MasklineError(row["failure"])
    image, model, version = json.loads(row["answer"])
    return from_image_result(image, model, version)
