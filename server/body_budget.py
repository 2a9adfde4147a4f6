"""Memory for bodies that are being read: one sum for all connections."""

from __future__ import annotations

from contextlib import AbstractContextManager

from server.contract.errors import QueueFull


class BodyBudget:
    """`max_bytes` of bodies that have come in and are not complete. Used on one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0

    def room(self) -> BodyRoom:
        return BodyRoom(self)


class BodyRoom(AbstractContextManager["BodyRoom"]):
    """What one body takes; given back at the end of the context."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size = 0

    def grow(self, size: int) -> None:
        """Counts bytes that have come in, not those announced: who announces much and sends little blocks nobody.

        Raises:
            QueueFull: all bodies together are too large.
        """
        self._size += size
        self._budget.held += size
        if self._budget.held > self._budget.max_bytes:
            raise QueueFull("Too many bodies are being sent at once. Try again in 1 s.", 1)

    def __exit__(self, *_: object) -> None:
        self._budget.held -= self._size
        self._size = 0
