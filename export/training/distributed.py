"""Training over several processes, started by torchrun; a single process needs none of it and every call is a no-op.

Gradients are summed by hand after the backward pass, because losses are already divided by counts over all processes
and the model is called part by part, which a wrapper around `forward` does not see.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """(rank, number of processes), inside torchrun's process group if there is one (gloo on CPUs, NCCL on GPUs)."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    # Its functions' default arguments are the process group of the moment when it is first imported, which torch.optim
    # does at its first step. A group that is kept like that outlives its end, and so do gloo's threads: the end of the
    # interpreter then aborts the process if one of them still has a tensor to give back.
    import torch.distributed.nn

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def training_device() -> torch.device:
    """The GPU of this process, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, on all of them; changes `values` in place where there are several."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces the gradients of the learning parameters by their sum over the processes.

    A parameter that only some processes used has a zero gradient on the others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    learning = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning])
    dist.all_reduce(flat)
    for parameter, part in zip(learning, torch.split(flat, [p.numel() for p in learning]), strict=True):
        parameter.grad = part.view_as(parameter)
