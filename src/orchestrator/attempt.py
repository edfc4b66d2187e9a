"""One request on its way, and one attempt of it under way: what each has used up, and its one way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from orchestrator.candidate import Candidate
from orchestrator.core.config import Timeouts
from orchestrator.core.errors import OrchestratorError, TimeoutError, Verdict
from orchestrator.core.events import AttemptEnded, AttemptStarted, Event, Outcome
from orchestrator.core.types import Attempt, Completion, Request
from orchestrator.providers._errors import wrap_foreign
from orchestrator.resilience.breaker import Permit
from orchestrator.resilience.deadline import EPSILON, Guard, Watch

__all__ = ["Call", "Running"]


class Call:
    """One request on its way: what was asked, the one deadline, and what happened so far."""

    __slots__ = (
        "attempts", "deadline", "emit", "id", "listening", "loop", "request", "spent", "started",
        "stream_plain", "total", "watch", "window",
    )

    def __init__(
        self, request: Request, *, id: int, timeout: float, loop: asyncio.AbstractEventLoop, watch: Watch,
        emit: Callable[[Event], None], listening: bool, stream_plain: bool = False,
    ) -> None:
        self.request = request
        self.id = id
        self.loop = loop
        self.watch = watch
        self.emit = emit
        self.listening = listening
        self.stream_plain = stream_plain
        self.started = loop.time()
        self.deadline = self.started + timeout
        self.total = request.timeouts.total  # as configured; a caller's own `timeout` blames nobody
        self.attempts: list[Attempt] = []
        self.spent: set[str] = set()
        self.window = 0

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.loop.time()


class Running:
    """One attempt under way; gives permit and lease back exactly once, whatever happens."""

    __slots__ = ("call", "candidate", "done", "permit", "record", "streamed")

    def __init__(self, call: Call, candidate: Candidate, permit: Permit, at: float) -> None:
        self.call = call
        self.candidate = candidate
        self.permit = permit
        self.done = False
        # A plain call may be read as a stream, so that silence is noticed as early as in one.
        self.streamed = call.request.stream or (call.stream_plain and candidate.provider.streams_usage)
        self.record = Attempt(candidate.name, candidate.model, len(call.attempts) + 1, at)
        if not call.attempts or not any(attempt.provider == candidate.name for attempt in call.attempts):
            candidate.budget.call(at)
        call.attempts.append(self.record)
        if call.listening:
            call.emit(AttemptStarted(at, call.id, self.record.number, candidate.name, candidate.model))

    @property
    def opening_phase(self) -> str:
        """Which limit guards the opening."""
        return "first_token" if self.streamed else "attempt"

    def limit(self) -> float:
        """Loop time at which this attempt, or the opening of its stream, has taken too long."""
        return min(self.record.started + self.allowed(), self.call.deadline)

    def allowed(self) -> float:
        """Seconds an attempt, or the opening of its stream, may take."""
        timeouts: Timeouts = self.call.request.timeouts
        own = self.candidate.config.timeout
        if self.streamed:
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
            "the request's deadline passed" if at_deadline else f"no answer within {waited:.3g} s",
            phase="total" if at_deadline else phase, provider=self.candidate.name, model=self.candidate.model,
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
