"""One loop over the candidates: who is asked, who is asked next, how long to wait when nobody can be asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf

from orchestrator.attempt import Call
from orchestrator.candidate import Candidate
from orchestrator.core.clock import Random
from orchestrator.core.config import RetryPolicy
from orchestrator.core.errors import (
    AllProvidersFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    NoProvidersError,
    OrchestratorError,
    QuotaExceededError,
    RateLimitError,
    RouterClosedError,
    TimeoutError,
)
from orchestrator.core.events import FailedOver, Waiting
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Completion
from orchestrator.pipeline import answer_from
from orchestrator.pool import Pool
from orchestrator.resilience.deadline import EPSILON
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.stream import LiveStream

__all__ = ["Dispatcher"]

_log = logging.getLogger("orchestrator")
SHORTEST_WAIT = 0.001  # seconds: whoever is refused although the clock says "now" looks again after this
_NAMED = {
    "messages": "a conversation (messages), only a single prompt",
    "context_window": "a request of this length (context_window)",
}


class Dispatcher:
    """Brings a call to an answer, an opened stream, or one error that tells it all."""

    def __init__(
        self, pool: Pool, strategy: RoutingStrategy, *, policy: RetryPolicy, random: Random,
        failover_on_content_filter: bool,
    ) -> None:
        self._pool = pool
        self._strategy = strategy
        self._policy = policy
        self._random = random
        self._failover_on_content_filter = failover_on_content_filter

    async def run(self, call: Call) -> Completion | LiveStream:
        """Ask one candidate after the other until one answers or the deadline comes."""
        at = call.started
        while True:
            candidates = self._in_order(call, self._ready(call, at))
            for candidate in candidates:
                try:
                    return await self._answer(call, candidate)
                except OrchestratorError as error:
                    self._give_up(call, candidate, error)
                if call.remaining() <= 0:
                    break
            await self._wait(call)
            at = call.loop.time()

    async def _answer(self, call: Call, candidate: Candidate) -> Completion | LiveStream:
        return await answer_from(call, candidate, policy=self._policy, random=self._random, others_in=self._others_in)

    def _ready(self, call: Call, at: float) -> Sequence[CandidateView]:
        """Who would be admitted now and could answer this request."""
        views = self._pool.ready(at)
        if call.spent or call.request.needs:
            views = [view for view in views if self._eligible(call, view.name)]
        return views

    def _in_order(self, call: Call, views: Sequence[CandidateView]) -> Iterator[Candidate]:
        order = self._order(call, views)
        if self._pool.ramping:
            order = self._pool.ease_in(order)
        seen = set()
        for view in order:
            candidate = self._pool.get(view.name)
            if candidate is None or view.name in seen:
                continue
            seen.add(view.name)
            if not call.spent or self._could_answer(call, candidate):
                yield candidate

    def _order(self, call: Call, views: Sequence[CandidateView]) -> Iterable[CandidateView]:
        """The strategy's order, then whoever it left out; a strategy that raises must not cost the answer."""
        if not views:
            return
        try:
            for view in islice(self._strategy.order(views, call.request), len(views)):  # it may go on for ever
                if not isinstance(view, CandidateView):
                    raise TypeError(f"order() yielded {view!r}, which is no candidate")
                yield view
        except Exception:  # noqa: BLE001  # a strategy of the user's
            _log.exception("strategy %s failed; providers are tried as they were added", self._strategy.name)
        yield from views

    def _others_in(self, call: Call, candidate: Candidate) -> float:
        """Seconds until somebody else could be asked; ``inf`` for never."""
        at = call.loop.time()
        others = (c for c in self._pool if c is not candidate and self._could_answer(call, c))
        return min((other.wait_time(at) for other in others), default=inf)

    def _eligible(self, call: Call, name: str) -> bool:
        candidate = self._pool.get(name)
        return candidate is not None and self._could_answer(call, candidate)

    def _could_answer(self, call: Call, candidate: Candidate) -> bool:
        if candidate.name in call.spent or not candidate.config.enabled:
            return False
        window = candidate.config.context_window
        if window is not None and window <= call.window:
            return False
        return not call.request.needs or candidate.provider.unsupported(call.request) is None

    def _give_up(self, call: Call, candidate: Candidate, error: OrchestratorError) -> None:
        """Note what this failure means for the request; raises when no other provider may be asked."""
        if not (call.attempts and call.attempts[-1].error is error):
            return  # refused by breaker, pause or limit, not failed: it may be asked once it is back
        if isinstance(error, TimeoutError) and error.phase == "total" and call.remaining() <= EPSILON:
            raise self._final(call, error)
        failover = error.failover or (isinstance(error, ContentFilteredError) and self._failover_on_content_filter)
        if not failover:
            raise self._final(call, error)
        if not self._worth_another_round(call, candidate, error):
            call.spent.add(candidate.name)
        if isinstance(error, ContextWindowExceededError):
            call.window = max(call.window, candidate.config.context_window or 0)
        if call.listening:
            call.emit(FailedOver(call.loop.time(), call.id, candidate.name, error))

    def _worth_another_round(self, call: Call, candidate: Candidate, error: OrchestratorError) -> bool:
        """A 429 passes: once its pause is over, the provider may be asked again, within the same count of retries."""
        if not isinstance(error, RateLimitError) or isinstance(error, QuotaExceededError):
            return False
        tried = sum(attempt.provider == candidate.name for attempt in call.attempts)
        return tried <= candidate.max_retries and candidate.afford()

    async def _wait(self, call: Call) -> None:
        """Until the first provider that could still answer may be back; raises when that is too late or never."""
        at = call.loop.time()
        remaining = call.deadline - at
        coming = [candidate for candidate in self._pool if self._could_answer(call, candidate)]
        if not coming:
            raise self._nobody(call)
        delay = min(candidate.wait_time(at) for candidate in coming)
        if remaining <= 0 or (delay > remaining and not any(candidate.wakes for candidate in coming)):
            raise self._unavailable(call, coming, at)
        delay = max(min(delay, remaining), SHORTEST_WAIT)
        if call.listening:
            call.emit(Waiting(at, call.id, delay))
        await self._pool.wait(delay, coming)

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

    def _unavailable(self, call: Call, coming: Sequence[Candidate], at: float) -> OrchestratorError:
        """The error when those who could answer will not be back in time; says when the first will."""
        refusals = [candidate.refusal(at) for candidate in coming]
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
