"""The guards of one attempt, in order; plain and streamed calls are one path until the last step.

retry     in place, outermost: each try takes a lease and a permit of its own
lease     rpm, tpm, concurrency, pause: our own refusal says nothing about the provider, so it sits above the breaker
breaker   permit; judged by what is below it
time      connect, first token, idle, attempt: a timeout is the provider's failure, so it sits below the breaker
provider  encode, send, decode; what it raises becomes one of our errors here, the one boundary for foreign exceptions
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial

from orchestrator.core.accumulate import Accumulator, check_completion
from orchestrator.core.clock import Random
from orchestrator.core.config import RetryPolicy, Timeouts
from orchestrator.core.errors import (
    CapacityError,
    CircuitOpenError,
    ContentFilteredError,
    OrchestratorError,
    Retry,
    StreamInterruptedError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.events import AttemptEnded, AttemptOpened, AttemptStarted, Event, Outcome, RetryScheduled
from orchestrator.core.types import Attempt, Completion, Finished, Request, StreamEvent
from orchestrator.pool import Candidate
from orchestrator.providers._errors import wrap_foreign
from orchestrator.resilience.breaker import Permit
from orchestrator.resilience.deadline import CLEAN_UP, EPSILON, Guard, Watch
from orchestrator.resilience.retry import RetryInPlace

__all__ = ["Call", "LiveStream", "answer_from"]

class Call:
    """One request on its way: what was asked, the one deadline, and what happened so far."""

    __slots__ = (
        "attempts", "deadline", "emit", "id", "listening", "loop", "request", "spent", "started",
        "total", "watch", "window",
    )

    def __init__(
        self, request: Request, *, id: int, timeout: float, loop: asyncio.AbstractEventLoop, watch: Watch,
        emit: Callable[[Event], None], listening: bool,
    ) -> None:
        self.request = request
        self.id = id
        self.loop = loop
        self.watch = watch
        self.emit = emit
        self.listening = listening
        self.started = loop.time()
        self.deadline = self.started + timeout
        self.total = request.timeouts.total  # as configured; a caller's own `timeout` blames nobody
        self.attempts: list[Attempt] = []
        self.spent: set[str] = set()
        self.window = 0

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.loop.time()


async def answer_from(
    call: Call, candidate: Candidate, *, policy: RetryPolicy, random: Random,
    others_in: Callable[[Call, Candidate], float],
) -> Completion | LiveStream:
    """An answer, or an opened stream, of this provider; raises when it is given up for this request."""
    try:
        return await _attempt(call, candidate)
    except OrchestratorError as error:
        if error.retry is Retry.NO:  # nor are refusals
            raise
        first = error
    earlier = sum(attempt.provider == candidate.name for attempt in call.attempts) - 1
    policy = policy.model_copy(update={"max_retries": max(0, candidate.max_retries - earlier)})

    def announce(error: OrchestratorError, delay: float) -> None:
        call.emit(RetryScheduled(call.loop.time(), call.id, candidate.name, delay, error))

    others = partial(others_in, call, candidate)
    retry = RetryInPlace(policy, random=random, remaining=call.remaining, others_in=others, on_retry=announce)
    try:
        return await retry.run(first, partial(_attempt, call, candidate))
    except (CircuitOpenError, CapacityError):
        # Refused meanwhile (other requests failed too): what this request saw is the better reason.
        last = call.attempts[-1].error or first
        raise last from last.__cause__
    finally:
        del first  # its traceback holds this frame


async def _attempt(call: Call, candidate: Candidate) -> Completion | LiveStream:
    at = call.loop.time()
    if at >= call.deadline:  # a wait ended late
        raise CapacityError("the deadline has passed", provider=candidate.name, model=candidate.model)
    running = _Running(call, candidate, candidate.admit(at), at)
    guard = call.watch.arm(running.limit())
    try:
        if not candidate.entered:
            await candidate.enter()
        if call.request.stream:
            return await _open(running, guard)
        answer = check_completion(await candidate.provider.complete(call.request), candidate.name)
    except BaseException as exc:
        call.watch.disarm(guard)
        error = running.fail(exc, guard, running.opening_phase, call.loop.time() - at, running.allowed())
        if error is exc:
            raise
        raise error from error.__cause__
    call.watch.disarm(guard)
    if guard.expired:
        guard.settle()  # it answered although it was cancelled: then the answer counts
    return running.succeed(answer)


async def _open(running: _Running, guard: Guard) -> LiveStream:
    """Up to the first event: until then another provider can take over unnoticed."""
    events = running.candidate.provider.open_stream(running.call.request)
    stream = LiveStream(running, guard, events)
    try:
        await stream.open()
    except BaseException:
        running.call.watch.disarm(guard)
        await stream.close()
        raise
    return stream


class _Running:
    """One attempt under way; gives permit and lease back exactly once, whatever happens."""

    __slots__ = ("call", "candidate", "done", "permit", "record")

    def __init__(self, call: Call, candidate: Candidate, permit: Permit, at: float) -> None:
        self.call = call
        self.candidate = candidate
        self.permit = permit
        self.done = False
        self.record = Attempt(candidate.name, candidate.model, len(call.attempts) + 1, at)
        call.attempts.append(self.record)
        if call.listening:
            call.emit(AttemptStarted(at, call.id, self.record.number, candidate.name, candidate.model))

    @property
    def opening_phase(self) -> str:
        """Which limit guards the opening."""
        return "first_token" if self.call.request.stream else "attempt"

    def limit(self) -> float:
        """Loop time at which this attempt, or the opening of its stream, has taken too long."""
        return min(self.record.started + self.allowed(), self.call.deadline)

    def allowed(self) -> float:
        """Seconds an attempt, or the opening of its stream, may take."""
        timeouts: Timeouts = self.call.request.timeouts
        own = self.candidate.config.timeout
        if self.call.request.stream:
            return timeouts.first_token if own is None else min(own, timeouts.first_token)
        return timeouts.attempt if own is None else own

    def fail(self, exc: BaseException, guard: Guard, phase: str, waited: float, allowed: float) -> BaseException:
        """Account for a failed attempt; returns what is to be raised."""
        late = guard.settle()
        cancellation = guard.cancellation(exc)
        if cancellation is not None or not isinstance(exc, Exception | asyncio.CancelledError):
            self.end(Verdict.NEUTRAL, "cancelled")
            return cancellation or exc
        error = self._late(phase, waited, allowed) if late else wrap_foreign(
            exc, provider=self.candidate.name, model=self.candidate.model
        )
        self.failed(error)
        return error

    def _late(self, phase: str, waited: float, allowed: float) -> TimeoutError:
        at_deadline = self.call.remaining() <= EPSILON
        error = TimeoutError(
            f"no answer within {waited:.3g} s", phase="total" if at_deadline else phase,
            provider=self.candidate.name, model=self.candidate.model,
        )
        # Cut by the request's deadline before it had a fair chance: the caller was in a hurry, or others used up
        # the time. Half of what it is normally given counts as fair.
        if at_deadline and waited < min(allowed, self.call.total) / 2:
            error.verdict = Verdict.NEUTRAL
        return error

    def failed(self, error: OrchestratorError) -> None:
        """The attempt ended with this error."""
        self.record.error = error
        error.recorded = True
        self.end(error.verdict, "error", error=error)

    def succeed(self, answer: Completion, busy: float | None = None) -> Completion:
        """The attempt ended with this answer; ``busy`` is the time a stream's provider was waited for."""
        candidate, record, call = self.candidate, self.record, self.call
        if answer.attempts:  # handed out before: the provider keeps its answers, or is itself a router
            answer = replace(answer)
        at = call.loop.time()
        record.usage = usage = answer.usage
        view = candidate.view
        view.answered(at, at - record.started if busy is None else busy, usage, len(answer.text))
        if answer.cost is not None:
            view.cost += answer.cost
        answer.provider = candidate.name
        if answer.model is None:
            answer.model = candidate.model
        answer.latency = at - call.started
        answer.attempts = tuple(call.attempts)
        if len(call.attempts) > 1:
            self._forget_frames()
        tokens = usage.total_tokens if usage is not None else 0
        self.end(Verdict.SUCCESS, "answer", at=at, tokens=tokens, answer=answer)
        return answer

    def _forget_frames(self) -> None:
        """Errors that failed nothing need no traceback: it would keep the request alive until a garbage collection."""
        for attempt in self.call.attempts:
            error: BaseException | None = attempt.error
            while error is not None and error.__traceback__ is not None:
                error.__traceback__ = None
                error = error.__cause__ or error.__context__

    def end(
        self, verdict: Verdict, outcome: Outcome, *, at: float | None = None, tokens: int = 0,
        error: OrchestratorError | None = None, answer: Completion | None = None,
    ) -> None:
        """The one exit of every attempt."""
        if self.done:
            return
        self.done = True
        call, record, candidate = self.call, self.record, self.candidate
        if at is None:
            at = call.loop.time()
        record.duration = at - record.started
        retry_after = error.retry_after if error is not None else None
        if verdict is not Verdict.SUCCESS and verdict is not Verdict.NEUTRAL:
            candidate.view.failed(at, retry_after)
            if verdict is Verdict.LIMITED:
                candidate.view.limited += 1
        # How fast a stream goes on depends on its reader too: it is judged by its first piece.
        speed = record.duration if record.time_to_first_token is None else record.time_to_first_token
        candidate.release(self.permit, verdict, at, duration=speed, tokens=tokens, retry_after=retry_after)
        if error is not None and error.failover and verdict is not Verdict.CREDENTIALS:
            candidate.pause(error, at)
        if call.listening:
            call.emit(AttemptEnded(at, call.id, outcome, record, answer))


