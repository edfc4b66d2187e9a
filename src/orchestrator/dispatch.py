"""One loop over the candidates: who is asked, who is asked next, how long to wait when nobody can be asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING

from orchestrator.attempt import Call
from orchestrator.candidate import Candidate
from orchestrator.core.errors import (
    AllProvidersFailedError,
    CapacityError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    NoProvidersError,
    OrchestratorError,
    Retry,
    RouterClosedError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.events import FailedOver, Waiting
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Completion
from orchestrator.hedge import Hedging, Line, Race
from orchestrator.pipeline import answer_from
from orchestrator.pool import Pool
from orchestrator.resilience.deadline import EPSILON
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.stream import LiveStream
from orchestrator.waiting import Place

if TYPE_CHECKING:
    from orchestrator.core.config import HedgePolicy

__all__ = ["Dispatcher"]

_log = logging.getLogger("orchestrator")
_NAMED = {
    "messages": "a conversation (messages), only a single prompt",
    "context_window": "a request of this length (context_window)",
}


class Dispatcher:
    """Brings a call to an answer, an opened stream, or one error that tells it all."""

    def __init__(
        self, pool: Pool, strategy: RoutingStrategy, *, failover_on_content_filter: bool,
        hedge: HedgePolicy | None = None,
    ) -> None:
        self._pool = pool
        self._get = pool.get
        self._strategy = strategy
        self._failover_on_content_filter = failover_on_content_filter
        self._hedging = None if hedge is None else Hedging(
            hedge, answer_from, self._give_up, pool.in_background, pool.queued
        )

    async def run(self, call: Call) -> Completion | LiveStream:
        """Ask one candidate after the other until one answers or the deadline comes."""
        at, line = call.started, None
        while True:
            candidates = self._in_order(call, self._ready(call, at))
            if self._hedging is not None:
                candidates = line = Line(candidates, partial(self._may_ask, call), self._hedging)
            for candidate in candidates:
                try:
                    if line is None:
                        return await answer_from(call, candidate, at)
                    answer = await Race(call, candidate, line).run()
                    if answer is not None:
                        return answer
                except OrchestratorError as error:
                    self._give_up(call, candidate, error)
                at = call.loop.time()
                if at >= call.deadline:
                    break
            await self._wait(call)
            at = call.loop.time()

    async def resume(self, call: Call, broken: list[str], refused: Callable[[str], bool]) -> LiveStream:
        """Another stream for a call whose stream broke; raises when there is none.

        The providers in ``broken`` are asked again only when nobody else can be, each once, within its retries and
        their budget. The request was good for one provider, so whoever calls it invalid is passed over; of those,
        ``refused`` says who shall be asked another way.
        """
        call.spent = call.spent.union(broken)
        while True:
            again, at = False, call.loop.time()
            for candidate in self._in_order(call, self._ready(call, at)):
                try:
                    stream = await answer_from(call, candidate, at)
                except InvalidRequestError as error:
                    again = self._turned_down(call, candidate, error, refused) or again
                except OrchestratorError as error:
                    self._give_up(call, candidate, error)
                else:
                    assert isinstance(stream, LiveStream)  # noqa: S101  # only streams break; narrows the type
                    return stream
                at = call.loop.time()
                if at >= call.deadline:
                    break
            if not again and not self._once_more(call, broken):
                await self._wait(call)

    def _turned_down(
        self, call: Call, candidate: Candidate, error: OrchestratorError, refused: Callable[[str], bool]
    ) -> bool:
        """Whether this provider stays in the game although it took the request for invalid."""
        if refused(candidate.name):
            return True
        call.spent |= {candidate.name}
        if call.emit is not None:
            call.emit(FailedOver(call.loop.time(), call.id, candidate.name, error))
        return False

    def _once_more(self, call: Call, broken: list[str]) -> bool:
        """Take the first who may be asked once more out of those whose stream broke."""
        while broken:
            candidate = self._get(broken.pop(0))
            if candidate is None:
                continue
            tried = sum(attempt.provider == candidate.name for attempt in call.attempts)
            if tried <= candidate.max_retries and candidate.config.enabled and candidate.afford():
                call.spent -= {candidate.name}
                return True
        return False

    def _ready(self, call: Call, at: float) -> Sequence[CandidateView]:
        """Who would be admitted now and could answer this request."""
        views = self._pool.ready(at)
        if call.spent or call.request.needs:
            views = [view for view in views if self._eligible(call, view.name)]
        if not views and call.last_resort is not None and self._could_answer(call, call.last_resort):
            views = [call.last_resort.view]
        if self._pool.waiting:
            views = [view for view in views if not self._claimed(call, view.name)]
        return views

    def _in_order(self, call: Call, views: Sequence[CandidateView]) -> Iterator[Candidate]:
        """The strategy's order, then whoever it left out; a strategy that raises must not cost the answer."""
        seen: tuple[str, ...] = ()
        order: Iterator[CandidateView] | None = None
        left = 2 * len(views)  # the strategy may go on for ever
        get = self._get  # called as an attribute it would be taken for a method, and looked for in the class first
        while left:
            try:  # no yield in here: it would cost an exception whenever no second candidate is needed
                if order is None:
                    order = iter(self._strategy.order(views, call.request))
                    if self._pool.ramping:
                        order = self._pool.ease_in(chain(islice(order, len(views)), views))
                view = next(order)
                if not isinstance(view, CandidateView):
                    raise TypeError(f"order() yielded {view!r}, which is no candidate")
            except StopIteration:
                break
            except Exception:  # noqa: BLE001  # a strategy of the user's
                _log.exception("strategy %s failed; providers are tried as they were added", self._strategy.name)
                break
            name = view.name
            candidate = get(name)
            if candidate is not None and name not in seen and (not call.attempts or self._may_ask(call, candidate)):
                yield candidate
            seen = (*seen, name)  # not before the first one has failed, if ever
            left -= 1
        for view in views:
            candidate = get(view.name)
            if candidate is not None and view.name not in seen and self._may_ask(call, candidate):
                yield candidate

    def _eligible(self, call: Call, name: str) -> bool:
        candidate = self._get(name)
        return candidate is not None and self._could_answer(call, candidate)

    def _may_ask(self, call: Call, candidate: Candidate) -> bool:
        """Whether it may be asked now, some time after it was ready."""
        return self._could_answer(call, candidate) and not self._claimed(call, candidate.name)

    def _claimed(self, call: Call, name: str) -> bool:
        """Whether somebody ahead of it waits for that provider, and it is not its turn there all the same."""
        return self._pool.room.claimed(name, call.rank, call.place)

    def _could_answer(self, call: Call, candidate: Candidate) -> bool:
        if candidate.name in call.spent or not candidate.config.enabled:
            return False
        window = candidate.config.context_window
        if window is not None and window <= call.window:
            return False
        return not call.request.needs or candidate.provider.unsupported(call.request) is None

    def _give_up(self, call: Call, candidate: Candidate, error: OrchestratorError) -> None:
        """Note what this failure means for the request; raises when no other provider may be asked."""
        if not any(attempt.error is error for attempt in reversed(call.attempts)):
            return  # refused by breaker, pause or limit, not failed: it may be asked once it is back
        if isinstance(error, TimeoutError) and error.phase == "total" and call.remaining() <= EPSILON:
            raise self._final(call, error)
        failover = error.failover or (isinstance(error, ContentFilteredError) and self._failover_on_content_filter)
        if not failover:
            raise self._final(call, error)
        if candidate is call.last_resort and error.verdict in (Verdict.FAILURE, Verdict.OVERLOADED):
            call.probed += (candidate.name,)  # on behalf of all who wait: it may still be asked after its break
        elif not self._worth_another_round(call, candidate, error):
            call.spent |= {candidate.name}
        if isinstance(error, ContextWindowExceededError):
            call.window = max(call.window, candidate.config.context_window or 0)
        if call.emit is not None:
            call.emit(FailedOver(call.loop.time(), call.id, candidate.name, error))

    def _worth_another_round(self, call: Call, candidate: Candidate, error: OrchestratorError) -> bool:
        """Whether it may be asked again after its pause: it told when, or refused a key that was replaced meanwhile.

        Within the same count of retries as in place. Until then whoever is back first, or joins, is asked.
        """
        own = next(attempt for attempt in reversed(call.attempts) if attempt.error is error)
        passes = error.retry is Retry.AFTER or (error.retry is not Retry.NO and error.retry_after is not None)
        if not passes and not candidate.was_of_old_key(own):
            return False
        tried = sum(attempt.provider == candidate.name for attempt in call.attempts)
        return tried <= candidate.max_retries and candidate.afford()

    async def _wait(self, call: Call) -> None:
        """Until a provider that could still answer may be back; raises when that is too late or never."""
        at = call.loop.time()
        coming = [candidate for candidate in self._pool if self._could_answer(call, candidate)]
        if not coming:
            raise self._nobody(call)
        room, anew = self._pool.room, call.place is None
        delay = self._delay(call, coming, at)
        place = call.place = call.place or Place(room, call.rank, call.deadline, call.tokens)
        place.last_resort = call.last_resort
        if not room.enter(place, coming, at):
            raise self._turned_away(call, at)
        if call.emit is not None and anew:
            call.emit(Waiting(at, call.id, delay, room.queue.position(place), len(room.queue.tickets)))
        await room.turn(place)
        self._pool.stale = True  # the list of those that are ready need not be as new as what has woken it

    def _delay(self, call: Call, coming: Sequence[Candidate], at: float) -> float:
        """How long it will wait at most for the first who may be back; raises when it would be in vain.

        Where it would be, and where all circuits are open, somebody is asked for a probe before its break is over: of
        several, the one whose break ends first. Who refuses the key does not come back by waiting.
        """
        call.last_resort = None
        remaining = call.deadline - at
        waits = {c: c.wait_time(at, call.tokens(c)) for c in coming}
        delay = min((wait for c, wait in waits.items() if not c.breaker.credentials_refused), default=inf)
        in_vain = delay > remaining and not any(candidate.wakes for candidate in coming)
        if in_vain or all(candidate.breaker.wait_time() > 0 for candidate in coming):
            may = (c for c in coming if not c.breaker.credentials_refused and c.name not in call.probed)
            in_time = [c for c in may if c.last_resort_wait(at, call.tokens(c)) <= remaining]
            call.last_resort = min(in_time, key=waits.__getitem__, default=None)
        if remaining <= EPSILON or (in_vain and call.last_resort is None):
            raise self._unavailable(call, [candidate.refusal(at, call.tokens(candidate)) for candidate in coming])
        if call.last_resort is not None:
            delay = call.last_resort.last_resort_wait(at)
        return min(delay or remaining, remaining)  # 0: there is room, for somebody ahead of it

    def _nobody(self, call: Call) -> OrchestratorError:
        """The error when every provider that could answer has failed, or none could from the start."""
        errors = [attempt.error for attempt in call.attempts if attempt.error is not None]
        if errors:
            return self._combined(call, errors)
        if self._pool.closed:
            return RouterClosedError("the router was closed while this request waited")
        enabled = [candidate for candidate in self._pool if candidate.config.enabled]
        if not enabled:
            known = ", ".join(candidate.name for candidate in self._pool)
            return NoProvidersError(f"all providers are disabled: {known}" if known else
                                    "the router has no providers; add one with add_provider()")
        missing = {c.name: c.provider.unsupported(call.request) or "context_window" for c in enabled}
        return InvalidRequestError(
            "no provider can carry this request: "
            + ", ".join(f"{name} does not take {_NAMED.get(what, what)}" for name, what in missing.items())
        )

    def _turned_away(self, call: Call, at: float) -> OrchestratorError:
        """The error when so many wait already that there is no place for this request."""
        full = f"{self._pool.queue.size} requests wait already"
        return self._unavailable(call, [CapacityError(full, retry_after=self._pool.room.retry_after(at))])

    def _unavailable(self, call: Call, refusals: Sequence[OrchestratorError]) -> OrchestratorError:
        """The error when those who could answer will not be back in time; says when the first will."""
        failed = [attempt.error for attempt in call.attempts if attempt.error is not None]
        return self._combined(call, failed or refusals, refusals)

    def _combined(
        self, call: Call, errors: Sequence[OrchestratorError], also: Sequence[OrchestratorError] = ()
    ) -> OrchestratorError:
        """All failed in one way: that error; else a group of them. It is told when to come back, where known."""
        hints = [e.retry_after for e in (*errors, *also) if e.retry_after is not None]
        retry_after = min(hints) if hints else None
        if len({type(error) for error in errors}) == 1:
            error = errors[-1]
            error.retry_after = retry_after
            return self._final(call, error)
        message = f"{len(errors)} attempts failed" if call.attempts else "no provider takes a call now"
        return AllProvidersFailedError(
            message, errors, retry_after=retry_after, attempts=call.attempts
        )

    @staticmethod
    def _final(call: Call, error: OrchestratorError) -> OrchestratorError:
        error.attempts = tuple(call.attempts)
        return error
