"""The live providers, each with its breaker, limits and statistics; joined, swapped and left without a dropped call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from math import inf

from orchestrator.core.clock import Random, now
from orchestrator.core.config import BreakerPolicy, RetryPolicy
from orchestrator.core.errors import CapacityError, CircuitOpenError, OrchestratorError, RateLimitError, Verdict
from orchestrator.core.events import BreakerChanged, Event, ProviderAdded, ProviderPaused, ProviderRemoved
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import StreamEvent
from orchestrator.providers.base import BaseProvider
from orchestrator.resilience.breaker import Permit, ProviderBreaker
from orchestrator.resilience.budget import RetryBudget
from orchestrator.resilience.deadline import CLEAN_UP, EPSILON
from orchestrator.resilience.limits import Limits

__all__ = ["Candidate", "Pool"]

_log = logging.getLogger("orchestrator")


class Candidate:
    """A provider in the pool: what guards it and what is known about it."""

    def __init__(self, provider: BaseProvider, pool: Pool) -> None:
        config = provider.config
        self.provider = provider
        self.config = config
        self.name = config.name
        self.model = config.model
        self.view = CandidateView(config.name)
        self.limits: Limits | None = None
        self.breaker = ProviderBreaker(
            pool.breaker_policy, name=config.name, random=pool.random, on_change=self._breaker_changed
        )
        self.budget = RetryBudget(pool.retry_policy.budget_ratio, pool.retry_policy.budget_floor)
        self.paused_until = -inf
        self.removed = False
        self._pool = pool
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
        self._pool.changed()

    def afford(self) -> bool:
        """Take one retry out of its budget; False when an outage has used that up."""
        return self.budget.spend(now())

    @property
    def max_retries(self) -> int:
        """How many times one request may ask it again."""
        own = self.config.max_retries
        return self._pool.retry_policy.max_retries if own is None else own

    def _breaker_changed(self, event: BreakerChanged) -> None:
        if not self.removed:  # of one that left, nobody wants to know; its name may be in use again
            self._pool.changed()
            self._pool.emit(event)

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
            self._pool.stale = True
        self.view.in_flight += 1
        self.view.requests += 1
        return permit

    def release(
        self, permit: Permit, verdict: Verdict, at: float, *, duration: float, tokens: int = 0,
        retry_after: float | None = None,
    ) -> None:
        """Give permit and lease back."""
        pool, limits = self._pool, self.limits
        self.view.in_flight -= 1
        self.breaker.release(permit, verdict, retry_after=retry_after, duration=duration, at=at)
        if limits is not None:
            full = limits.full
            limits.release(at, tokens)
            if full or limits.wait_time(at) > 0:
                pool.stale = True
            if pool.waiters:
                pool.wake_next(self)
        if verdict is Verdict.SUCCESS:
            self._limited_in_a_row = 0
        if permit.probe or self.removed:
            pool.changed()
        if self.removed and not self.view.in_flight:
            pool.close_later(self)

    def opened(self, permit: Permit) -> None:
        """The first piece of a stream is there: a probe need not wait for its end."""
        if permit.probe:
            self.breaker.opened(permit)

    def pause(self, error: OrchestratorError, at: float) -> None:
        """Ask nothing of it until its Retry-After; a 429 without one pauses for 1, 2, 4… s, at most 30, jittered."""
        if error.retry_after is not None:
            delay = min(error.retry_after, self._pool.retry_policy.max_retry_after)
        elif isinstance(error, RateLimitError) and self.paused_until <= at:  # not of a call begun before the pause
            delay = min(30.0, 2.0 ** min(self._limited_in_a_row, 5)) * self._pool.random.uniform(0.5, 1.0)
            self._limited_in_a_row += 1
        else:
            return
        # A later, shorter hint must not cut an earlier, longer one.
        self.paused_until = max(self.paused_until, at + delay)
        self._pool.stale = True
        self._pool.emit(ProviderPaused(at, self.name, delay))

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
        self._pool.in_background(_aclose(events))

    async def close(self) -> None:
        """Run the provider's ``__aexit__``, once; its failure is logged, there is nobody left to handle it."""
        if self._closed:
            return
        self._closed = True
        if any(other.provider is self.provider for other in self._pool):
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


