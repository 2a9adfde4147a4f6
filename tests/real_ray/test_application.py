"""What a replica is made of, without a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema
from starlette.types import Message

from server.app import create_app
from server.contract.errors import EngineLost
from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FakeEngine
from server.models import Models
from server.ray_serve import Warmed, app
from server.settings import Settings
from tests.real_ray.conftest import ROOT


class Cold(FakeEngine):
    """Its first run takes a while, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.warm = False
        self._failure = failure

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if self._failure is not None:
            raise self._failure
        self.warm = True
        return super().infer(images, windows)


def start(engine: Cold) -> Message:
    """What the application says of its start-up."""
    settings = Settings(engine="fake")
    application = Warmed(create_app(settings, Models.of(settings, [engine])))

    async def run() -> Message:
        asked: asyncio.Queue[Message] = asyncio.Queue()
        said: asyncio.Queue[Message] = asyncio.Queue()
        asked.put_nowait({"type": "lifespan.startup"})
        task = asyncio.create_task(application({"type": "lifespan", "state": {}}, asked.get, said.put))
        answer = await said.get()
        asked.put_nowait({"type": "lifespan.shutdown"})
        await task
        return answer

    return asyncio.run(run())


def test_it_has_started_when_its_models_are_warm():
    engine = Cold()
    assert start(engine) == {"type": "lifespan.startup.complete"}
    assert engine.warm


def test_a_model_that_cannot_run_fails_the_start():
    answer = start(Cold(EngineLost("the device is gone")))
    assert answer["type"] == "lifespan.startup.failed"
    assert "the device is gone" in answer["message"]


def deployment_of(**arguments: Any) -> serve.Deployment:
    return app(arguments)._bound_deployment


def test_a_replica_has_a_gpu_and_as_many_threads_as_cpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASKLINE_MAX_QUEUE_SIZE", "99")
    one = deployment_of(engine="fake", num_gpus="1", num_cpus="6", max_replicas="4")
    assert one.ray_actor_options == {"num_cpus": 6, "num_gpus": 1}
    assert one.max_ongoing_requests == 99


@pytest.mark.parametrize("name", ["port", "host", "no_such_setting"])
def test_settings_that_are_not_its_own_are_refused(name: str):
    with pytest.raises(ValueError, match=name):
        app({name: "1"})


def test_the_config_file_is_one_of_serve_and_builds():
    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text()))
    (application,) = config.applications
    assert application.import_path == "server.ray_serve:app"
    assert deployment_of(**application.args).ray_actor_options == {"num_cpus": 8, "num_gpus": 1}
