"""The page that shows the OpenAPI document, in a real Chromium."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.server.running import server_process


def test_every_route_is_shown_with_what_it_takes_and_answers(tmp_path: Path) -> None:
    with server_process() as server:
        document = server.get("/openapi.json").json()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        page = [*command, "--virtual-time-budget=10000", "--dump-dom", f"{server.url}/docs"]
        shown = subprocess.run(page, capture_output=True, text=True, check=True, timeout=120).stdout
    shown = shown[shown.index("<main") : shown.index("</main>")]
    routes = [(path, method, route) for path, routes in document["paths"].items() for method, route in routes.items()]
    sections = re.split('<details class="route"', shown)[1:]
    assert len(sections) == len(routes)
    for path, method, route in routes:
        title = f"<b>{method.upper()}</b> {path}</h3>"
        (section,) = (one for one in sections if title in one)
        for name in (*(one["name"] for one in route["parameters"]), *route.get("requestBody", {}).get("content", {})):
            assert f"<code>{name}</code>" in section
        assert all(f"<td>{status}</td>" in section for status in route["responses"])
    assert not re.search(r"undefined|\[object|null,", re.sub("<pre>.*?</pre>", "", shown, flags=re.DOTALL))
