"""Asks for every picture once, alone, before any load: what the answers under load are held against."""

from __future__ import annotations

import time
from collections.abc import Callable

from clients.loadtest.answers import Answers
from clients.loadtest.generator import NO_CONNECTION, Target, unreachable

FIRST_PASS_S = 10.0
"""Pictures beyond that are sent in the runs, but their answers are not checked."""


async def first_pass(target: Target, step: Callable[[], None]) -> Answers:
    """`step` is called after each picture. Raises `UnreachableError` when nobody listens there."""
    end, first = time.monotonic() + FIRST_PASS_S, {}
    async with target.session() as session:
        for picture in range(len(target.pictures)):
            answer = await target.post(session, picture)
            if answer.outcome == NO_CONNECTION:
                raise unreachable(target.url)
            if answer.outcome == "200":
                first[picture] = answer.content
            step()
            if time.monotonic() > end:
                break
    return Answers(first, target.adapter.name)
