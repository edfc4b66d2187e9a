"""One provider in the pool: what guards it and what is known about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Protocol

from orchestrator import resilience
from orchestrator.core.clock import Random, now
from orchestrator.core.errors import (
    CapacityError,
    CircuitOpenError,
    Fault,
    OrchestratorError,
    OverloadedError,
    RateLimitError,
    Retry,
    Verdict,
)
from orchestrator.core.events import BreakerChanged, Event, ProviderPaused
from orchestrator.core.limits import RateLimits
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Attempt, StreamEvent, Usage
from orchestrator.providers.base import BaseProvider
from orchestrator.resilience.budget import RetryBudget
from orchestrator.resilience.deadline import EPSILON
from orchestrator.resilience.lateness import Lateness
from orchestrator.resilience.limits import Lease, Limits
from orchestrator.resilience.permit import Permit

if TYPE_CHECKING:
    from orchestrator.core.config import BreakerPolicy, HedgePolicy, LimitPolicy, RetryPolicy, Timeouts

__all__ = ["Candidate", "Host"]

_log = logging.getLogger("orchestrator")
_SUCCESS = Verdict.SUCCESS  # of the enum it costs as much as a call, each time


class Host(Protocol):
    """What a candidate needs of the pool it is in."""

    breaker_policy: BreakerPolicy
    retry_policy: RetryPolicy
    hedge_policy: HedgePolicy | None
    limit_policy: LimitPolicy
    timeouts: Timeouts
    stream_plain: bool
    random: Random
    stale: bool

    def emit(self, event: Event, /) -> None:
        """Tell the listeners."""

    def changed(self) -> None:
        """Something about who is ready may have changed."""

    def reconfigured(self) -> None:
        """Something about who could answer which request may have changed."""

    def freed(self, candidate: Candidate) -> None:
        """A call of a limited candidate has ended."""

    def ready(self, at: float, /) -> Sequence[CandidateView]:
        """All that would be admitted now."""

    def holds(self, provider: BaseProvider) -> bool:
        """Whether this very provider is in the pool."""

    def queued(self, name: str) -> int:
        """How many requests wait for the candidate of that name."""

    def in_background(self, closing: Coroutine[None, None, None]) -> None:
        """Run a clean-up nobody can wait for."""


class Candidate:
    """A provider with its breaker, limits, budget and statistics."""

    def __init__(self, provider: BaseProvider, host: Host) -> None:
        config = provider.config
        self.provider = provider
        self.config = config
        self.name = config.name
        self.model = config.model
        self.view = CandidateView(config.name)
        self.limits: Limits | None = None
        self.attempt: float  # seconds that an attempt may take,
        self.first_token: float  # and the opening of a stream
        # A plain call may be read as a stream too, so that silence is noticed as early as in one.
        self.streams_plain = host.stream_plain and provider.streams_usage
        self.retry_policy = host.retry_policy
        self.random = host.random
        self.breaker = resilience.breaker.ProviderBreaker(
            host.breaker_policy, name=config.name, random=host.random, on_change=self._breaker_changed
        )
        self.budget = RetryBudget(self.retry_policy.budget_ratio, self.retry_policy.budget_floor)
        self.lateness = None if host.hedge_policy is None else Lateness(host.hedge_policy)
        self.paused_until = -inf
        self.rekeyed_at = -inf  # since when it has its key
        self.silences = 0  # in a row: no answer in the time that callers in a hurry had, nor to others meanwhile
        self.removed = False
        self._host = host
        self._silent_at = -inf
        self._blocked: bool | None  # whether its limits let nobody in, when last looked at; None: they are others now
        self._limited_in_a_row = 0
        self._overloads = 0  # since the last answer
        self._closed = False
        self._key = config.api_key
        self.entered = type(provider).__aenter__ is BaseProvider.__aenter__
        self._entering = asyncio.Lock()
        self.configure()

    def configure(self) -> None:
        """Take over what the configuration says now."""
        config, view, timeouts, own = self.config, self.view, self._host.timeouts, self.config.timeout
        self.model = config.model
        self.attempt = timeouts.attempt if own is None else own
        self.first_token = timeouts.first_token if own is None else min(own, timeouts.first_token)
        view.weight, view.priority, view.context_window = config.weight, config.priority, config.context_window
        view.input_price, view.output_price = config.input_price, config.output_price
        view.cached_input_price = config.cached_input_price
        self.limits = Limits.of(config, view.in_flight, self.limits, self._host.limit_policy)
        self._blocked = None
        if config.api_key != self._key:
            self._key, self.rekeyed_at = config.api_key, now()
            self.paused_until, self._limited_in_a_row = -inf, 0
            if self.breaker.credentials_refused:
                self.breaker.reset()  # what was refused was the old one
        self._host.reconfigured()

    def was_of_old_key(self, attempt: Attempt) -> bool:
        """Whether it was refused, or rate-limited, with a key that has been replaced since: that says nothing now."""
        error = attempt.error
        refused = isinstance(error, RateLimitError) or (error is not None and error.fault is Fault.CREDENTIALS)
        return refused and attempt.started < self.rekeyed_at

    def silent(self, waited: float) -> None:
        """It was cut after ``waited`` seconds by a caller in a hurry: a silence if it usually answers sooner."""
        self._forget_silences()
        usual = self.view.histogram.quantile(0.95)
        if usual is None or waited >= usual:
            self.silences += 1
            self._silent_at = now()

    def _forget_silences(self) -> None:
        if self.view.sampled_at > self._silent_at:  # it has answered since
            self.silences = 0

    def replaceable(self, at: float, spent: Collection[str]) -> bool:
        """Whether it has been silent so often that a caller in a hurry should keep time for another, who is there.

        Its breaker is not told: the next caller may have the time that it takes. But callers who are all in a hurry
        would spend theirs on a dead provider for ever.
        """
        self._forget_silences()
        if self.silences < self.breaker.policy.consecutive_failures:
            return False
        return any(view is not self.view and view.name not in spent for view in self._host.ready(at))

    def afford(self) -> bool:
        """Take one retry out of its budget; False when an outage has used that up."""
        return self.budget.spend(now())

    @property
    def max_retries(self) -> int:
        """How many times one request may ask it again."""
        own = self.config.max_retries
        return self.retry_policy.max_retries if own is None else own

    def _breaker_changed(self, event: BreakerChanged) -> None:
        if not self.removed:  # of one that left, nobody wants to know; its name may be in use again
            self._host.changed()
            self._host.emit(event)

    def learn(self, report: RateLimits) -> None:
        """Heed what a response has told of the provider's own limits."""
        at, limits = now(), self.limits
        if limits is None:
            limits = self.limits = Limits(in_use=self.view.in_flight)
        limits.learn(report, at)
        blocked = limits.wait_time(at) > 0
        if blocked is not self._blocked:
            self._blocked = blocked
            self._host.changed()

    def wait_time(self, at: float, tokens: int = 0) -> float:
        """Seconds until a call of about so many tokens may be admitted, 0 for now; ``inf`` when no clock can tell."""
        wait = max(self.breaker.wait_time(), self.paused_until - at - EPSILON, 0.0)
        return max(wait, self.limits.wait_time(at, tokens)) if self.limits is not None else wait

    def last_resort_wait(self, at: float, tokens: int = 0) -> float:
        """The same where nobody else can be asked and the end of the break cannot be waited for; never longer."""
        wait = max(self.breaker.last_resort_wait(), self.paused_until - at - EPSILON, 0.0)
        return max(wait, self.limits.wait_time(at, tokens)) if self.limits is not None else wait

    def away(self, at: float) -> bool:
        """Whether a pause or its breaker keeps it out, and not just its own limits."""
        return self.paused_until > at + EPSILON or self.breaker.wait_time() > 0

    @property
    def probing(self) -> bool:
        """Whether the next call would be a probe."""
        return self.breaker.phase in ("open", "half-open")

    def room(self, at: float) -> float:
        """How many calls may be admitted now, if any may and their tokens fit; ``inf`` for any number."""
        if self.probing:
            return 1
        return inf if self.limits is None else self.limits.room(at)

    @property
    def wakes(self) -> bool:
        """Whether the end of a call under way may make it available before its time."""
        limited = self.limits is not None and self.limits.wakes
        return self.view.in_flight > 0 and (limited or self.breaker.phase == "half-open")

    def refusal(self, at: float, tokens: int = 0) -> OrchestratorError:
        """The error that says why no call is admitted now, and when one may be."""
        wait = self.wait_time(at, tokens)
        when = None if wait == inf else wait
        if self.removed:
            return CapacityError("it has left the router", provider=self.name, model=self.model)
        if self.breaker.wait_time() > 0:
            reason = self.breaker.reason
            why = "isolated by hand" if self.breaker.phase == "isolated" else f"the circuit is open: {reason}"
            return CircuitOpenError(why, provider=self.name, model=self.model, retry_after=when)
        why = "paused, as it asked for" if self.paused_until > at else "at the limit set for it"
        return CapacityError(why, provider=self.name, model=self.model, retry_after=when)

    def admit(self, at: float, tokens: int = 0, last_resort: bool = False) -> Permit:  # noqa: FBT001, FBT002
        """Take the lease, then the permit: our own refusal must not look like a result of the provider."""
        limits, view = self.limits, self.view
        if self.removed or self.paused_until > at + EPSILON or (limits and limits.wait_time(at, tokens) > 0):
            raise self.refusal(at, tokens)
        permit = self.breaker.acquire(at, last_resort)
        if limits is not None:
            permit.lease = limits.acquire(at, tokens)
            self._blocked = limits.wait_time(at) > 0
            if self._blocked:
                self._host.stale = True
        if permit.probe:
            self._host.stale = True
        view.in_flight += 1
        view.requests += 1
        return permit

    def release(  # noqa: PLR0917  # by name they would cost as much as all that is done with them
        self, permit: Permit, verdict: Verdict, at: float, duration: float, error: OrchestratorError | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Give permit and lease back; ``usage`` is what an answered call used, None where that is not known."""
        limits, view = self.limits, self.view
        view.in_flight -= 1
        self.breaker.release(permit, verdict, at, duration, None if error is None else error.retry_after)
        if limits is not None:
            blocked = self._blocked
            lease = permit.lease if isinstance(permit.lease, Lease) else None
            tokens = None if usage is None else usage.total_tokens
            limits.release(lease, at, verdict, tokens=tokens, latency=duration, error=error)
            self._blocked = limits.wait_time(at) > 0
            if self._blocked or blocked is not False:
                self._host.stale = True
            self._host.freed(self)
        if verdict is _SUCCESS:
            self._limited_in_a_row = self._overloads = 0
        if permit.probe or self.removed:
            self._host.changed()
            if self.removed and not view.in_flight:
                self._host.in_background(self.close())

    def opened(self, permit: Permit, at: float, waited: float) -> None:
        """The first piece of a stream is there, after so many seconds: a probe need not wait for its end."""
        self.view.opened(at, waited)
        if permit.probe:
            self.breaker.opened(permit)
            self._host.changed()  # where several must pass one after the other, it is the turn of the next

    def found_full(self, error: OrchestratorError) -> bool:
        """Count an overload, and tell whether it shows that the provider is full: it turns one away and answers others.

        So does any but the first since its last answer, if that was not long ago. A single one is chance more often
        than not: it is retried in place, and holds nobody else up.
        """
        if not isinstance(error, OverloadedError) or error.retry_after is not None:
            return False
        self._overloads += 1
        return self._overloads > 1 and self.breaker.answers > 0

    def pause(self, error: OrchestratorError, at: float, begun: float = inf) -> None:
        """Ask nothing of it until its Retry-After; for 1, 2, 4… s, at most 30, after a 429 or full without one.

        ``begun``: when the call began; what one with a key that was replaced since was told counts no more.
        """
        if begun < self.rekeyed_at:
            return
        if error.retry_after is not None:
            delay = min(error.retry_after, self.retry_policy.max_retry_after)
        elif error.retry is Retry.AFTER and self.paused_until <= at:  # not of a call begun before the pause
            delay = min(30.0, 2.0 ** min(self._limited_in_a_row, 5)) * self.random.uniform(0.5, 1.0)
            self._limited_in_a_row += 1
        else:
            return
        # A later, shorter hint must not cut an earlier, longer one.
        self.paused_until = max(self.paused_until, at + delay)
        self._host.changed()
        self._host.emit(ProviderPaused(at, self.name, delay))

    async def enter(self) -> None:
        """Run the provider's ``__aenter__`` before its first call, once."""
        if self.entered:
            return
        async with self._entering:
            if not self.entered:
                await self.provider.__aenter__()
                self.entered = True

    def close_stream(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        """Close a stream whose reader has gone."""
        self._host.in_background(_aclose(events))

    async def close(self) -> None:
        """Run the provider's ``__aexit__``, once; its failure is logged, there is nobody left to handle it."""
        if self._closed:
            return
        self._closed = True
        if self._host.holds(self.provider):
            return  # it was taken in again meanwhile
        self.provider.routed = False
        try:
            await self.provider.__aexit__(None, None, None)
        except Exception:  # noqa: BLE001  # a provider of the user's
            _log.exception("closing provider %s failed", self.name)

    def snapshot(self, at: float) -> ProviderSnapshot:
        """The numbers of this moment."""
        view, latency, limits, breaker = self.view, self.view.histogram, self.limits, self.breaker
        probe_in = breaker.wait_time() if breaker.phase in ("open", "half-open") else inf
        return ProviderSnapshot(
            name=self.name, model=self.model, enabled=self.config.enabled, breaker=self.breaker.phase,
            retry_after=self.wait_time(at), paused_until=self.paused_until if self.paused_until > at else None,
            in_flight=view.in_flight, requests=view.requests, failures=view.failures, limited=view.limited,
            latency_p50=latency.quantile(0.5), latency_p95=latency.quantile(0.95), latency_p99=latency.quantile(0.99),
            prompt_tokens=view.prompt_tokens, completion_tokens=view.completion_tokens, cost=view.cost,
            queued=self._host.queued(self.name), breaker_reason=breaker.reason, probes=breaker.probes,
            next_probe=probe_in if probe_in < inf else None,
            concurrency=limits.concurrency if limits is not None else None,
            quota=limits.learnt(at) if limits is not None else None,
            hedges=self.lateness.hedges if self.lateness is not None else 0,
        )


async def _aclose(events: AsyncGenerator[StreamEvent, None]) -> None:
    with suppress(Exception):
        await events.aclose()
