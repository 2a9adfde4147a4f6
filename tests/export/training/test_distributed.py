"""Process groups begin and end without a trace."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
import torch
from export.training.distributed import process_group, sum_over_processes

with process_group() as (rank, size):
    assert sum_over_processes(torch.ones(3)).tolist() == [size] * 3
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    torch.optim.SGD([weight]).step()
names = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
print([name for name in names if "gloo" in name])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads have names to be read on Linux only")
def test_a_group_ends_with_its_threads() -> None:
    """Threads that outlive it are aborted by the end of the interpreter, now and then with the whole process."""
    torchrun = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | torchrun, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
