"""A stream that has begun: read under the idle limit, given back whatever happens, whole or interrupted."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf
from typing import Any

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

_PIECES = (TextDelta, ReasoningDelta)
_TO_SHOW = (TextDelta, Finished, Restarted)  # what a reader of text alone notices


class LiveStream:
    """An opened stream: the first event is there, and the rest comes from this provider or not at all."""

    __slots__ = (
        "_answer", "_busy", "_due", "_events", "_first", "_guard", "_in_batches", "_lapsed", "_may_be_empty",
        "_running", "_shown", "_until",
    )

    def __init__(
        self, running: Running, guard: Guard, events: AsyncGenerator[StreamEvent, None], *, may_be_empty: bool = False
    ) -> None:
        self._running = running
        self._guard = guard
        self._events: AsyncGenerator[Any, None] = events
        self._in_batches = False
        if type(events) is Batches:  # isinstance() would ask an abstract class, which costs some calls
            self._in_batches, self._events = True, events.batches
        self._answer = Accumulator()
        self._first: Batch | None = None
        self._busy = 0.0
        self._due: OrchestratorError | None = None  # what is to be raised once all is read that came before it
        self._lapsed: TimeoutError | None = None
        call, own = running.call, running.candidate.config.timeout
        self._until = min(call.deadline, inf if own is None else running.record.started + own)
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
        running, guard = self._running, self._guard
        while True:
            came = await anext(self._events, None)
            first = None if came is None else self._taken(came)
            if not first or not all(map(_is_empty, first)):  # else nothing has come yet
                break
        if guard.expired:
            guard.settle()
        if running.done:  # it lost a race, and the provider swallowed the cancellation
            raise asyncio.CancelledError
        at = running.call.loop.time()
        self._busy = at - running.record.started
        if not first:
            self._checked()
        self._first = first
        running.record.time_to_first_token = self._busy
        running.candidate.opened(running.permit, at, self._busy)
        if running.call.listening:
            number, name = running.record.number, running.candidate.name
            running.call.emit(AttemptOpened(at, running.call.id, number, name, self._busy))
        # While the reader is busy no idle limit runs, but the deadline does: a forgotten stream returns its lease.
        guard.take(None)
        guard.lapse = self._lapse
        running.call.watch.move(guard, running.call.deadline)

    async def reach_text(self) -> None:
        """Read on to the first text, for a reader who gets nothing else: until then another provider can take over."""
        self._shown = False
        try:
            while not self.shows_text:
                self._first = await self._next()
                if self._first is None:
                    self._complete()  # raises: it was never said that this is the end
            self._shown = True
        finally:
            if not self._shown:
                await self.aclose()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The events, those together that came together; the last batch is ``Finished`` with the whole answer."""
        batch = self._first
        answer = self._answer
        try:
            while batch is not None:
                if batch:
                    yield batch
                batch = None if answer.finished else await self._next()
            completion = self._complete()
            yield [Finished(completion)]
        finally:
            await self.aclose()

    async def whole(self) -> Completion:
        """Read to the end, for a caller who gets nothing before it: what breaks it is a failure like any other."""
        self._shown = False
        last: StreamEvent | None = None
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                last = batch[-1]
        assert isinstance(last, Finished)  # noqa: S101  # or batches() has raised; narrows the type
        return last.completion

    async def aclose(self) -> None:
        """Give everything back; a reader who leaves after the first piece says nothing bad about the provider."""
        self._running.call.watch.disarm(self._guard)
        self._guard.lapse = None  # which holds this stream
        self._running.end(Verdict.SUCCESS, "cancelled")
        await self.close()

    async def close(self) -> None:
        """Close the provider's part; one that hangs there is left alone after a while."""
        call = self._running.call
        guard = call.watch.arm(call.loop.time() + CLEAN_UP)
        try:
            await self._events.aclose()
        except (Exception, asyncio.CancelledError) as exc:
            guard.settle()
            cancellation = guard.cancellation(exc)
            if cancellation is not None:
                raise cancellation from None
            self._running.candidate.provider.logger.debug("closing a stream failed", exc_info=exc)
        finally:
            call.watch.disarm(guard)
            guard.settle()

    def _lapse(self) -> None:
        self._running.candidate.close_stream(self._events)
        if self._running.done:
            return
        error = TimeoutError(phase="total", provider=self._running.candidate.name)
        error.verdict = Verdict.NEUTRAL
        self._lapsed = error
        self._running.failed(error)

    async def _next(self) -> Batch | None:
        if self._lapsed is not None:
            raise self._interrupted(self._lapsed)
        guard, call = self._guard, self._running.call
        time, idle = call.loop.time, call.request.timeouts.idle
        started = time()
        limit = min(started + idle, self._until)
        guard.take(current_task())
        call.watch.move(guard, limit)
        try:
            if limit <= started:  # no timer goes off while one piece comes after the other without a wait
                guard.expire()
                await asyncio.sleep(0)
            if self._due is not None:
                raise self._due
            came = await anext(self._events, None)
            batch = None if came is None else self._taken(came)
        except BaseException as exc:
            error = self._running.fail(exc, guard, "idle", time() - started, idle)
            if isinstance(error, OrchestratorError):
                error = self._interrupted(error)
            if error is exc:
                raise
            raise error from error.__cause__
        if guard.expired:
            guard.settle()
            call.watch.move(guard, call.deadline)
        self._busy += time() - started
        guard.task, guard.when = None, call.deadline
        return batch

    def _taken(self, came: Any) -> Batch:  # noqa: ANN401  # a batch, or what a provider of the user's takes for an event
        """What has come, without ``Finished``, which is only noted."""
        answer = self._answer
        if self._in_batches:
            return self._taken_together(came)
        answer.add(came)
        return [] if answer.finished else [came]

    def _taken_together(self, batch: Batch) -> Batch:
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
        return batch[:-1] if self._answer.finished else batch

    def _complete(self) -> Completion:
        running = self._running
        if self._lapsed is not None:
            raise self._interrupted(self._lapsed)
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
