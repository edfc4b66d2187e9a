"""What was possible: a router that knows the future of every modelled provider, to measure regret against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from functools import cached_property
from heapq import heapreplace
from math import inf
from typing import Literal, NamedTuple, cast, get_args

from orchestrator.core.config import Timeouts
from orchestrator.core.errors import CapacityError, OrchestratorError
from orchestrator.core.errors import TimeoutError as DeadlineError
from orchestrator.core.events import Listener
from orchestrator.core.types import Completion, Finished, Request, StreamEvent
from orchestrator.resilience.deadline import Watch
from orchestrator.simulation.engine import MakeRouter, RouterLike, StrategyLike
from orchestrator.simulation.luck import LEVELS
from orchestrator.simulation.model import ProviderModel
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import ModelledProvider, World

__all__ = ["OBJECTIVES", "Foresight", "Objective", "Oracle", "oracle", "regret"]

Objective = Literal["first_token", "latency", "cost"]
Foresight = Literal["luck", "state", "average"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

_MILLION = 1e6
_CHAIN = 3  # calls in a row at one provider that are looked into: the first ones may fail
_AFTER = 1e-6  # seconds: whoever leaves a place at this time has left it by then
_PLANS = 8  # for one request, should a plan turn out wrong
_MEDIAN = (LEVELS // 2 << 52) | (LEVELS // 2 << 24) | 1 << 23  # luck that is neither good nor bad, in any draw


class _Plan(NamedTuple):
    """A call to make: when, by when the first token and the whole answer are there, and what it costs.

    ``fails``: the first call fails, and it is a later one that brings this.
    """

    begins: float
    first: float
    ends: float
    cost: float
    fails: bool


class Oracle:
    """Sends each request where it is answered best in truth: least time to first token, least latency, or least cost.

    It is *greedy and clairvoyant*. Greedy: each request, when it comes, gets the best of what is left. Clairvoyant:
    for each provider it knows whether this call fails there, how long it takes, and when a place or quota is free, and
    holds the request until then. For ``cost`` it takes the cheapest that answers within the scenario's ``slo_s``, or
    else the first to answer. What nobody can answer before the deadline is refused at once, with ``CapacityError``.

    Where providers have no capacity, quota, prompt cache or cold start, cut no answers, and nothing changes with time,
    requests do not touch each other. There it is a true lower bound, of every single request, for ``first_token`` and
    ``latency``: no router is faster that never asks a provider again before its last call there has ended. (One that
    cancelled and asked anew could draw until it is lucky.) For ``cost`` no answer in time is cheaper.

    Everywhere else it is a very good router and no bound: one that leaves a fast place to the request that needs
    it most, or waits out the last moment of a brown-out, can beat it. There regret may be negative.

    ``foresight="state"`` knows less: the state of every provider, now and later (episodes, slowness, queue, quotas,
    prompt cache, cold start), but not the luck of the single call, and takes each call for one of median luck. No
    router can know that luck: of four like providers, the clairvoyant has the best of four draws. What a router can be
    blamed for is its distance to this one, which bounds nothing by proof.

    ``foresight="average"`` knows the same, but not how long an answer will be, and takes each for one as long as those
    before it were on average. With a bound on the time it asks what ``LowestCost(seconds=slo_s)`` asks: who is the
    cheapest that would answer an average request in time? One that knows the lengths leaves the short answers to the
    slow and cheap.
    """

    def __init__(self, world: World, objective: Objective = "first_token", foresight: Foresight = "luck") -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}. Known: {', '.join(OBJECTIVES)}")
        self._timeouts = world.scenario.router.timeouts or Timeouts()
        self._slo = world.scenario.slo_s or inf
        self._objective = objective
        self._lucky = foresight == "luck"
        self._average = _Average() if foresight == "average" else None
        self._books = [_Book(provider) for provider in world.providers]

    @cached_property
    def _watch(self) -> Watch:
        return Watch(asyncio.get_running_loop())

    async def complete(
        self, prompt: str, /, *, timeout: float | None = None, priority: int = 0  # noqa: ARG002  # nothing to wait in
    ) -> Completion:
        """See :class:`RouterLike`; the prompt is a :class:`Job`. ``priority`` changes nothing."""
        began = asyncio.get_running_loop().time()
        async for event in self._asked(cast("Job", prompt), began, timeout, stream=False):
            if isinstance(event, Finished):
                return event.completion
        raise CapacityError("no plan held")

    def stream(
        self, prompt: str, /, *, timeout: float | None = None, priority: int = 0  # noqa: ARG002  # the same
    ) -> AsyncGenerator[StreamEvent, None]:
        """See :class:`RouterLike`, and :meth:`complete`."""
        return self._asked(cast("Job", prompt), asyncio.get_running_loop().time(), timeout, stream=True)

    async def aclose(self) -> None:
        """See :class:`RouterLike`."""

    async def _asked(
        self, job: Job, began: float, timeout: float | None, *, stream: bool
    ) -> AsyncGenerator[StreamEvent, None]:
        """The answer, as planned: a plan that fails before its first event is followed by another."""
        deadline = began + (self._timeouts.total if timeout is None else timeout)
        last: OrchestratorError = CapacityError("nobody can answer this in time")
        for _ in range(_PLANS):
            provider = await self._planned(job, began, deadline)
            if provider is None:
                break
            events = _events(provider, Request(job, stream=stream, timeouts=self._timeouts), began)
            told = False
            try:
                while (event := await self._next(events, deadline)) is not None:
                    told = True
                    if isinstance(event, Finished):
                        event.completion.provider = provider.name
                    yield event
            except OrchestratorError as error:
                if told:
                    raise
                last = error
            else:
                return
            finally:
                await events.aclose()
        raise last

    async def _next(self, events: AsyncGenerator[StreamEvent, None], deadline: float) -> StreamEvent | None:
        """The next event, None at the end."""
        guard = self._watch.arm(deadline)
        try:
            return await anext(events, None)
        except asyncio.CancelledError as error:
            if guard.settle():
                raise DeadlineError("total") from error
            raise
        finally:
            self._watch.disarm(guard)
            guard.settle()

    async def _planned(self, job: Job, began: float, deadline: float) -> ModelledProvider | None:
        """Who gets it, the place booked and its time come; None when nobody can answer in time."""
        now = asyncio.get_running_loop().time()
        written = job.completion_tokens if self._average is None else self._average.before(job)
        chosen: tuple[_Book, _Plan] | None = None
        least = inf, inf
        for book in self._books:
            plan = book.plan(job, now) if self._lucky else book.plan(job, now, _MEDIAN, written)
            if plan is not None and plan.ends <= deadline:
                value = self._value(plan, began)
                if value < least:
                    chosen, least = (book, plan), value
        if chosen is None:
            return None
        book, plan = chosen
        begins = plan.begins
        real = plan if self._lucky else book.plan(job, now)
        if real is not None and not real.fails:
            book.take(min(real.ends, deadline), now, job)
        if begins > now:
            await asyncio.sleep(begins - now)
        return book.provider

    def _value(self, plan: _Plan, began: float) -> tuple[float, float]:
        if self._objective == "first_token":
            return plan.first, plan.ends
        if self._objective == "latency" or plan.ends - began > self._slo:
            return plan.ends, plan.cost
        return plan.cost - _MILLION, plan.ends  # whatever it costs, it is in time, and that goes first


class _Average:
    """How long answers were."""

    def __init__(self) -> None:
        self._total = self._count = 0
        self._newest = -1

    def before(self, job: Job) -> int:
        """Tokens, on average of the requests before this one; those of the first are its own."""
        average = round(self._total / self._count) if self._count else job.completion_tokens
        if job.number > self._newest:  # not when it is planned again
            self._newest = job.number
            self._total += job.completion_tokens
            self._count += 1
        return max(1, average)


class _Book:
    """What is promised of one provider: until when each of its places is taken, and what is left of its quotas."""

    def __init__(self, provider: ModelledProvider) -> None:
        model: ProviderModel = provider.model
        self.provider = provider
        self._places = [0.0] * (model.capacity or 0)  # a heap; none: no limit
        quotas = (model.rpm, 1.0), (model.tpm, 0.0)
        self._quotas = [(_Bucket(limit, model.quota_burst_s), amount) for limit, amount in quotas if limit is not None]
        self._window = model.context_window or inf
        prices = model.prices
        self._input, self._output = prices.input / _MILLION, prices.output / _MILLION
        self._cached = self._input if prices.cached_input is None else prices.cached_input / _MILLION

    def plan(self, job: Job, now: float, luck: int | None = None, written: int | None = None) -> _Plan | None:
        """What a call would come to that begins as soon as there is a place; None if no answer comes of it.

        ``luck`` stands in for the call's own, ``written`` for the tokens of its answer.
        """
        written = job.completion_tokens if written is None else written
        nature, size = self.provider.nature, job.prompt_tokens + written
        if size > self._window:
            return None
        begins = at = self._begins(now, size)
        before = (job.tries >> (8 * self.provider.index)) & 0xFF
        for attempt in range(before, before + _CHAIN):
            drawn = nature.luck(job, attempt) if luck is None else luck
            failure = nature.failure(drawn, at)
            if failure is None:
                return self._answer(job, drawn, begins, at, written)
            at += failure.after
        return None

    def _answer(self, job: Job, luck: int, begins: float, at: float, written: int) -> _Plan | None:
        provider = self.provider
        provider.busy += 1  # what the provider itself would begin, were this call admitted
        visit = provider._begin(job, written, luck, at)  # noqa: SLF001  # two halves of one world
        provider.busy -= 1
        if visit.broken:
            return None
        cost = (job.prompt_tokens - visit.cached) * self._input + visit.cached * self._cached
        cost += written * self._output
        return _Plan(begins, at + visit.service.first_token, visit.ends, cost, fails=at > begins)

    def take(self, until: float, now: float, job: Job) -> None:
        """Book a place until then, and what the call takes of the quotas."""
        if self._places:
            heapreplace(self._places, until)
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


def _events(provider: ModelledProvider, request: Request, began: float) -> AsyncGenerator[StreamEvent, None]:
    return provider.open_stream(request) if request.stream else _whole(provider, request, began)


async def _whole(provider: ModelledProvider, request: Request, began: float) -> AsyncGenerator[StreamEvent, None]:
    called = asyncio.get_running_loop().time()
    answer = await provider.complete(request)
    if answer.time_to_first_token is not None:
        answer.time_to_first_token += called - began
    yield Finished(answer)


def oracle(objective: Objective = "first_token", foresight: Foresight = "luck") -> MakeRouter:
    """For ``simulate(..., router=oracle())``: the strategy it is given does not matter."""

    def make(
        world: World, strategy: StrategyLike, *, listeners: Iterable[Listener] = ()  # noqa: ARG001  # MakeRouter's
    ) -> RouterLike:
        return Oracle(world, objective, foresight)

    return make


def regret(figure: float | None, best: float | None) -> float | None:
    """How far above the oracle's: 0.15 is 15 percent more. None where there is nothing to compare."""
    return None if figure is None or not best else round(figure / best - 1.0, 6)
