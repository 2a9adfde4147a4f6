"""LitServe with batches of up to 8, one worker, its fast queue, and the picture as a multipart file.

LitServe reads forms and JSON, no raw bodies; a form needs no base64. It looks at the annotation of `decode_request` as
it stands, so annotations are not postponed here.
"""

import sys
from typing import Annotated

import litserve
from fastapi import File, Response

from benchmarks.overhead.peers import work
from server.preprocess import Canvas

MAX_BATCH_SIZE, BATCH_TIMEOUT_S = 8, 0.002


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """The session is opened with the module, in the worker's process."""

    def decode_request(self, request: Annotated[bytes, File()]) -> Canvas:
        return work.read(request)

    def batch(self, inputs: list[Canvas]) -> list[Canvas]:
        return inputs

    def predict(self, x: list[Canvas]) -> list[bytes]:
        return work.answers(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
