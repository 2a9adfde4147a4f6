"""Training over several processes, started by torchrun; a single process needs none of it and every call is a no-op.

Gradients are summed by hand after the backward pass, because losses are already divided by counts over all processes
and the model is called part by part, which a wrapper around `forward` does not see. What exchanges something is for
all processes to call, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from export.training.config import TrainingError

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """(rank, number of processes), inside torchrun's process group if there is one (gloo on CPUs, NCCL on GPUs).

    Raises `TrainingError` where this machine has fewer GPUs than processes.
    """
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    # Its functions' default arguments are the process group of the moment when it is first imported, which torch.optim
    # does at its first step. A group that is kept like that outlives its end, and so do gloo's threads: the end of the
    # interpreter then aborts the process if one of them still has a tensor to give back.
    import torch.distributed.nn

    if torch.cuda.is_available():
        dist.init_process_group("nccl", device_id=_own_gpu(int(os.environ["LOCAL_RANK"])))
    else:
        dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _own_gpu(local_rank: int) -> torch.device:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise TrainingError(f"process {local_rank} of this machine has no GPU: there are {gpus}; see --nproc-per-node")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def check_restarts(resume: bool) -> None:
    """Raises `TrainingError` where a restart by torchrun could not work. `resume`: the command has --resume."""
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return
    if not resume:
        raise TrainingError("torchrun --max-restarts repeats its command: add --resume, which also starts a run")
    # Its own store still has the addresses of the processes before, which the new ones would call (pytorch#135712).
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise TrainingError(
            "torchrun --max-restarts needs --rdzv-backend=c10d, or --standalone, and "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )


def started_by_torchrun() -> bool:
    """Whether torchrun started this process, which may start the same command again."""
    return dist.is_available() and dist.is_torchelastic_launched()


def training_device() -> torch.device:
    """The GPU of this process, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, on all of them; changes `values` in place where there are several."""
    if _in_group():
        dist.all_reduce(values)
    return values


def any_process(holds: bool, device: torch.device) -> bool:
    """Whether it holds on any process. `device` is the training device."""
    return bool(sum_over_processes(torch.tensor([float(holds)], device=device)).item()) if _in_group() else holds


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces the gradients of the learning parameters by their sum over the processes.

    A parameter that a process did not use has a zero gradient there; momentum and decay go on, as in Keras.
    """
    learning = [p for p in parameters if p.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if not _in_group():
        return
    flat = torch.cat([p.grad.flatten() for p in learning if p.grad is not None])
    dist.all_reduce(flat)
    for parameter, part in zip(learning, torch.split(flat, [p.numel() for p in learning]), strict=True):
        parameter.grad = part.view_as(parameter)


def from_first_process(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, the only one that calls it. Its `TrainingError` is raised on all."""
    if not _in_group():
        return make()
    made: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            made = [make()]
        except TrainingError as error:
            made = [error]
    dist.broadcast_object_list(made, src=0)
    if isinstance(made[0], TrainingError):
        raise made[0]
    return made[0]  # type: ignore[no-any-return]  # sent objects have no static type


def gather_to_first_process(value: T) -> list[T]:
    """Every process's value, by rank, on the first process; an empty list on the others."""
    if not _in_group():
        return [value]
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered or []


def check_same(value: Any, what: str) -> None:
    """Raises `TrainingError` on all processes if `value` is not the same on all."""
    if not _in_group():
        return
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise TrainingError(f"process {rank} has another {what} than process 0")


def copy_from_first_process(model: nn.Module) -> None:
    """Gives the model the parameters and buffers that it has on the first process."""
    if _in_group():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
