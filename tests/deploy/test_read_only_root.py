"""The server starts, answers and stops as a pod does: user 10001, no capabilities, nothing to write but its volumes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.deploy.manifests import ROOT, overlay, pod_of, server_of
from tests.server.running import png, server_process

SCRIPT = Path(__file__).with_name("read_only_root.sh")
UNSHARE = ("unshare", "--mount", "--propagation", "private")
WRITABLE = {volume["name"] for volume in pod_of(overlay("cpu"))["volumes"] if "emptyDir" in volume}
VOLUMES = [mount["mountPath"] for mount in server_of(overlay("cpu"))["volumeMounts"] if mount["name"] in WRITABLE]
"""What the pods may write."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0,
    reason="needs root, to make a file system that nobody may write",
)


def in_a_pod() -> list[str]:
    """What runs a command so."""
    readable = dict.fromkeys([str(ROOT), sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)])
    (cache,) = re.findall(r"NUMBA_CACHE_DIR=\S+", (ROOT / "deploy/Dockerfile.cpu").read_text())
    given = [f"READABLE={' '.join(readable)}", f"WRITABLE={' '.join(VOLUMES)}", cache, "HOME=/home/maskline"]
    return ["env", *given, *UNSHARE, "sh", str(SCRIPT)]


def test_nothing_can_be_written_but_the_volumes() -> None:
    tried = ["/", "/etc", "/root", "/home", "/var/tmp", str(ROOT), *VOLUMES]
    script = f'for folder in {" ".join(tried)}; do touch "$folder/x" 2>/dev/null && echo "$folder"; done; id -u'
    done = subprocess.run([*in_a_pod(), "sh", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [*VOLUMES, "10001"]


def test_the_server_starts_answers_and_stops() -> None:
    with server_process("--engine", "auto", str(ROOT / "models" / "demo"), prefix=in_a_pod()) as server:
        assert server.predict(png(size=(640, 480))).status_code == 200
        large = {"image": ("large", os.urandom(3 << 20), "image/png")}  # more than web frameworks keep in memory
        assert httpx2.post(f"{server.url}/predict", files=large, timeout=60).status_code == 400

        (cache,) = [folder for folder in VOLUMES if folder != "/tmp"]
        assert list(Path(f"/proc/{server.process.pid}/root{cache}").rglob("*.nbc")), "compiled loops were not kept"

        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