class Pool:
    """Candidates by name, in the order they were added."""

    def __init__(
        self, *, breaker: BreakerPolicy, retry: RetryPolicy, random: Random, emit: Callable[[Event], None]
    ) -> None:
        self.breaker_policy = breaker
        self.retry_policy = retry
        self.random = random
        self.emit = emit
        self.stale = True  # the list of ready candidates must be made anew
        self.ramping = False
        self.closed = False
        self.waiters: dict[asyncio.Future[None], Sequence[Candidate]] = {}  # the longest waiting first
        self._candidates: dict[str, Candidate] = {}
        self._ready: Sequence[CandidateView] = ()
        self._recheck_at = inf
        self._closing: set[asyncio.Task[None]] = set()
        self._to_close: list[Candidate] = []

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def __len__(self) -> int:
        return len(self._candidates)

    def get(self, name: str) -> Candidate | None:
        """The candidate of that name; None when it has left."""
        return self._candidates.get(name)

    def known(self, name: str) -> Candidate:
        """The candidate of that name; ``ValueError`` with the known ones otherwise."""
        candidate = self._candidates.get(name)
        if candidate is None:
            raise ValueError(f"no provider named {name!r}; names: {', '.join(self._candidates) or 'none'}")
        return candidate

    def ready(self, at: float) -> Sequence[CandidateView]:
        """The views of all candidates that would be admitted now; made anew only after something changed."""
        if self.stale or at >= self._recheck_at:
            self._rebuild(at)
        return self._ready

    def _rebuild(self, at: float) -> None:
        self.stale = False
        self._recheck_at = inf
        ready = []
        ramping = False
        for candidate in self._candidates.values():
            if not candidate.config.enabled:
                continue
            wait = candidate.wait_time(at)
            if wait > 0:
                self._recheck_at = min(self._recheck_at, at + wait)
            else:
                ready.append(candidate.view)
                ramping = ramping or candidate.breaker.share < 1.0
        self._ready = ready
        self.ramping = ramping

    def ease_in(self, views: Iterable[CandidateView]) -> Iterator[CandidateView]:
        """The same order, but a provider that just came back is put last, except for its growing share of calls."""
        last = []
        for view in views:
            candidate = self._candidates.get(view.name)
            share = candidate.breaker.share if candidate is not None else 1.0
            if share < 1.0 and self.random.random() >= share:
                last.append(view)
            else:
                yield view
        yield from last

    def add(self, provider: BaseProvider) -> None:
        """Take in a provider."""
        _check(provider)
        if provider.config.name in self._candidates:
            raise ValueError(
                f"a provider named {provider.config.name!r} is already there; names: {', '.join(self._candidates)}"
            )
        provider.routed = True
        candidate = Candidate(provider, self)
        provider.config.on_change(candidate.configure)
        self._candidates[candidate.name] = candidate
        self.changed()
        self.emit(ProviderAdded(candidate.name))

    def remove(self, name: str) -> Candidate:
        """Let a provider go: no new call reaches it, and it is closed after its last one."""
        candidate = self.known(name)
        del self._candidates[name]
        candidate.removed = True
        candidate.config.off_change(candidate.configure)
        self.changed()
        self.emit(ProviderRemoved(name))
        if not candidate.view.in_flight:
            self._to_close.append(candidate)
        return candidate

    def update(self, providers: Sequence[BaseProvider]) -> None:
        """Make ``providers`` the pool; an instance that is already there keeps its breaker and statistics."""
        for provider in providers:
            _check(provider)
        names = [provider.config.name for provider in providers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"duplicate provider name: {', '.join(map(repr, twice))}")
        keep = {c.name: c for c in self if any(c.provider is provider for provider in providers)}
        for name in [name for name in self._candidates if name not in keep]:
            self.remove(name)
        for provider in providers:
            if provider.config.name not in keep:
                self.add(provider)
        self._candidates = {name: self._candidates[name] for name in names}
        self.changed()

    def changed(self) -> None:
        """Something about who is ready may have changed."""
        self.stale = True
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            _finish(waiter)

    def wake_next(self, candidate: Candidate) -> None:
        """A call has ended: if that left room, let one of those who wait for it look again, not all."""
        waiter = next((w for w, coming in self.waiters.items() if candidate in coming and not w.done()), None)
        if waiter is not None and candidate.wait_time(now()) == 0:
            waiter.set_result(None)
            # Right after it has looked: was there more room, or did it not take the place (cancelled, gone elsewhere)?
            waiter.get_loop().call_soon(self.wake_next, candidate)

    async def wait(self, delay: float, coming: Sequence[Candidate] = ()) -> None:
        """Until something changed, or there is room at one of ``coming``; at most ``delay`` seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(delay, _finish, waiter)
        self.waiters[waiter] = coming
        try:
            await waiter
        finally:
            timer.cancel()
            self.waiters.pop(waiter, None)

    def close_later(self, candidate: Candidate) -> None:
        """Close a removed candidate in a task of its own: whoever ended its last call must not wait for that."""
        self.in_background(candidate.close())

    def in_background(self, closing: Coroutine[None, None, None]) -> None:
        """Run a clean-up nobody can wait for; ``drain`` does."""
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close_removed(self) -> None:
        """Close those that left idle, and wait for the ones being closed."""
        while self._to_close:
            await self._to_close.pop(0).close()
        if self._closing:
            await asyncio.wait(set(self._closing))

    async def drain(self, grace: float) -> None:
        """Remove everybody; wait for calls under way, at most ``grace`` seconds; close all."""
        self.closed = True
        leaving = [self.remove(name) for name in list(self._candidates)]
        ends_at = now() + grace
        while any(candidate.view.in_flight for candidate in leaving) and now() < ends_at:
            await self.wait(ends_at - now())
        for candidate in (*leaving, *self._to_close):
            self.in_background(candidate.close())
        self._to_close = []
        if self._closing:
            _, hanging = await asyncio.wait(set(self._closing), timeout=CLEAN_UP)
            for task in hanging:
                task.cancel()


def _check(provider: object) -> None:
    if not isinstance(provider, BaseProvider):
        shown = f"the class {provider.__name__}" if isinstance(provider, type) else type(provider).__name__
        raise TypeError(f"a provider is an instance of BaseProvider, not {shown}")


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _aclose(events: AsyncGenerator[StreamEvent, None]) -> None:
    with suppress(Exception):
        await events.aclose()
