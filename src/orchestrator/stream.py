"""A stream that has begun: read under the idle limit, given back whatever happens, whole or interrupted."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Self

from orchestrator.attempt import Running
from orchestrator.core.accumulate import Accumulator, check_completion
from orchestrator.core.errors import (
    ContentFilteredError,
    OrchestratorError,
    StreamInterruptedError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.events import AttemptOpened
from orchestrator.core.types import Completion, Finished, ReasoningDelta, Restarted, StreamEvent, TextDelta
from orchestrator.providers._batches import Batch, Batches
from orchestrator.resilience.deadline import CLEAN_UP, Guard

__all__ = ["LiveStream", "broke_after"]

_SUCCESS = Verdict.SUCCESS  # of the enum it costs as much as a call, each time
_PIECES = (TextDelta, ReasoningDelta)
_TO_SHOW = (TextDelta, Finished, Restarted)  # what a reader of text alone notices


class LiveStream:
    """An opened stream: the first event is there, and the rest comes from this provider or not at all.

    An iterator of batches, those events together that came together; the last one is ``Finished`` with the whole
    answer. Whoever reads it closes it, whatever happens.
    """

    __slots__ = (
        "_answer", "_at_hand", "_busy", "_call", "_due", "_events", "_first", "_idle", "_in_batches",
        "_may_be_empty", "_running", "_shown", "_started", "_until",
    )

    def __init__(
        self, running: Running, events: AsyncGenerator[StreamEvent, None], *, may_be_empty: bool = False
    ) -> None:
        self._running = running
        self._events: AsyncGenerator[Any, None] = events
        self._in_batches = False
        if type(events) is Batches:  # isinstance() would ask an abstract class, which costs some calls
            self._in_batches, self._events = True, events.batches
        self._answer = Accumulator()
        self._first: Batch | None = None
        self._busy = 0.0
        self._due: OrchestratorError | None = None  # what is to be raised once all is read that came before it
        self._at_hand = False  # what is to be handed out next: no read is needed
        self._call = call = running.call
        own = running.candidate.config.timeout
        self._idle = call.request.timeouts.idle
        self._started: float  # the read under way
        self._until = call.deadline if own is None else min(call.deadline, running.record.started + own)
        self._shown = True  # what has come is handed to the caller
        self._may_be_empty = may_be_empty

    @property
    def provider(self) -> str:
        """Whose stream it is."""
        return self._running.candidate.name

    @property
    def shows_text(self) -> bool:
        """Whether it begins with an event that a reader of text alone notices."""
        return self._answer.finished or any(
            isinstance(event, _TO_SHOW) and event != TextDelta("") for event in self._first or ()
        )

    @property
    def time_to_first_token(self) -> float:
        """Seconds from the caller's call to the first piece of this stream."""
        running = self._running
        return running.record.started + (running.record.time_to_first_token or 0.0) - running.call.started

    async def open(self) -> None:
        """Wait for the first event. A stream that is over before it brought anything is a failed attempt."""
        running, call = self._running, self._call
        while True:
            came = await anext(self._events, None)
            first = None if came is None else self._taken(came)
            if not first or not all(map(_is_empty, first)):  # else nothing has come yet
                break
        if running.expired:
            running.settle()
        if running.permit.released:  # it lost a race, and the provider swallowed the cancellation
            raise asyncio.CancelledError
        at = call.loop.time()
        self._busy = at - running.record.started
        if not first:
            self._checked()
        self._first, self._at_hand = first, True
        running.record.time_to_first_token = self._busy
        running.candidate.opened(running.permit, at, self._busy)
        if call.emit is not None:
            call.emit(AttemptOpened(at, call.id, running.record.number, running.candidate.name, self._busy))
        running.take(None)
        running.lapse, running.limit = self._lapse, self._limit
        call.watch.move(running, self._limit(at))

    async def reach_text(self) -> None:
        """Read on to the first text, for a reader who gets nothing else: until then another provider can take over."""
        self._shown = False
        try:
            while not self.shows_text:
                self._at_hand = False
                self._first = await anext(self)
            self._at_hand = self._shown = True
        finally:
            if not self._shown:
                await self.aclose()

    def __aiter__(self) -> Self:
        return self

    def _held(self) -> Batch:
        """What needs no further read: what it was opened with, and the end."""
        batch, self._first = self._first, None
        if batch:
            self._at_hand = self._answer.finished
            return batch
        if self._running.done and self._due is None:
            raise StopAsyncIteration
        return [Finished(self._complete())]

    async def whole(self) -> Completion:
        """Read to the end, for a caller who gets nothing before it: what breaks it is a failure like any other."""
        self._shown = False
        last: StreamEvent | None = None
        async with aclosing(self):
            async for batch in self:
                last = batch[-1]
        assert isinstance(last, Finished)  # noqa: S101  # or the last read has raised; narrows the type
        return last.completion

    async def aclose(self) -> None:
        """Give everything back; a reader who leaves after the first piece says nothing bad about the provider."""
        call, running = self._call, self._running
        running.lapse = running.limit = None  # which hold this stream
        running.end(_SUCCESS, "cancelled")
        running.take(current_task(call.loop))
        call.watch.move(running, call.loop.time() + CLEAN_UP)
        await self._close(running)

    async def close(self) -> None:
        """Close the provider's part; one that hangs there is left alone after a while."""
        await self._close(self._call.watch.arm(self._call.loop.time() + CLEAN_UP))

    async def _close(self, guard: Guard) -> None:
        try:
            await self._events.aclose()
        except (Exception, asyncio.CancelledError) as exc:
            guard.settle()
            cancellation = guard.cancellation(exc)
            if cancellation is not None:
                raise cancellation from None
            self._running.candidate.provider.logger.debug("closing a stream failed", exc_info=exc)
        finally:
            self._call.watch.disarm(guard)
            guard.settle()

    def _limit(self, at: float) -> float:
        """How long the guard may wait. While the reader is busy no idle limit runs, but it may begin any moment.

        The deadline does: a forgotten stream returns its lease.
        """
        if self._running.task is None:
            return min(at + self._idle, self._call.deadline)
        return min(self._started + self._idle, self._until)

    def _lapse(self) -> None:
        running = self._running
        running.expired = 0
        running.candidate.close_stream(self._events)
        if running.done:
            return
        self._due = error = TimeoutError(phase="total", provider=running.candidate.name)
        error.verdict = Verdict.NEUTRAL
        running.failed(error)

    async def __anext__(self) -> Batch:
        if self._at_hand:
            return self._held()
        running, loop = self._running, self._call.loop
        self._started = started = loop.time()
        running.take(current_task(loop))
        try:
            if started >= self._until or self._due is not None:
                await self._break_off()
            batch = self._taken(await self._events.__anext__())
        except StopAsyncIteration:
            batch = []
        except BaseException as exc:
            self._broke(exc, loop.time() - started)
            raise
        if running.expired:
            running.settle()
            self._call.watch.move(running, started)
        running.task = None
        self._busy += loop.time() - started
        if batch:
            return batch
        self._at_hand = True
        return [Finished(self._complete())]

    async def _break_off(self) -> None:
        """Raise what was to come after all that has been read, or that the time is over."""
        if self._due is not None:
            raise self._due
        self._running.expire()  # no timer goes off while one piece comes after the other without a wait
        await asyncio.sleep(0)

    def _broke(self, exc: BaseException, waited: float) -> None:
        """Account for a read that failed; raises what the reader gets, if that is not ``exc`` itself."""
        error = self._running.fail(exc, "idle", waited, self._idle)
        if isinstance(error, OrchestratorError):
            error = self._interrupted(error)
        if error is not exc:
            raise error from error.__cause__

    def _taken(self, came: Any) -> Batch:  # noqa: ANN401  # a batch, or what a provider of the user's takes for an event
        """What has come, without ``Finished``, which is only noted."""
        if self._in_batches:
            return self._taken_together(came)
        answer = self._answer
        answer.add(came)
        return [] if answer.finished else [came]

    def _taken_together(self, batch: Batch) -> Batch:
        if self._answer.add_texts(batch):
            return batch
        taken = 0
        try:
            for event in batch:
                self._answer.add(event)
                taken += 1
        except OrchestratorError as error:
            if not taken:
                raise
            self._due = error
            return batch[:taken]
        self._at_hand = self._answer.finished
        return batch[:-1] if self._at_hand else batch

    def _complete(self) -> Completion:
        running = self._running
        if self._due is not None:
            raise self._interrupted(self._due)
        try:
            completion = self._checked()
        except OrchestratorError as error:
            running.failed(error)
            error = self._interrupted(error)
            raise error from error.__cause__
        completion.time_to_first_token = self.time_to_first_token
        return running.succeed(completion, self._busy)

    def _checked(self) -> Completion:
        name = self._running.candidate.name
        return check_completion(self._answer.completion(name), name, may_be_empty=self._may_be_empty)

    def _interrupted(self, error: OrchestratorError) -> OrchestratorError:
        if not self._shown:
            return error
        if isinstance(error, ContentFilteredError):
            error.partial = self._answer.text
            error.attempts = tuple(self._running.call.attempts)
            return error
        partial, record = self._answer.text, self._running.record
        interrupted = StreamInterruptedError(
            broke_after(partial, error), partial=partial, usage=record.usage, provider=record.provider,
            model=record.model,
            status_code=error.status_code, code=error.code, request_id=error.request_id,
            retry_after=error.retry_after, attempts=tuple(self._running.call.attempts),
        )
        interrupted.__cause__ = error
        return interrupted


def _is_empty(event: StreamEvent) -> bool:
    return isinstance(event, _PIECES) and not event.text


def broke_after(partial: str, error: OrchestratorError) -> str:
    """What a :class:`StreamInterruptedError` says."""
    return f"the stream broke after {len(partial)} characters: {error.message or type(error).__name__}"
