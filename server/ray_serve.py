"""The service as a deployment of Ray Serve: `serve run server.ray_serve:app models=BUNDLE num_gpus=1`.

Ray Serve has the proxies, the replicas and their number; a replica is the same application as `maskline serve` runs,
with its own queue, batches and engine.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from fastapi import FastAPI
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from starlette.types import Message, Receive, Scope, Send

from server import logs, process
from server.app import create_app
from server.contract.errors import NotReady
from server.models import Models
from server.settings import Settings

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here
from ray import serve

NAME: Final = "maskline"
OWN: Final = ("host", "port", "root_path", "header_timeout_s", "keep_alive_s", "max_connections")
"""Settings of what stands in front of the application, which is Ray Serve's here."""
LOOK_BACK_S: Final = 12.0
UPSCALE_DELAY_S: Final = 5.0
"""Serve's own 30 s each are longer than the 15 s that a request waits at most."""
CHECK_S: Final = 0.05


class RaySettings(Settings):
    """Settings of the service, and those of its replicas; the same variables count."""

    num_cpus: PositiveFloat = Field(default=1, description="CPUs of a replica, which are its threads")
    num_gpus: NonNegativeFloat = Field(default=0, description="GPUs of a replica")
    min_replicas: NonNegativeInt = Field(default=1, description="fewest replicas")
    max_replicas: PositiveInt = Field(default=1, description="most replicas")
    target_requests: PositiveFloat = Field(
        default=16, description="requests that wait and run at a replica, above which there shall be more replicas"
    )
    downscale_delay_s: NonNegativeFloat = Field(
        default=300, description="how long there must be too many replicas before some are stopped"
    )


def app(arguments: dict[str, Any]) -> serve.Application:
    """What `serve run` and a Serve config file build. Raises `ValueError` for a setting that is not ours or is bad."""
    foreign = [name for name in OWN if name in arguments]
    if foreign:
        raise ValueError(f"{foreign[0]}: Ray Serve listens here, not Maskline; see http_options of Ray Serve.")
    settings = RaySettings(**arguments)
    threads = max(1, int(settings.num_cpus))
    settings = settings.model_copy(
        update={
            "threads": settings.threads or threads,
            "picture_threads": settings.picture_threads or threads,
        }
    )

    def make() -> Warmed:
        process.prepare()
        logs.configure(settings.log_level, settings.log_format)
        return Warmed(create_app(settings))

    return serve.deployment(serve.ingress(make)(Replica)).options(**_options(settings)).bind()


def _options(settings: RaySettings) -> dict[str, Any]:
    """The queue is a replica's own: Serve sends it all that comes, and its admission refuses what would be late."""
    return {
        "name": NAME,
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "max_ongoing_requests": settings.max_queue_size,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5,
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_requests,
            "look_back_period_s": LOOK_BACK_S,
            "upscale_delay_s": UPSCALE_DELAY_S,
            "downscale_delay_s": settings.downscale_delay_s,
        },
    }


class Replica:
    """What Serve asks of a replica besides answers. `app` is the base class's that `serve.ingress` adds."""

    app: Warmed

    async def check_health(self) -> None:
        """Raises `NotReady` where only a new process can serve: Serve then starts another replica."""
        if failure := self.app.models.failure:
            raise NotReady(failure)


class Warmed:
    """The application, which has started when its models are warm: only then Serve sends requests here.

    Its answers come without X-Request-ID: Serve's proxy adds the same one.
    """

    def __init__(self, application: FastAPI) -> None:
        self._application = application

    @property
    def models(self) -> Models:
        """From the start-up on."""
        models: Models = self._application.state.models
        return models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                message = await self._warm()
            await send(message)

        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._application(scope, receive, started if scope["type"] == "lifespan" else without_id)

    async def _warm(self) -> Message:
        while not self.models.ready:
            if failure := self.models.failure:
                return {"type": "lifespan.startup.failed", "message": failure}
            await asyncio.sleep(CHECK_S)
        return {"type": "lifespan.startup.complete"}
