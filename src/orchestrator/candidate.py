"""One provider in the pool: what guards it and what is known about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from math import inf
from typing import Protocol

from orchestrator.core.clock import Random, now
from orchestrator.core.config import BreakerPolicy, RetryPolicy
from orchestrator.core.errors import CapacityError, CircuitOpenError, OrchestratorError, RateLimitError, Verdict
from orchestrator.core.events import BreakerChanged, Event, ProviderPaused
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import StreamEvent
from orchestrator.providers.base import BaseProvider
from orchestrator.resilience.breaker import Permit, ProviderBreaker
from orchestrator.resilience.budget import RetryBudget
from orchestrator.resilience.deadline import EPSILON
from orchestrator.resilience.limits import Limits

__all__ = ["Candidate", "Host"]

_log = logging.getLogger("orchestrator")


class Host(Protocol):
    """What a candidate needs of the pool it is in."""

    breaker_policy: BreakerPolicy
    retry_policy: RetryPolicy
    random: Random
    stale: bool

    def emit(self, event: Event, /) -> None:
        """Tell the listeners."""

    def changed(self) -> None:
        """Something about who is ready may have changed."""

    def freed(self, candidate: Candidate) -> None:
        """A call of a limited candidate has ended."""

    def holds(self, provider: BaseProvider) -> bool:
        """Whether this very provider is in the pool."""

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
        self.breaker = ProviderBreaker(
            host.breaker_policy, name=config.name, random=host.random, on_change=self._breaker_changed
        )
        self.budget = RetryBudget(host.retry_policy.budget_ratio, host.retry_policy.budget_floor)
        self.paused_until = -inf
        self.removed = False
        self._host = host
        self._limited_in_a_row = 0
        self._closed = False
        self.entered = type(provider).__aenter__ is BaseProvider.__aenter__
        self._entering = asyncio.Lock()
        self.configure()

    def configure(self) -> None:
        """Take over what the configuration says now."""
        config, view = self.config, self.view
        self.model = config.model
        view.weight, view.priority, view.context_window = config.weight, config.priority, config.context_window
        self.limits = Limits.of(config, view.in_flight, self.limits)
        self._host.changed()

    def afford(self) -> bool:
        """Take one retry out of its budget; False when an outage has used that up."""
        return self.budget.spend(now())

    @property
    def max_retries(self) -> int:
        """How many times one request may ask it again."""
        own = self.config.max_retries
        return self._host.retry_policy.max_retries if own is None else own

    def _breaker_changed(self, event: BreakerChanged) -> None:
        if not self.removed:  # of one that left, nobody wants to know; its name may be in use again
            self._host.changed()
            self._host.emit(event)

    def wait_time(self, at: float) -> float:
        """Seconds until a call may be admitted, 0 for now; ``inf`` when no clock can tell."""
        wait = max(self.breaker.wait_time(), self.paused_until - at - EPSILON, 0.0)
        return max(wait, self.limits.wait_time(at)) if self.limits is not None else wait

    @property
    def wakes(self) -> bool:
        """Whether the end of a call under way may make it available before its time."""
        full = self.limits is not None and self.limits.full
        return self.view.in_flight > 0 and (full or self.breaker.phase == "half-open")

    def refusal(self, at: float) -> OrchestratorError:
        """The error that says why no call is admitted now, and when one may be."""
        wait = self.wait_time(at)
        when = None if wait == inf else wait
        if self.removed:
            return CapacityError("it has left the router", provider=self.name, model=self.model)
        if self.breaker.wait_time() > 0:
            why = "isolated by hand" if self.breaker.phase == "isolated" else "the circuit is open"
            return CircuitOpenError(why, provider=self.name, model=self.model, retry_after=when)
        why = "paused, as it asked for" if self.paused_until > at else "at the limit set for it"
        return CapacityError(why, provider=self.name, model=self.model, retry_after=when)

    def admit(self, at: float) -> Permit:
        """Take the lease, then the permit: our own refusal must not look like a result of the provider."""
        limits = self.limits
        if self.removed or self.paused_until > at + EPSILON or (limits is not None and limits.wait_time(at) > 0):
            raise self.refusal(at)
        permit = self.breaker.acquire(at)
        if limits is not None:
            limits.acquire(at)
        if permit.probe or (limits is not None and limits.wait_time(at) > 0):
            self._host.stale = True
        self.view.in_flight += 1
        self.view.requests += 1
        return permit

    def release(
        self, permit: Permit, verdict: Verdict, at: float, *, duration: float, tokens: int = 0,
        retry_after: float | None = None,
    ) -> None:
        """Give permit and lease back."""
        host, limits = self._host, self.limits
        self.view.in_flight -= 1
        self.breaker.release(permit, verdict, retry_after=retry_after, duration=duration, at=at)
        if limits is not None:
            full = limits.full
            limits.release(at, tokens)
            if full or limits.wait_time(at) > 0:
                host.stale = True
            host.freed(self)
        if verdict is Verdict.SUCCESS:
            self._limited_in_a_row = 0
        if permit.probe or self.removed:
            host.changed()
        if self.removed and not self.view.in_flight:
            host.in_background(self.close())

    def opened(self, permit: Permit) -> None:
        """The first piece of a stream is there: a probe need not wait for its end."""
        if permit.probe:
            self.breaker.opened(permit)

    def pause(self, error: OrchestratorError, at: float) -> None:
        """Ask nothing of it until its Retry-After; a 429 without one pauses for 1, 2, 4… s, at most 30, jittered."""
        if error.retry_after is not None:
            delay = min(error.retry_after, self._host.retry_policy.max_retry_after)
        elif isinstance(error, RateLimitError) and self.paused_until <= at:  # not of a call begun before the pause
            delay = min(30.0, 2.0 ** min(self._limited_in_a_row, 5)) * self._host.random.uniform(0.5, 1.0)
            self._limited_in_a_row += 1
        else:
            return
        # A later, shorter hint must not cut an earlier, longer one.
        self.paused_until = max(self.paused_until, at + delay)
        self._host.stale = True
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
        view, latency = self.view, self.view.histogram
        return ProviderSnapshot(
            name=self.name, model=self.model, enabled=self.config.enabled, breaker=self.breaker.phase,
            retry_after=self.wait_time(at), paused_until=self.paused_until if self.paused_until > at else None,
            in_flight=view.in_flight, requests=view.requests, failures=view.failures, limited=view.limited,
            latency_p50=latency.quantile(0.5), latency_p95=latency.quantile(0.95), latency_p99=latency.quantile(0.99),
            prompt_tokens=view.prompt_tokens, completion_tokens=view.completion_tokens, cost=view.cost,
        )


async def _aclose(events: AsyncGenerator[StreamEvent, None]) -> None:
    with suppress(Exception):
        await events.aclose()
