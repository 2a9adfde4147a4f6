"""The endpoint that most people write first: a plain `def` route, which FastAPI runs in its pool of 40 threads."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request, Response

from benchmarks.overhead.peers import work

app = FastAPI()


async def picture(request: Request) -> bytes:
    return await request.body()


@app.post("/predict")
def predict(data: Annotated[bytes, Depends(picture)]) -> Response:
    (answer,) = work.answers([work.read(data)])
    return Response(answer, media_type="application/json")


@app.get("/health")
def health() -> str:
    return "ok"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
