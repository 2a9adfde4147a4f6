"""Whether the server takes new work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Lifecycle:
    """Whether the server takes new work, and how many requests it still owes an answer."""

    draining: bool = False
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self, timeout_s: float) -> bool:
        """Takes no new work; waits for the accepted requests. False when they take longer than `timeout_s`."""
        self.draining = True
        self.idle.clear()
        if not self.in_flight:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.idle.wait()
        except TimeoutError:
            return False
        return True
