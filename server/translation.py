"""Errors in the words of the contract: scheduling does not know it, and a picture does not know its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server import batching
from server.contract import errors
from server.scheduling.runner import Down, Unanswered


@contextmanager
def contract_errors() -> Iterator[None]:
    """The batcher's errors, and the first of those that a request's pictures raised, as the contract names them."""
    try:
        try:
            yield
        except BaseExceptionGroup as group:
            raise _first(group) from None
    except batching.NotRunning as error:
        raise errors.EngineRestarting(str(error), error.retry_after_s) from error
    except batching.QueueFull as error:
        raise errors.QueueFull(str(error), error.retry_after_s) from error
    except (batching.DeadlinePassed, TimeoutError) as error:
        raise errors.DeadlinePassed("The deadline passed before the answer was ready.") from error
    except batching.Draining as error:
        raise errors.Draining(str(error)) from error
    except Unanswered as error:
        raise errors.EngineHung(str(error)) from error
    except Down as error:
        raise errors.EngineLost(str(error)) from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


@contextmanager
def named(index: int | None) -> Iterator[None]:
    """Says which of several pictures is bad."""
    try:
        yield
    except errors.PictureError as error:
        raise error if index is None else errors.BadPictureInBatch(index, error) from error
