"""What the batcher runs batches on: anything that takes one batch at a time and may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Unanswered(Exception):  # noqa: N818 - what happened to the batch
    """The runner was given up in the middle of a batch, which may be the cause and is not tried again."""


class Down(Exception):  # noqa: N818 - a state, as operators name it
    """The runner will not run again in this process."""


class Runner(Protocol[Item, Result]):
    @property
    def delay_s(self) -> float:
        """Expected seconds until it takes a batch; 0: it does."""
        ...

    async def ready(self) -> None:
        """Waits until it takes a batch. Raises `Down` once it never will."""
        ...

    async def run(self, items: Sequence[Item]) -> Sequence[Result]:
        """A result for each item. Raises what running them raised, or `Unanswered`."""
        ...
