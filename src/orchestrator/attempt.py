"""One request on its way, and one attempt of it under way: what each has used up, and its one way out."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Protocol

from orchestrator.candidate import Candidate
from orchestrator.core.errors import OrchestratorError, Retry, TimeoutError, Verdict
from orchestrator.core.estimate import completion_tokens, prompt_tokens
from orchestrator.core.events import AttemptEnded, AttemptStarted, Event, Outcome
from orchestrator.core.types import Attempt, Completion, Request, Usage
from orchestrator.providers._errors import wrap_foreign
from orchestrator.resilience.deadline import EPSILON, Guard, Watch
from orchestrator.resilience.permit import Permit
from orchestrator.resilience.queue import Rank
from orchestrator.waiting import Place

__all__ = ["Call", "Contest", "Running"]

_SUCCESS, _NEUTRAL = Verdict.SUCCESS, Verdict.NEUTRAL  # of the enum they cost as much as a call, each time
_NOBODY: frozenset[str] = frozenset()
_guard = Guard.__init__  # nor is this looked up in the class for every attempt


class Contest(Protocol):
    """What an attempt tells the race it takes part in, where a router hedges."""

    def began(self, running: Running, /) -> bool:
        """It has begun; whether it is a hedge."""

    def answered(self, running: Running, answer: Completion | None, /) -> None:
        """Its whole plain ``answer``, or the first token of a stream (None), is there."""


class Call:
    """One request on its way: what was asked, the one deadline, and what happened so far."""

    __slots__ = (
        "_prompt_tokens", "adapt", "attempts", "deadline", "emit", "id", "last_resort", "loop", "place",
        "priority", "probed", "race", "request", "spent", "started", "text_only", "watch", "window",
    )

    def __init__(  # noqa: PLR0917  # by name they would cost more than all that is done with them
        self, request: Request, id: int, timeout: float, loop: asyncio.AbstractEventLoop, watch: Watch,
        emit: Callable[[Event], None] | None, priority: int = 0,
    ) -> None:
        self.request = request
        self.id = id
        self.loop = loop
        self.watch = watch
        self.emit = emit  # None: nobody listens
        self.text_only = False  # its reader gets the text of a stream, and nothing of what comes before it
        self.priority = priority
        self.place: Place | None = None  # while it waits
        self.last_resort: Candidate | None = None  # may be asked although its circuit is open
        self.probed: tuple[str, ...] = ()  # as a last resort, in vain
        self.started = started = loop.time()
        self.deadline = started + timeout
        self.attempts: list[Attempt] = []
        self.spent = _NOBODY  # those that are not asked again
        self.window = 0
        self._prompt_tokens: int | None = None
        self.race: Contest | None = None
        self.adapt: Callable[[Candidate, Request], Request] | None = None  # what this one is asked instead

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.loop.time()

    @property
    def rank(self) -> Rank:
        """Who is served first: the more important, then the older."""
        return self.priority, self.id

    def tokens(self, candidate: Candidate) -> int:
        """About how many it would take of this provider; 0 where nobody counts them."""
        limits = candidate.limits
        if limits is None or not limits.counts_tokens:
            return 0
        if self._prompt_tokens is None:
            self._prompt_tokens = prompt_tokens(self.request)
        return self._prompt_tokens + completion_tokens(self.request, candidate.view.written)

    def stop_waiting(self, served_at: float | None = None) -> None:
        """Leave the queue: for a call that was just admitted, or for good."""
        place, self.place = self.place, None
        if place is not None:
            place.leave(served_at)


class Running(Guard):
    """One attempt under way, and the limit on what it awaits; gives permit and lease back exactly once."""

    __slots__ = ("call", "candidate", "load", "permit", "race", "record", "streamed")

    def __init__(self, call: Call, candidate: Candidate, permit: Permit, at: float) -> None:
        _guard(self, inf, current_task(call.loop))  # without the loop it looks for the one that runs
        self.call = call
        self.candidate = candidate
        self.permit = permit
        self.load = candidate.view.in_flight
        if call.place is not None:
            call.stop_waiting(at)
        self.streamed = call.request.stream or candidate.streams_plain
        attempts = call.attempts
        self.record = record = Attempt(candidate.name, candidate.model, len(attempts) + 1, at)
        self.race = call.race
        if self.race is not None and self.race.began(self):
            record.hedge = True  # an extra call earns no share of another one
        elif not attempts or not any(attempt.provider == candidate.name for attempt in attempts):
            candidate.budget.call(at)
        attempts.append(record)
        if call.emit is not None:
            call.emit(AttemptStarted(at, call.id, record.number, candidate.name, candidate.model, record.hedge))

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.permit.released

    @property
    def opening_phase(self) -> str:
        """Which limit guards the opening."""
        return "first_token" if self.streamed else "attempt"

    def latest(self) -> float:
        """Loop time at which this attempt, or the opening of its stream, has taken too long."""
        candidate, started, deadline = self.candidate, self.record.started, self.call.deadline
        if candidate.silences and candidate.replaceable(started, self.call.spent):
            deadline = (started + deadline) / 2
        limit = started + (candidate.first_token if self.streamed else candidate.attempt)
        return limit if limit < deadline else deadline  # noqa: FURB136  # min() would be a call per attempt

    def allowed(self) -> float:
        """Seconds an attempt, or the opening of its stream, may take."""
        return self.candidate.first_token if self.streamed else self.candidate.attempt

    def fail(self, exc: BaseException, phase: str, waited: float, allowed: float) -> BaseException:
        """Account for a failed attempt; returns what is to be raised."""
        late = self.settle()
        cancellation = self.cancellation(exc)
        if cancellation is not None or not isinstance(exc, Exception | asyncio.CancelledError):
            self.end(Verdict.NEUTRAL, "cancelled")
            return cancellation or exc
        usage = getattr(exc, "usage", None)  # a provider tells what it knew when it was interrupted
        if isinstance(usage, Usage):
            self.record.usage = usage
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
        # the time. Half of what it is normally given counts as fair. What `latest` cut short is no different.
        fair = min(allowed, self.call.request.timeouts.total) / 2  # as configured; a caller's own limit blames nobody
        if (at_deadline or waited < allowed - EPSILON) and waited < fair:
            error.verdict = Verdict.NEUTRAL
            self.candidate.silent(waited)
        return error

    def failed(self, error: OrchestratorError) -> None:
        """The attempt ended with this error."""
        error.recorded = True
        self.record.error = error
        if self.candidate.found_full(error):
            error.retry = Retry.AFTER  # as after a 429: asked again at once, it would say the same
        self.end(error.verdict, "error", error=error)

    def succeed(self, answer: Completion, busy: float | None = None) -> Completion:
        """The attempt ended with this answer; ``busy`` is the time a stream's provider was waited for."""
        candidate, record, call = self.candidate, self.record, self.call
        if answer.attempts:  # handed out before: the provider keeps its answers, or is itself a router
            answer = replace(answer)
        at = call.loop.time()
        record.usage = usage = answer.usage
        view = candidate.view
        latency = at - record.started if busy is None else busy
        view.answered(at, latency, usage, len(answer.text), self.load)
        cost = answer.cost
        if cost is None and usage is not None and view.input_price is not None:
            answer.cost = cost = view.price(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        if cost is not None:
            view.cost += cost
        answer.provider = candidate.name
        if answer.model is None:
            answer.model = candidate.model
        answer.latency = at - call.started
        answer.attempts = attempts = tuple(call.attempts)
        if len(attempts) > 1:
            self._forget_frames()
        self.end(_SUCCESS, "answer", at, None, answer)
        return answer

    def lose(self, enough: float, answer: Completion | None) -> None:
        """Another attempt got its first token, or its whole ``answer``, in ``enough`` seconds: this one is cancelled.

        That is no failure. But who is late again and again, and never answers in between, would pass for healthy for
        ever: after as many lost races as failures open its breaker, the next ones are taken for timeouts.
        """
        if self.done:
            return
        call, candidate, record = self.call, self.candidate, self.record
        record.lost = True
        at = call.loop.time()
        waited = at - record.started
        lateness = candidate.lateness
        if lateness is not None and lateness.lost(waited, enough, streamed=self.streamed):
            usage, length = (None, 0) if answer is None else (answer.usage, len(answer.text))
            candidate.view.lost(at, waited, usage, length)
            if lateness.lost_in_a_row > candidate.breaker.policy.consecutive_failures:
                error = TimeoutError(phase=self.opening_phase, provider=candidate.name, model=candidate.model)
                self.end(Verdict.FAILURE, "cancelled", at=at, error=error)
        self.end(Verdict.NEUTRAL, "cancelled", at=at)

    def drop(self) -> None:
        """Nobody wants its answer any more; what it has shown until now counts."""
        opened = self.record.time_to_first_token is not None
        self.end(Verdict.SUCCESS if opened else Verdict.NEUTRAL, "cancelled")

    def _forget_frames(self) -> None:
        """Errors that failed nothing need no traceback: it would keep the request alive until a garbage collection."""
        for attempt in self.call.attempts:
            error: BaseException | None = attempt.error
            while error is not None and error.__traceback__ is not None:
                error.__traceback__ = None
                error = error.__cause__ or error.__context__

    def end(
        self, verdict: Verdict, outcome: Outcome, at: float | None = None, error: OrchestratorError | None = None,
        answer: Completion | None = None,
    ) -> None:
        """The one exit of every attempt."""
        permit = self.permit
        if permit.released:
            return
        call, record, candidate = self.call, self.record, self.candidate
        if at is None:
            at = call.loop.time()
        record.duration = at - record.started
        if verdict is not _SUCCESS and verdict is not _NEUTRAL:
            if candidate.was_of_old_key(record):
                verdict = _NEUTRAL
            else:
                candidate.view.failed(at, None if error is None else error.retry_after)
            if verdict is Verdict.LIMITED:
                candidate.view.limited += 1
        # How fast a stream goes on depends on its reader too: it is judged by its first piece.
        speed = record.duration if record.time_to_first_token is None else record.time_to_first_token
        candidate.release(permit, verdict, at, speed, error, None if answer is None else answer.usage)
        if error is not None and error.failover and verdict is not Verdict.CREDENTIALS:
            candidate.pause(error, at, record.started)
        if call.emit is not None:
            call.emit(AttemptEnded(at, call.id, outcome, record, answer))
