"""What was possible: a router that knows the future of every modelled provider, to measure regret against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from heapq import heapreplace
from math import inf
from typing import Literal, NamedTuple, cast, get_args

from orchestrator.core.config import Timeouts
from orchestrator.core.errors import CapacityError, OrchestratorError
from orchestrator.core.events import Listener
from orchestrator.core.types import Completion, Finished, Request, StreamEvent
from orchestrator.simulation.engine import MakeRouter, RouterLike, StrategyLike
from orchestrator.simulation.model import ProviderModel
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import ModelledProvider, World

__all__ = ["OBJECTIVES", "Objective", "Oracle", "oracle", "regret"]

Objective = Literal["first_token", "latency", "cost"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

_MILLION = 1e6
_CHAIN = 3  # calls in a row at one provider that are looked into: the first ones may fail
_AFTER = 1e-6  # seconds: whoever leaves a place at this time has left it by then
_PLANS = 8  # for one request, should a plan turn out wrong


class _Plan(NamedTuple):
    """A call to make: when, by when the first token and the whole answer are there, and what it costs."""

    begins: float
    first: float
    ends: float
    cost: float
    provider: ModelledProvider


class Oracle:
    """Sends each request where it is answered best in truth: least time to the first token, least latency, or least cost.

    It is *greedy and clairvoyant*. Greedy: each request, when it comes, gets the best of what is left. Clairvoyant:
    for each provider it knows how long this call will take there, whether it fails, and when a place or quota is free,
    and holds the request until then. For ``cost`` it takes the cheapest that answers within the scenario's ``slo_s``
    (of the caller's deadline, without one), or else the first to answer. What nobody can answer before the deadline is
    refused at once, with ``CapacityError``.

    Where providers have no capacity, quota, prompt cache or cold start, and nothing changes with time, requests do not
    touch each other. There it is a true lower bound, of every single request, for ``first_token`` and ``latency``: no
    router is faster that never asks a provider again before its first call there has ended. (One that cancelled and
    asked anew could go on drawing until it is lucky.) The least cost among answers in time is one, too.

    Everywhere else it is a very good router, not a bound: one that leaves a fast place to the request that needs
    it most, or waits out the last moment of a brown-out, can beat it. There regret may be negative.
    """

    def __init__(self, world: World, objective: Objective = "first_token") -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}. Known: {', '.join(OBJECTIVES)}")
        timeouts = world.scenario.router.timeouts or Timeouts()
        self._total = timeouts.total
        self._slo = world.scenario.slo_s or inf
        self._timeouts = timeouts
        self._objective = objective
        self._books = [_Book(provider) for provider in world.providers]

    async def complete(self, prompt: str, /, *, timeout: float | None = None, priority: int = 0) -> Completion:
        """See :class:`RouterLike`; the prompt is a :class:`Job`. ``priority`` changes nothing."""
        job = cast(Job, prompt)
        began = asyncio.get_running_loop().time()
        last: OrchestratorError | None = None
        for _ in range(_PLANS):
            plan = await self._planned(job, began, timeout, last)
            called = asyncio.get_running_loop().time()
            try:
                answer = await plan.provider.complete(Request(prompt, timeouts=self._timeouts))
            except OrchestratorError as error:
                last = error
                continue
            answer.provider = plan.provider.name
            if answer.time_to_first_token is not None:
                answer.time_to_first_token += called - began
            return answer
        raise last or CapacityError("no plan held")

    async def stream(
        self, prompt: str, /, *, timeout: float | None = None, priority: int = 0
    ) -> AsyncGenerator[StreamEvent, None]:
        """See :class:`RouterLike`, and :meth:`complete`."""
        began = asyncio.get_running_loop().time()
        last: OrchestratorError | None = None
        for _ in range(_PLANS):
            plan = await self._planned(cast(Job, prompt), began, timeout, last)
            told = False
            try:
                async for event in plan.provider.open_stream(Request(prompt, stream=True, timeouts=self._timeouts)):
                    told = True
                    if isinstance(event, Finished):
                        event.completion.provider = plan.provider.name
                    yield event
            except OrchestratorError as error:
                if told:
                    raise
                last = error
                continue
            return
        raise last or CapacityError("no plan held")

    async def aclose(self) -> None:
        """See :class:`RouterLike`."""

    async def _planned(
        self, job: Job, began: float, timeout: float | None, last: OrchestratorError | None
    ) -> _Plan:
        """The best plan from now on, booked, and its time come."""
        now = asyncio.get_running_loop().time()
        deadline = began + (self._total if timeout is None else timeout)
        book, plan = self._best(job, now, began, deadline)
        if book is None or plan is None:
            raise last or CapacityError("nobody can answer this in time")
        book.take(plan, now, job)
        if plan.begins > now:
            await asyncio.sleep(plan.begins - now)
        return plan

    def _best(self, job: Job, now: float, began: float, deadline: float) -> tuple[_Book | None, _Plan | None]:
        chosen: tuple[_Book | None, _Plan | None] = None, None
        least = (inf, inf)
        for book in self._books:
            plan = book.plan(job, now)
            if plan is not None and plan.ends <= deadline:
                value = self._value(plan, began)
                if value < least:
                    chosen, least = (book, plan), value
        return chosen

    def _value(self, plan: _Plan, began: float) -> tuple[float, float]:
        if self._objective == "first_token":
            return plan.first, plan.ends
        if self._objective == "latency" or plan.ends - began > self._slo:
            return plan.ends, plan.cost
        return plan.cost - _MILLION, plan.ends  # whatever it costs, it is in time, and that goes first


class _Book:
    """What is promised of one provider: until when each of its places is taken, and what is left of its quotas."""

    def __init__(self, provider: ModelledProvider) -> None:
        model: ProviderModel = provider.model
        self._provider = provider
        self._places = [0.0] * (model.capacity or 0)  # a heap; none: no limit
        quotas = (model.rpm, 1.0), (model.tpm, 0.0)
        self._quotas = [(_Bucket(limit, model.quota_burst_s), amount) for limit, amount in quotas if limit is not None]
        self._window = model.context_window or inf
        prices = model.prices
        self._input, self._output = prices.input / _MILLION, prices.output / _MILLION
        self._cached = self._input if prices.cached_input is None else prices.cached_input / _MILLION

    def plan(self, job: Job, now: float) -> _Plan | None:
        """What a call would come to that begins as soon as there is a place; None if there is no answer to come."""
        provider = self._provider
        nature, size = provider.nature, job.prompt_tokens + job.completion_tokens
        if size > self._window:
            return None
        begins = at = self._begins(now, size)
        before = (job.tries >> (8 * provider.index)) & 0xFF
        for attempt in range(before, before + _CHAIN):
            luck = nature.luck(job, attempt)
            failure = nature.failure(luck, at)
            if failure is not None:
                at += failure.after
                continue
            # What the provider itself would begin, were this call admitted.
            provider.busy += 1
            visit = provider._begin(job, job.completion_tokens, luck, at)  # noqa: SLF001  # the world's other half
            provider.busy -= 1
            if visit.broken:
                return None
            cost = (job.prompt_tokens - visit.cached) * self._input + visit.cached * self._cached
            cost += job.completion_tokens * self._output
            return _Plan(begins, at + visit.service.first_token, visit.ends, cost, provider)
        return None

    def take(self, plan: _Plan, now: float, job: Job) -> None:
        """Book the plan."""
        if self._places:
            heapreplace(self._places, plan.ends)
        for quota, amount in self._quotas:
            quota.take(now, amount or job.prompt_tokens + job.completion_tokens)

    def _begins(self, now: float, size: int) -> float:
        begins = now
        if self._places and self._places[0] + _AFTER > now:
            begins = self._places[0] + _AFTER
        for quota, amount in self._quotas:
            begins = max(begins, quota.free(now, amount or size))
        return begins


class _Bucket:
    """As the provider's own quota, but it may be overdrawn: what is promised for later is taken out at once."""

    def __init__(self, per_minute: int, burst: float) -> None:
        self._per_second = per_minute / 60.0
        self._most = self._left = max(1.0, self._per_second * burst)
        self._at = 0.0

    def free(self, now: float, amount: float) -> float:
        """When so much can be taken."""
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        missing = min(amount, self._most) - self._left
        return now + missing / self._per_second + _AFTER if missing > 0 else now

    def take(self, now: float, amount: float) -> None:
        """Of what there is, or will be."""
        self.free(now, amount)
        self._left -= amount


def oracle(objective: Objective = "first_token") -> MakeRouter:
    """For ``simulate(..., router=oracle())``: the strategy it is given does not matter."""

    def make(world: World, strategy: StrategyLike, *, listeners: Iterable[Listener] = ()) -> RouterLike:
        return Oracle(world, objective)

    return make


def regret(figure: float | None, best: float | None) -> float | None:
    """How far above the oracle's: 0.15 is 15 percent more. None where there is nothing to compare."""
    return None if figure is None or not best else round(figure / best - 1.0, 6)
