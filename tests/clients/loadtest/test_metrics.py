"""What /metrics say of a run, out of texts as servers send them."""

from __future__ import annotations

from clients.loadtest.metrics import STAGES, Scrapes, totals


def scraped(*texts: str) -> Scrapes:
    scrapes = Scrapes("http://nowhere/metrics", 10.0)
    scrapes.texts = [(float(k), text) for k, text in enumerate(texts)]
    return scrapes


def maskline(requests: int, waiting: int) -> str:
    """Half of the requests are of another model, whose name holds a brace."""
    lines = ["# HELP maskline_queue_seconds Seconds in the queue."]
    for model in ('model="demo",version="1"', 'model="odd } name",version="1"'):
        for stage, seconds in (("queue", 0.03), ("inference", 0.1), ("total", 0.15)):
            lines.append(f"maskline_{stage}_seconds_sum{{{model}}} {requests * seconds / 2}")
            lines.append(f'maskline_{stage}_seconds_bucket{{{model},le="+Inf"}} {requests / 2}')
            lines.append(f"maskline_{stage}_seconds_count{{{model}}} {requests / 2}")
        lines.append(f"maskline_batch_size_sum{{{model}}} {requests * 1.5}")
        lines.append(f"maskline_batch_size_count{{{model}}} {requests / 2}")
        lines.append(f"maskline_queue_depth{{{model}}} {waiting / 2}")
    return "\n".join([*lines, "process_resident_memory_bytes 1.2e+08", ""])


def test_totals_are_over_the_labels():
    text = '# TYPE a counter\na 1\na_total{x="1"} 2.5\na_total{x="}"} 1e3\n'
    assert totals(text) == {"a": 1.0, "a_total": 1002.5}


def test_masklines_own():
    summary = scraped(maskline(100, 0), maskline(200, 6), maskline(300, 3)).summary()
    assert summary is not None
    assert summary["source"] == "maskline"
    assert summary["ms"] == {"decode": None, "queue": 30.0, "inference": 100.0, "postprocess": None}
    assert summary["batch_size"] == 3.0
    assert summary["queue_depth"] == {"mean": 3.0, "max": 6.0}


def triton(requests: int) -> str:
    label = '{model="m",version="1"}'
    figures = {
        "nv_inference_request_success": requests,
        "nv_inference_count": requests,
        "nv_inference_exec_count": requests / 4,
        "nv_inference_queue_duration_us": requests * 2000,
        "nv_inference_compute_infer_duration_us": requests * 7000,
        "nv_inference_pending_request_count": 5,
    }
    return "\n".join(f"{name}{label} {value}" for name, value in figures.items())


def test_tritons():
    summary = scraped(triton(10), triton(50)).summary()
    assert summary is not None
    assert summary["source"] == "triton"
    assert summary["ms"] == {**dict.fromkeys(STAGES), "queue": 2.0, "inference": 7.0}
    assert (summary["batch_size"], summary["queue_depth"]) == (4.0, {"mean": 5.0, "max": 5.0})


def test_nothing_that_is_known():
    assert scraped().summary() is None
    assert scraped(maskline(1, 1)).summary() is None
    assert scraped("up 1\n", "up 1\n").summary() is None


def test_a_server_that_answered_nothing_meanwhile():
    summary = scraped(maskline(10, 0), maskline(10, 0)).summary()
    assert summary is not None
    assert summary["ms"] == dict.fromkeys(STAGES)


def limits(model: str) -> str:
    gauges = {"max_batch_size": 4, "max_queue_delay_seconds": 0.5, "max_queue_size": 9, "max_queue_wait_seconds": 15}
    lines = [f'maskline_{name}{{model="{model}",version="1"}} {value}' for name, value in gauges.items()]
    engines = [f'maskline_engine_up{{model="{model}",version="1",index="{k}"}} 1' for k in range(2)]
    return "\n".join([*lines, *engines, f'maskline_ready_time_seconds{{model="{model}",version="1"}} 1007.25', ""])


def test_the_server_of_a_model():
    found = scraped(limits("demo") + "process_start_time_seconds 1000.5\n").server()
    assert found == {
        "engines": 2,
        "max_batch_size": 4,
        "max_queue_delay_s": 0.5,
        "max_queue_size": 9,
        "max_queue_wait_s": 15,
        "startup_s": 6.75,
    }
    without = scraped(limits("demo")).server()
    assert without is not None
    assert "startup_s" not in without


def test_several_models_or_another_server_are_not_summed_up():
    assert scraped(limits("demo") + limits("other")).server() is None
    assert scraped("nv_inference_count 1\n").server() is None
    assert scraped().server() is None
