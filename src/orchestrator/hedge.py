"""Hedging: who is late is raced by the next candidate, and the first to answer wins.

The first candidate is asked in the caller's own task, as without hedging; only a hedge has a task, and only once it
begins. The moment comes from the ``Watch``, so a call that is answered in time costs no timer. An attempt wins when its
first token is there, or its whole answer if it is not read as a stream; the other one is cancelled in that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from orchestrator.attempt import Call, Running
from orchestrator.candidate import Candidate
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.events import Hedged
from orchestrator.core.types import Completion
from orchestrator.resilience.deadline import CLEAN_UP, Guard
from orchestrator.stream import LiveStream

if TYPE_CHECKING:
    from orchestrator.core.config import HedgePolicy

__all__ = ["Hedging", "Line", "Race"]

Answer = Completion | LiveStream


class Line:
    """The candidates still to be asked, for the dispatcher and its races alike; one may be put back to be the next."""

    __slots__ = ("_back", "_may", "_rest", "hedging")

    def __init__(self, rest: Iterator[Candidate], may: Callable[[Candidate], bool], hedging: Hedging) -> None:
        self._rest = rest
        self._may = may
        self.hedging = hedging
        self._back: list[Candidate] = []

    def __iter__(self) -> Iterator[Candidate]:
        return self

    def __next__(self) -> Candidate:
        while self._back:
            candidate = self._back.pop()
            if self._may(candidate):  # it may have been ruled out meanwhile
                return candidate
        return next(self._rest)

    def put_back(self, candidate: Candidate) -> None:
        """It was taken, but not asked, or cancelled before it could answer."""
        self._back.append(candidate)


@dataclass(frozen=True, slots=True)
class Hedging:
    """What all races of a router share.

    ``answer`` asks one candidate, at loop time; ``give_up`` notes a failure, or raises what ends the request;
    ``queued`` tells how many requests wait for the candidate of that name.
    """

    policy: HedgePolicy
    answer: Callable[[Call, Candidate, float], Awaitable[Answer]]
    give_up: Callable[[Call, Candidate, OrchestratorError], None]
    in_background: Callable[[Coroutine[None, None, None]], None]
    queued: Callable[[str], int]


class Race:
    """One candidate of a call, and the hedge against its being late."""

    __slots__ = (
        "_answer", "_asking", "_call", "_context", "_final", "_first", "_hedging", "_interruption", "_line", "_loser",
        "_running", "_second", "_started", "_stopped", "_task", "_timer", "_winner",
    )

    def __init__(self, call: Call, first: Candidate, line: Line) -> None:
        self._hedging = line.hedging
        self._call = call
        self._first = first
        self._line = line
        self._started = call.loop.time()
        self._timer = Guard(inf, None)
        self._interruption = Guard(inf, asyncio.current_task())
        self._asking = True  # the first candidate
        self._running: list[Running] = []
        self._context: Context | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False  # the task; not for its cancelling() to say, which anyio counts up and down too
        self._second: Candidate | None = None  # the one hedged with
        self._winner: Running | None = None
        self._loser: Candidate | None = None
        self._answer: Answer | None = None  # of the hedge
        self._final: OrchestratorError | None = None

    async def run(self) -> Answer | None:
        """The answer; None when all that were asked have failed and been given up; raises what ends the request."""
        call = self._call
        call.race = self
        self._set_timer()
        try:
            answer = await self._ask_first()
            if answer is None and self._task is not None and not self._stopped:
                answer = await self._wait_for_hedge(self._task)
            if answer is None and self._loser is not None:
                self._line.put_back(self._loser)  # the winner failed after all
            return answer
        finally:
            call.race = None
            call.watch.disarm(self._timer)
            self._timer.lapse = None  # which holds this race
            self._stop()

    def began(self, running: Running) -> bool:
        """Take note of an attempt; whether it is a hedge."""
        self._running = [other for other in self._running if not other.done]
        self._running.append(running)
        return running.candidate is not self._first

    def answered(self, running: Running, answer: Completion | None) -> None:
        """Its first token, or its whole plain answer, is there: if it is the first, the others have lost."""
        waited = self._call.loop.time() - running.record.started
        if running.candidate.lateness is not None:
            running.candidate.lateness.answered(waited, streamed=running.streamed)
        if self._winner is not None:
            return
        self._winner = running
        self._call.watch.disarm(self._timer)
        for other in self._running:
            if other is not running:
                other.lose(waited, answer)
        if not running.record.hedge:
            self._loser = self._second
            self._stop()
        elif self._asking:
            self._loser = self._first
            self._interruption.expire()
            # Whoever swallows the cancellation is cancelled again, as at any other limit.
            self._call.watch.move(self._interruption, self._call.loop.time() + CLEAN_UP)

    def _set_timer(self) -> None:
        call, lateness = self._call, self._first.lateness
        delay = None if lateness is None else lateness.delay(streamed=call.request.stream or self._first.streams_plain)
        if delay is None or self._started + delay >= call.deadline or not self._hedges_left():
            return
        self._context = copy_context()  # the timer runs in that of whoever set it first
        self._timer.lapse = self._begin
        call.watch.move(self._timer, self._started + delay)

    def _hedges_left(self) -> int:
        asked = {attempt.provider for attempt in self._call.attempts if attempt.hedge}
        return self._hedging.policy.max_hedges - len(asked)

    def _begin(self) -> None:
        # Nothing more here: the timer is everybody's, and what follows runs code of others.
        self._task = self._call.loop.create_task(self._hedge(), context=self._context)

    async def _ask_first(self) -> Answer | None:
        """What the first candidate answers; None when it was given up or has lost."""
        interruption = self._interruption
        try:
            answer = await self._hedging.answer(self._call, self._first, self._started)
        except (OrchestratorError, asyncio.CancelledError) as exc:
            if interruption.settle():
                return None
            if isinstance(exc, asyncio.CancelledError):
                raise
            self._hedging.give_up(self._call, self._first, exc)
            return None
        finally:
            self._asking = False
            self._call.watch.disarm(interruption)
        if not interruption.expired:
            return answer
        if not interruption.settle():
            raise asyncio.CancelledError
        return None  # it answered although it was cancelled: too late, and no stream, which would not have opened

    async def _wait_for_hedge(self, task: asyncio.Task[None]) -> Answer | None:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()
        if self._final is not None:
            raise self._final
        answer, self._answer = self._answer, None
        return answer

    async def _hedge(self) -> None:
        call, hedging = self._call, self._hedging
        while self._asking and self._hedges_left() > 0:
            candidate = self._second = self._next()
            if candidate is None:
                return
            at = call.loop.time()
            if call.emit is not None:
                call.emit(Hedged(at, call.id, candidate.name, at - self._started))
            try:
                answer = await hedging.answer(call, candidate, at)
            except OrchestratorError as error:
                self._second = None
                try:
                    hedging.give_up(call, candidate, error)
                except OrchestratorError as final:  # the first may still answer
                    self._final = final
                    return
            else:
                self._answer = answer
                return

    def _next(self) -> Candidate | None:
        """Who is asked too: the next who takes a call now, if the one that is late can afford it."""
        call = self._call
        at = call.loop.time()
        for candidate in self._line:
            if candidate.wait_time(at, call.tokens(candidate)) > 0 or self._hedging.queued(candidate.name):
                continue  # those who wait for it are not answered by anybody else meanwhile
            if self._first.afford():
                if candidate.lateness is not None:
                    candidate.lateness.hedges += 1
                return candidate
            self._line.put_back(candidate)
            return None
        return None

    def _stop(self) -> None:
        """End the hedge, if it is still under way, without waiting for its clean-up."""
        if self._answer is not None:  # it came when the caller had gone
            if self._winner is not None:
                self._winner.drop()
            if isinstance(self._answer, LiveStream):
                self._hedging.in_background(self._answer.aclose())
            self._answer = None
        task = self._task
        if task is None or task.done() or self._stopped:
            return
        self._stopped = True
        for running in self._running:
            if running.record.hedge:
                running.drop()
        task.cancel()
        self._hedging.in_background(_ended(task))


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task}, timeout=CLEAN_UP)
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CLEAN_UP)
    if not task.cancelled():
        task.exception()  # there is nobody left to raise it to
