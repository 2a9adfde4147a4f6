"""What `/metrics` tells of requests, models and the process."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from server.app import create_app
from server.contract import errors
from server.engines.fake import FakeEngine
from server.models import Models
from tests.server.running import PNG_HEADERS, fake_server, png, running, server_with, settings

PICTURE = png()
FAKE = {"model": "fake", "version": "1"}


async def samples(client: httpx2.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def value(client: httpx2.AsyncClient, name: str, **labels: str) -> float | None:
    return (await samples(client)).get((name, frozenset(labels.items())))


async def predict(client: httpx2.AsyncClient, query: str = "", body: bytes = PICTURE) -> httpx2.Response:
    return await client.post(f"/predict{query}", content=body, headers=PNG_HEADERS)


async def requests(client: httpx2.AsyncClient, status: int, outcome: str, **labels: str) -> float | None:
    labels = {"route": "/predict", "method": "POST", **labels}
    return await value(client, "maskline_requests_total", status=str(status), outcome=outcome, **labels)


async def test_answered_request() -> None:
    async with fake_server() as client:
        reply = await predict(client)
        assert await requests(client, 200, "ok") == 1
        assert await value(client, "maskline_pictures_total", **FAKE, outcome="ok") == 1
        timings = reply.json()["timings_ms"]
        for stage in ("decode", "queue", "inference", "postprocess"):
            assert await value(client, f"maskline_{stage}_seconds_count", **FAKE) == 1
            seconds = await value(client, f"maskline_{stage}_seconds_sum", **FAKE)
            assert seconds == pytest.approx(timings[stage] / 1e3, abs=1e-6)
        assert await value(client, "maskline_total_seconds_count", **FAKE) == 1
        total = await value(client, "maskline_total_seconds_sum", **FAKE)
        assert total is not None
        assert total >= timings["total"] / 1e3
        assert await value(client, "maskline_batch_size_sum", **FAKE) == 1


async def test_bytes_of_bodies() -> None:
    async with fake_server() as client:
        before_in = await value(client, "maskline_request_bytes_total") or 0
        before_out = await value(client, "maskline_response_bytes_total") or 0
        reply = await predict(client)
        after = await samples(client)
        assert after["maskline_request_bytes_total", frozenset()] == before_in + len(PICTURE)
        assert after["maskline_response_bytes_total", frozenset()] > before_out + len(reply.content)


async def test_pictures_count_by_what_became_of_their_request() -> None:
    async with fake_server() as client:
        await client.post("/predict", files=[("image", ("a", PICTURE, "image/png"))] * 3)
        await client.post("/predict", files=[("image", ("a", data, "image/png")) for data in (PICTURE, b"no")])
        assert await value(client, "maskline_pictures_total", **FAKE, outcome="ok") == 3
        assert await value(client, "maskline_pictures_total", **FAKE, outcome="bad_request") == 2
        assert await requests(client, 422, "bad_request") == 1


async def test_failures_have_outcomes_and_no_latency() -> None:
    async with fake_server(fake_batch_ms=300, max_batch_size=1) as client:
        slow = asyncio.create_task(predict(client))
        assert (await predict(client, "?timeout_ms=1")).status_code == 504
        assert (await predict(client, body=b"no")).status_code == 400
        await slow
        assert await requests(client, 504, "deadline") == 1
        assert await requests(client, 400, "bad_request") == 1
        assert await value(client, "maskline_total_seconds_count", **FAKE) == 1
        assert await value(client, "maskline_pictures_total", **FAKE, outcome="deadline") == 1


async def test_refusals_say_which_limit() -> None:
    async with fake_server(fake_batch_ms=200, max_queue_size=1) as client:
        await asyncio.gather(*(predict(client) for _ in range(3)))
        assert await requests(client, 429, "refused") == 2
        assert await value(client, "maskline_refused_total", **FAKE, reason="items") == 2
        assert await value(client, "maskline_refused_total", **FAKE, reason="memory") == 0


class PoisonedEngine(FakeEngine):
    """Works for black pictures, so that it warms up, and for no others."""

    def infer(self, images, windows):  # type: ignore[no-untyped-def]
        if images.any():
            raise errors.EngineFailed("No memory.")
        return super().infer(images, windows)


async def test_failed_batches() -> None:
    async with server_with(Models.of(settings(), [PoisonedEngine()])) as client:
        assert (await predict(client)).status_code == 500
        assert await requests(client, 500, "error") == 1
        assert await value(client, "maskline_failed_batches_total", **FAKE) == 1
        assert await value(client, "maskline_engine_restarts_total", **FAKE) == 0


async def test_queue_and_predicted_wait() -> None:
    async with fake_server(fake_batch_ms=200, max_batch_size=1) as client:
        await predict(client)
        assert await value(client, "maskline_predicted_wait_seconds", **FAKE) == 0
        tasks = [asyncio.create_task(predict(client)) for _ in range(3)]
        while await value(client, "maskline_queue_depth", **FAKE) != 2:
            await asyncio.sleep(0.005)
        wait = await value(client, "maskline_predicted_wait_seconds", **FAKE)
        assert wait is not None
        assert wait >= 0.3
        assert await value(client, "maskline_requests_in_flight") == 3
        await asyncio.gather(*tasks)
        assert await value(client, "maskline_queue_depth", **FAKE) == 0


async def test_engine_has_one_state() -> None:
    models = Models.of(settings(), [FakeEngine()])
    async with running(create_app(settings(), models)) as client:
        states = [s for name, s in await samples(client) if name == "maskline_engine_state"]
        assert {dict(labels)["state"] for labels in states} == {"warming", "ready", "restarting", "failed"}
        assert await value(client, "maskline_engine_state", **FAKE, state="ready") == 1
        assert await value(client, "maskline_engine_state", **FAKE, state="warming") == 0
        info = await value(client, "maskline_model_info", **FAKE, engine="fake engine, no model")
        assert info == 1


async def test_clients_cannot_make_series() -> None:
    async with fake_server(api_keys=("key",)) as client:
        key = {"X-API-Key": "key"}
        for i in range(5):
            await client.get(f"/made/up/{i}", headers=key)
            await client.request(f"MADEUP{i}", "/predict", headers=key)
            await client.get(f"/models/made-up-{i}", headers=key)
            await client.get(f"/refused/{i}")
            await client.post(f"/predict?model=made-up-{i}", headers=key)
        counted = {
            labels: n for (name, labels), n in (await samples(client)).items() if name == "maskline_requests_total"
        }
        found = {(d["route"], d["method"], d["status"]): n for labels, n in counted.items() if (d := dict(labels))}
        assert found["other", "GET", "404"] == 5
        assert found["/predict", "other", "405"] == 5
        assert found["/models/{name}", "GET", "404"] == 5
        assert found["other", "GET", "401"] == 5
        assert found["/predict", "POST", "404"] == 5
        assert len([key for key, count in found.items() if count]) <= 6
        assert "made" not in (await client.get("/metrics")).text.lower()


async def test_refusal_at_the_door_counts_for_predict() -> None:
    async with fake_server(api_keys=("key",)) as client:
        await predict(client)
        assert await requests(client, 401, "bad_request") == 1


async def test_two_versions_have_series_of_their_own() -> None:
    cards = [FakeEngine().card.model_copy(update={"version": version}) for version in ("1", "2")]
    async with server_with(Models.of(settings(), [FakeEngine(card) for card in cards])) as client:
        await predict(client, "?version=1")
        await predict(client)
        for version in ("1", "2"):
            assert await value(client, "maskline_total_seconds_count", model="fake", version=version) == 1


async def test_an_unloaded_version_leaves_no_series() -> None:
    cards = [FakeEngine().card.model_copy(update={"name": name}) for name in ("stays", "goes")]
    models = Models.of(settings(admin_key="k"), [FakeEngine(card) for card in cards])
    async with server_with(models, admin_key="k") as client:
        for name in ("stays", "goes"):
            await predict(client, f"?model={name}")
        assert 'model="goes"' in (await client.get("/metrics")).text
        await client.post("/models/goes/unload", headers={"X-API-Key": "k"})
        text = (await client.get("/metrics")).text
        assert 'model="goes"' not in text
        assert await value(client, "maskline_total_seconds_count", model="stays", version="1") == 1


async def test_process_and_version() -> None:
    async with fake_server() as client:
        found = dict(list(await samples(client)))
        assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"} <= set(found)
        assert dict(found["maskline_info"])["version"]


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        pytest.param("", False, id="nothing"),
        pytest.param("*/*", False, id="anything"),
        pytest.param("text/plain;version=x", False, id="nonsense"),
        pytest.param("application/openmetrics-text;version=x", True, id="nonsense version"),
        pytest.param("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", True, id="Prometheus"),
    ],
)
async def test_openmetrics_when_asked(accept: str, is_openmetrics: bool) -> None:
    async with fake_server() as client:
        reply = await client.get("/metrics", headers={"Accept": accept})
        assert reply.status_code == 200
        assert reply.headers["Content-Type"].startswith("application/openmetrics-text") == is_openmetrics
        parse = openmetrics_families if is_openmetrics else text_string_to_metric_families
        assert "maskline_queue_depth" in {family.name for family in parse(reply.text)}


async def test_exemplar_names_the_trace() -> None:
    async with fake_server() as client:
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {**PNG_HEADERS, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await client.post("/predict", content=PICTURE, headers=headers)
        reply = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        families = {family.name: family for family in openmetrics_families(reply.text)}
        exemplars = [s.exemplar for s in families["maskline_total_seconds"].samples if s.exemplar]
        assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": trace}]


async def test_how_batches_form_and_when_the_model_was_ready() -> None:
    before = time.time()
    limits = {"max_batch_size": 3, "max_queue_size": 7, "max_queue_wait_s": 9.5}
    async with fake_server(**limits, max_queue_delay_ms=20) as client:
        assert await value(client, "maskline_max_batch_size", **FAKE) == 3
        assert await value(client, "maskline_max_queue_size", **FAKE) == 7
        assert await value(client, "maskline_max_queue_wait_seconds", **FAKE) == 9.5
        assert await value(client, "maskline_max_queue_delay_seconds", **FAKE) == 0.02
        ready = await value(client, "maskline_ready_time_seconds", **FAKE)
        assert ready is not None
        assert before <= ready <= time.time()


# Server-Timing


def stages_of(reply: httpx2.Response) -> list[str]:
    return [part.split(";")[0] for part in reply.headers["Server-Timing"].split(", ")]


async def test_an_error_tells_the_stages_before_it() -> None:
    async with fake_server(fake_batch_ms=300, max_batch_size=1) as client:
        slow = asyncio.create_task(predict(client))
        while await value(client, "maskline_requests_in_flight") != 1:
            await asyncio.sleep(0.005)
        late = await predict(client, "?timeout_ms=100")
        assert late.status_code == 504
        assert stages_of(late) == ["decode", "queue", "total"]
        assert "Server-Timing" not in (await predict(client, body=b"no")).headers
        assert stages_of(await slow) == ["decode", "queue", "inference", "postprocess", "total", "batch", "canvas"]