class LiveStream:
    """An opened stream: the first event is there, and the rest comes from this provider or not at all."""

    __slots__ = ("_answer", "_busy", "_events", "_first", "_guard", "_lapsed", "_running")

    def __init__(self, running: _Running, guard: Guard, events: AsyncGenerator[StreamEvent, None]) -> None:
        self._running = running
        self._guard = guard
        self._events = events
        self._answer = Accumulator()
        self._first: StreamEvent | None = None
        self._busy = 0.0
        self._lapsed: TimeoutError | None = None

    async def open(self) -> None:
        """Wait for the first event. A stream that is over before it brought anything is a failed attempt."""
        running = self._running
        first = await anext(self._events, None)
        if self._guard.expired:
            self._guard.settle()
        at = running.call.loop.time()
        self._busy = at - running.record.started
        if first is not None:
            self._answer.add(first)
        if first is None or isinstance(first, Finished):
            check_completion(self._answer.completion(running.candidate.name), running.candidate.name)
        self._first = first
        running.record.time_to_first_token = self._busy
        running.candidate.opened(running.permit)
        if running.call.listening:
            number, name = running.record.number, running.candidate.name
            running.call.emit(AttemptOpened(at, running.call.id, number, name, self._busy))
        self._rest()

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
            completion = check_completion(self._answer.completion(running.candidate.name), running.candidate.name)
        except OrchestratorError as error:
            running.failed(error)
            error = self._interrupted(error)
            raise error from error.__cause__
        first = running.record.time_to_first_token
        if first is not None:
            completion.time_to_first_token = running.record.started + first - running.call.started
        return running.succeed(completion, self._busy)

    def _interrupted(self, error: OrchestratorError) -> OrchestratorError:
        if isinstance(error, ContentFilteredError):
            error.partial = self._answer.text
            error.attempts = tuple(self._running.call.attempts)
            return error
        interrupted = StreamInterruptedError(
            f"the stream broke after {len(self._answer.text)} characters: {error.message or type(error).__name__}",
            partial=self._answer.text, provider=self._running.candidate.name, model=self._running.candidate.model,
            status_code=error.status_code, code=error.code, request_id=error.request_id,
            retry_after=error.retry_after, attempts=tuple(self._running.call.attempts),
        )
        interrupted.__cause__ = error
        return interrupted
