"""BentoML with adaptive batches of up to 8, one worker, and the picture in base64.

A batchable endpoint takes a list; a request's list has one picture.
"""

from __future__ import annotations

import base64

import bentoml

from benchmarks.overhead.peers import work

MAX_BATCH_SIZE, MAX_LATENCY_MS = 8, 60_000


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Small:
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=MAX_LATENCY_MS)
    def predict(self, images: list[str]) -> list[str]:
        """JSON texts, so that BentoML need not look into them."""
        canvases = [work.read(base64.b64decode(image)) for image in images]
        return [answer.decode() for answer in work.answers(canvases)]
