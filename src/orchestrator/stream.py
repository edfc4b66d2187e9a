"""A stream that has begun: read under the idle limit, given back whatever happens, whole or interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

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
from orchestrator.resilience.deadline import CLEAN_UP, Guard

__all__ = ["LiveStream", "broke_after"]

_PIECES = (TextDelta, ReasoningDelta)
_TO_SHOW = (TextDelta, Finished, Restarted)  # what a reader of text alone notices


class LiveStream:
    """An opened stream: the first event is there, and the rest comes from this provider or not at all."""

    __slots__ = ("_answer", "_busy", "_events", "_first", "_guard", "_lapsed", "_may_be_empty", "_running", "_shown")

    def __init__(
        self, running: Running, guard: Guard, events: AsyncGenerator[StreamEvent, None], *, may_be_empty: bool = False
    ) -> None:
        self._running = running
        self._guard = guard
        self._events = events
        self._answer = Accumulator()
        self._first: StreamEvent | None = None
        self._busy = 0.0
        self._lapsed: TimeoutError | None = None
        self._shown = True  # what has come is handed to the caller
        self._may_be_empty = may_be_empty

    @property
    def provider(self) -> str:
        """Whose stream it is."""
        return self._running.candidate.name

    @property
    def shows_text(self) -> bool:
        """Whether its first event is one that a reader of text alone notices."""
        return isinstance(self._first, _TO_SHOW)

    @property
    def time_to_first_token(self) -> float:
        """Seconds from the caller's call to the first piece of this stream."""
        running = self._running
        return running.record.started + (running.record.time_to_first_token or 0.0) - running.call.started

    async def open(self) -> None:
        """Wait for the first event. A stream that is over before it brought anything is a failed attempt."""
        running = self._running
        first = await anext(self._events, None)
        while isinstance(first, _PIECES) and not first.text:
            self._answer.add(first)  # only to be counted: nothing has come yet
            first = await anext(self._events, None)
        if self._guard.expired:
            self._guard.settle()
        if running.done:  # it lost a race, and the provider swallowed the cancellation
            raise asyncio.CancelledError
        at = running.call.loop.time()
        self._busy = at - running.record.started
        if first is not None:
            self._answer.add(first)
        if first is None or isinstance(first, Finished):
            self._checked()
        self._first = first
        running.record.time_to_first_token = self._busy
        running.candidate.opened(running.permit)
        if running.call.listening:
            number, name = running.record.number, running.candidate.name
            running.call.emit(AttemptOpened(at, running.call.id, number, name, self._busy))
        self._rest()

    async def reach_text(self) -> None:
        """Read on to the first text, for a reader who gets nothing else: until then another provider can take over."""
        self._shown = False
        try:
            while not isinstance(self._first, _TO_SHOW) or self._first == TextDelta(""):
                self._first = await self._next()
                if self._first is None:
                    self._complete()  # raises: it was never said that this is the end
            self._shown = True
        finally:
            if not self._shown:
                await self.aclose()

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """The events; ``Finished`` with the whole answer is the last one."""
        event = self._first
        answer = self._answer
        try:
            while event is not None and not answer.finished:
                yield event
                event = await self._next()
            completion = self._complete()
            yield Finished(completion)
        finally:
            await self.aclose()

    async def whole(self) -> Completion:
        """Read to the end, for a caller who gets nothing before it: what breaks it is a failure like any other."""
        self._shown = False
        last = self._first
        async with aclosing(self.events()) as events:
            async for event in events:
                last = event
        assert isinstance(last, Finished)  # noqa: S101  # or events() has raised; narrows the type
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

    def _rest(self) -> None:
        """The reader is busy: no idle limit runs, but the deadline does, so a forgotten stream returns its lease."""
        guard = self._guard
        guard.take(None)
        guard.lapse = self._lapse
        self._running.call.watch.move(guard, self._running.call.deadline)

    def _lapse(self) -> None:
        self._running.candidate.close_stream(self._events)
        if self._running.done:
            return
        error = TimeoutError(phase="total", provider=self._running.candidate.name)
        error.verdict = Verdict.NEUTRAL
        self._lapsed = error
        self._running.failed(error)

    async def _next(self) -> StreamEvent | None:
        running, guard = self._running, self._guard
        call = running.call
        if self._lapsed is not None:
            raise self._interrupted(self._lapsed)
        started = call.loop.time()
        guard.take(asyncio.current_task())
        call.watch.move(guard, self._piece_limit(started))
        try:
            event = await anext(self._events, None)
            if event is not None:
                self._answer.add(event)
        except BaseException as exc:
            idle = call.request.timeouts.idle
            error = running.fail(exc, guard, "idle", call.loop.time() - started, idle)
            if isinstance(error, OrchestratorError):
                error = self._interrupted(error)
            if error is exc:
                raise
            raise error from error.__cause__
        if guard.expired:
            guard.settle()
        self._busy += call.loop.time() - started
        self._rest()
        return event

    def _piece_limit(self, at: float) -> float:
        running = self._running
        limit = min(at + running.call.request.timeouts.idle, running.call.deadline)
        own = running.candidate.config.timeout
        return limit if own is None else min(limit, running.record.started + own)

    def _complete(self) -> Completion:
        running = self._running
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


def broke_after(partial: str, error: OrchestratorError) -> str:
    """What a :class:`StreamInterruptedError` says."""
    return f"the stream broke after {len(partial)} characters: {error.message or type(error).__name__}"
