"""Checkpoint files are whole, whenever the writer dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from export.model.mask_rcnn import MaskRCNN
from export.training import checkpoint
from export.training.checkpoint import (
    CheckpointError,
    native_checkpoint,
    read_training_checkpoint,
    write_atomically,
)
from export.weights import load
from tests.export.training.small import small_model_config

WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
import torch
from export.training.checkpoint import write_atomically
for n in itertools.count():
    write_atomically({"n": n, "values": torch.full((200_000,), float(n))}, Path(sys.argv[1]))
"""


def test_export_reads_what_training_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskRCNN(small_model_config())
    write_atomically(native_checkpoint(model), tmp_path / "best.pt")
    found = load(tmp_path / "best.pt").model
    assert found.config == model.config
    assert all(torch.equal(found.state_dict()[n], t) for n, t in model.state_dict().items())


def test_a_write_that_fails_leaves_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_atomically({"step": 1}, path)

    def write_half(document: dict[str, Any], file: Any) -> None:
        file.write(b"half a file")
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", write_half)
        with pytest.raises(OSError, match="the disk is full"):
            write_atomically({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    document = torch.load(path, weights_only=True)
    assert bool((document["values"] == document["n"]).all())


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        read_training_checkpoint(tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_training_checkpoint(tmp_path / "last.pt")
    write_atomically(native_checkpoint(MaskRCNN(small_model_config())), tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint that training can go on from"):
        read_training_checkpoint(tmp_path / "best.pt")
