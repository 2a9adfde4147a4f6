"""How long the parts of a request took, by the size that the picture had in the engine and by batch: what
`maskline plan` works with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.loadtest.generator import Sample

MOST_VALUES = 100


def service_times(answered: Sequence[Sample]) -> list[dict[str, Any]] | None:
    """An entry for each canvas; None where the server told nothing (`Server-Timing`).

    `rest_ms` is the latency less queue and inference: network, decoding, masks, the generator's lag. `inference_ms` is
    that of the batches of one size, each counted once for each of its requests. Both are rising values, all of them or
    a hundred that are equally likely.
    """
    told = [sample for sample in answered if {"queue", "inference", "batch"} <= sample.server_ms.keys()]
    canvases: dict[str, list[Sample]] = defaultdict(list)
    for sample in told:
        canvases[sample.canvas].append(sample)
    return [_canvas(name, samples) for name, samples in sorted(canvases.items())] or None


def _canvas(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    sizes: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        sizes[int(sample.server_ms["batch"])].append(sample.server_ms["inference"])
    rest_ms = [sample.latency_ms - sample.server_ms["queue"] - sample.server_ms["inference"] for sample in samples]
    return {
        "canvas": name,
        "requests": len(samples),
        "rest_ms": _values(rest_ms),
        "batches": [
            {"size": size, "requests": len(values), "inference_ms": _values(values)}
            for size, values in sorted(sizes.items())
        ],
    }


def _values(values: Sequence[float]) -> list[float]:
    ascending: npt.NDArray[np.float64] = np.sort(values)
    if len(ascending) > MOST_VALUES:
        ascending = np.quantile(ascending, (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES)
    return [round(float(value), 3) for value in ascending]
