"""schemathesis makes up requests from the OpenAPI document: the server has no bug, and gives no answer that the
document does not tell of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.real_clients.conftest import serving

COMMAND = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def test_answers_are_those_of_the_document(tmp_path: Path) -> None:
    """The fake engine answers for the demo model: it is not what is tried, and takes no time."""
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--generation-deterministic"]
    with serving("--engine", "fake") as url:
        command = [COMMAND, "--config-file", CONFIGURATION, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
