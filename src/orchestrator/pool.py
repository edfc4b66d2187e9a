"""The live providers; joined, swapped and left without a dropped call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

from orchestrator import core
from orchestrator.candidate import Candidate
from orchestrator.core.clock import Random, now
from orchestrator.core.events import Event, ProviderAdded, ProviderRemoved
from orchestrator.core.stats import CandidateView
from orchestrator.providers.base import BaseProvider
from orchestrator.resilience.deadline import CLEAN_UP
from orchestrator.waiting import WaitingRoom

if TYPE_CHECKING:
    from orchestrator.core.config import BreakerPolicy, HedgePolicy, LimitPolicy, RetryPolicy, Timeouts

__all__ = ["Pool"]


class Pool:
    """Candidates by name, in the order they were added."""

    def __init__(
        self, *, breaker: BreakerPolicy, retry: RetryPolicy, random: Random, emit: Callable[[Event], None],
        timeouts: Timeouts, hedge: HedgePolicy | None = None, limits: LimitPolicy | None = None,
        stream_plain: bool = False,
    ) -> None:
        self.breaker_policy = breaker
        self.retry_policy = retry
        self.hedge_policy = hedge
        self.timeouts = timeouts
        self.stream_plain = stream_plain
        self.limit_policy = core.config.LimitPolicy() if limits is None else limits
        self.random = random
        self.emit = emit
        self.stale = True  # the list of ready candidates must be made anew
        self.ramping = False
        self.closed = False
        self._candidates: dict[str, Candidate] = {}  # always this dict, whose own method `get` is:
        self.get: Callable[[str], Candidate | None] = self._candidates.get  # None for one that has left
        self.room = WaitingRoom(self.limit_policy.queue_size, random=random, get=self.get)
        self.queue = self.room.queue
        self.waiting = self.queue.tickets  # empty, in most calls: the one thing they ask about the queue
        self._watching: set[asyncio.Future[None]] = set()
        self._ready: Sequence[CandidateView] = ()
        self._recheck_at = inf
        self._closing: set[asyncio.Task[None]] = set()
        self._to_close: list[Candidate] = []

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def __len__(self) -> int:
        return len(self._candidates)

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
        if self.limit_policy.learn:
            provider.on_rate_limits(candidate.learn)
        self._candidates[candidate.name] = candidate
        self.reconfigured()
        self.emit(ProviderAdded(candidate.name))

    def remove(self, name: str) -> Candidate:
        """Let a provider go: no new call reaches it, and it is closed after its last one."""
        candidate = self.known(name)
        del self._candidates[name]
        candidate.removed = True
        candidate.config.off_change(candidate.configure)
        if self.limit_policy.learn:
            candidate.provider.off_rate_limits(candidate.learn)
        self.reconfigured()
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
        in_order = {name: self._candidates[name] for name in names}
        self._candidates.clear()
        self._candidates.update(in_order)
        self.stale = True

    def changed(self) -> None:
        """Something about who is ready may have changed."""
        self.stale = True
        if self.waiting:
            self.room.tend()
        for watching in self._watching:
            _finish(watching)

    def reconfigured(self) -> None:
        """Something about who could answer which request may have changed."""
        self.stale = True
        self.room.wake_all()

    def freed(self, candidate: Candidate) -> None:
        """A call of a limited candidate has ended: somebody may be waiting for that."""
        if self.waiting:
            self.room.look(candidate)

    def queued(self, name: str) -> int:
        """How many requests wait for the candidate of that name, maybe among others."""
        return self.queue.length(name)

    def holds(self, provider: BaseProvider) -> bool:
        """Whether this very provider is in the pool."""
        return any(candidate.provider is provider for candidate in self)

    async def _change(self, delay: float) -> None:
        """Until something changed; at most ``delay`` seconds."""
        loop = asyncio.get_running_loop()
        watching: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(delay, _finish, watching)
        self._watching.add(watching)
        try:
            await watching
        finally:
            timer.cancel()
            self._watching.discard(watching)

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
            await self._change(ends_at - now())
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
