"""Streams in batches: the events of one read are handed on together, as no guard need watch over those that are there.

Whoever knows nothing of it iterates over the events one by one, as over those of any other provider.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar

from orchestrator.core.errors import ProviderError
from orchestrator.core.types import StreamEvent

__all__ = ["MOST", "Batch", "Batches", "batches_of", "in_batches"]

MOST = 64  # events of a batch: one read may hold thousands, and limits in time are looked at between two batches

Batch = list[StreamEvent]
P = ParamSpec("P")
Provider = TypeVar("Provider")


class Batches(AsyncGenerator[StreamEvent, None]):
    """The events of a stream; ``batches`` are what they come in: never empty, ``Finished`` only as the last one."""

    def __init__(self, batches: AsyncGenerator[Batch, None]) -> None:
        self.batches = batches
        self._events = _one_by_one(batches)

    def __anext__(self) -> Any:  # noqa: ANN401  # an awaitable
        return self._events.__anext__()

    def asend(self, value: None) -> Any:  # noqa: ANN401  # an awaitable
        return self._events.asend(value)

    def athrow(self, *exc: Any) -> Any:  # noqa: ANN401  # an awaitable
        return self._events.athrow(*exc)

    def aclose(self) -> Any:  # noqa: ANN401  # an awaitable
        return self._events.aclose()


async def _one_by_one(batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[StreamEvent, None]:
    async with aclosing(batches):
        async for batch in batches:
            for event in batch:
                yield event
            del batch, event  # a traceback keeps the locals, and what a provider sends may repeat a key


def in_batches(
    method: Callable[Concatenate[Provider, P], AsyncGenerator[Batch, None]],
) -> Callable[Concatenate[Provider, P], AsyncGenerator[StreamEvent, None]]:
    """Make the ``open_stream`` of a provider out of one that yields batches."""

    @wraps(method)
    def open_stream(self: Provider, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[StreamEvent, None]:
        return Batches(method(self, *args, **kwargs))

    return open_stream


def batches_of(events: Iterator[StreamEvent]) -> Iterator[Batch]:
    """The ``events`` in batches; what they raise comes after all that was there before it."""
    batch: Batch = []
    try:
        while True:
            batch.extend(islice(events, MOST))
            if len(batch) < MOST:
                break
            yield batch
            batch = []
    except ProviderError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
