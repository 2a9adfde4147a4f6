"""The pages: one file each, with every plot, and two reports side by side."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clients.loadtest import compare
from clients.loadtest.__main__ import main
from clients.loadtest.report import knee
from tests.clients.conftest import FakeServer, Reply, answer
from tests.clients.loadtest.conftest import StartServer

OF_ALL_RUNS = [
    "Latency against throughput",
    "Queue against inference",
    "Latency by percentile",
    "Cumulative distribution of the latency",
]
OF_ONE = ["Latency over time", "Histogram of the latency", "Queue and inference over time"]
TIMING = 'decode;dur=1.0, queue;dur=5.5, inference;dur=20, postprocess;dur=0.5, total;dur=27, batch;desc="2"'


@pytest.fixture
def report(server: FakeServer, picture: Path) -> Path:
    server.script = lambda _: Reply(content=answer(), headers={"Server-Timing": TIMING})
    folder = picture.parent / "report"
    arguments = ["--concurrency", "1,2,3", "--duration", "0.2s", "--output", str(folder)]
    assert main([server.url, str(picture), *arguments]) == 0
    return folder


class Wellformed(HTMLParser):
    """Fails where a tag closes that is not the one that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(page: str) -> None:
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=|@import|url\(|fetch\(", page)
    assert "nan" not in page.lower().replace("nanum", "")


def test_the_page_is_one_file_with_every_plot(report: Path):
    page = (report / "report.html").read_text()
    check_page(page)
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == [*OF_ALL_RUNS, *OF_ONE * 3]
    assert page.count("<svg") == page.count("</svg>") == 4 + 3 * 3
    assert "knee: concurrency" in page
    assert "Server-Timing" in page


def test_the_table_to_paste_is_markdown(report: Path):
    page = (report / "report.html").read_text()
    (pasted,) = re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
    head, rule, *rows = [line.strip("|").split("|") for line in pasted.splitlines()]
    assert [len(line) for line in (head, rule, *rows)] == [13] * 5
    assert [row[0].strip() for row in rows] == ["concurrency 1", "concurrency 2", "concurrency 3"]


def test_a_server_that_tells_nothing_is_drawn_without_the_split(fixed_service: StartServer, picture: Path):
    folder = picture.parent / "report"
    arguments = ["--rate", "50", "--duration", "0.3s", "--output", str(folder)]
    assert main([fixed_service(1.0), str(picture), *arguments]) == 0
    page = (folder / "report.html").read_text()
    check_page(page)
    assert "The server sent no Server-Timing" in page
    assert "Queue against inference" not in page


def test_the_knee_is_where_latency_begins_to_outgrow_throughput():
    def row(throughput: float, p50: float) -> dict[str, object]:
        return {"ok": 100, "throughput": throughput, "latency_ms": {"p50": p50}}

    batching = [row(10, 100), row(38, 105), row(70, 120), row(80, 400), row(80, 800)]
    assert knee(batching) == 2
    assert knee(batching[:2]) is None
    unanswered: dict[str, object] = {"ok": 0, "throughput": 0, "latency_ms": {"p50": None}}
    assert knee([row(10, 100), unanswered, row(10, 200), row(10, 400)]) == 0


def test_two_reports_side_by_side(
    report: Path, fixed_service: StartServer, picture: Path, capsys: pytest.CaptureFixture[str]
):
    other = picture.parent / "other"
    arguments = ["--concurrency", "2,4", "--duration", "0.3s", "--output", str(other)]
    assert main([fixed_service(5.0), str(picture), *arguments]) == 0
    capsys.readouterr()
    output = picture.parent / "new" / "both.html"
    assert main(["compare", str(report), str(other / "report.json"), "--output", str(output)]) == 0
    assert "concurrency 2" in capsys.readouterr().out
    page = output.read_text()
    check_page(page)
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == [
        "Latency against throughput",
        "Latency by percentile",
        "Cumulative distribution of the latency",
        "Queue against inference",
    ]
    for name in ("A p50", "B p50", "A concurrency 1", "B concurrency 4"):
        assert name in page


def test_figures_are_compared_by_load(report: Path):
    a = compare.read(report)
    b = json.loads(json.dumps(a))
    b["runs"].pop(0)
    b["runs"][0]["latency_ms"]["p50"] *= 2
    alone, twice, same = compared = compare.compared(a, b)
    assert [line[0] for line in compared] == ["concurrency 1", "concurrency 2", "concurrency 3"]
    p50 = compare.HEAD.index("p50 A")
    assert alone[p50 + 1 : p50 + 3] == [None, None]
    assert twice[p50 + 2] == "2.00x"
    assert same[p50 + 2] == "1.00x"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"runs": [{}]}'])
def test_what_is_no_report_is_said(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", str(tmp_path), str(path)]) == 2
    assert str(path) in capsys.readouterr().err
