"""A scenario played: the real router, on the virtual clock, over modelled providers."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import nan
from typing import Protocol

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.events import BreakerChanged, Event, Listener
from orchestrator.core.types import Completion, Finished, StreamEvent
from orchestrator.router import Router
from orchestrator.simulation.run import BreakerChange, Requests, Run, Sample, Span, Timeline
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import World
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.testing.loop import VirtualTimeLoop

__all__ = ["MakeRouter", "RouterLike", "StrategyLike", "own_router", "simulate"]

SAMPLES = 200  # of the timeline, per run
_NONE = Completion("")
StrategyLike = str | RoutingStrategy | Callable[[], RoutingStrategy]


class RouterLike(Protocol):
    """What is driven: a ``Router``, or a rival that looks like one. Raises ``OrchestratorError`` and nothing else.

    Where there is a ``snapshot()`` as of ``Router``, the states of the breakers come from it.
    """

    async def complete(self, prompt: str, /, *, timeout: float | None = None, priority: int = 0) -> Completion:
        """The whole answer; ``provider`` names who gave it."""

    def stream(
        self, prompt: str, /, *, timeout: float | None = None, priority: int = 0
    ) -> AsyncGenerator[StreamEvent, None]:
        """Its pieces, ``Finished`` last."""

    async def aclose(self) -> None:
        """No more requests."""


class MakeRouter(Protocol):
    """Builds what is driven, within the running loop, over ``world.providers``."""

    def __call__(self, world: World, strategy: StrategyLike, *, listeners: Iterable[Listener] = ()) -> RouterLike:
        """The router of one run."""


def own_router(world: World, strategy: StrategyLike, *, listeners: Iterable[Listener] = ()) -> RouterLike:
    """The real router with the scenario's policies; its chance is seeded like the world's."""
    chosen = strategy if isinstance(strategy, str | RoutingStrategy) else strategy()
    options = world.scenario.router.options()
    return Router(chosen, world.providers, listeners=listeners, seed=world.seed, **options)


def simulate(
    scenario: Scenario, strategy: StrategyLike = "round-robin", *, seed: int | None = None, name: str | None = None,
    router: MakeRouter = own_router, exact_breakers: bool = False, progress: Callable[[float], None] | None = None,
) -> Run:
    """Play a scenario once, as fast as the processor can. The same arguments give the same run.

    ``strategy`` as for ``Router``, or a function that makes a new one (an object keeps what it has learnt for the next
    run). ``seed`` stands in for the scenario's; ``name`` is what the run is called, else the strategy's name.
    ``router`` builds what is driven. The breakers' states are sampled ``SAMPLES`` times; ``exact_breakers`` listens to
    the router instead, which costs every request some time. ``progress`` is called with the share of the time that is
    over.
    """
    world = World(scenario, seed)
    engine = _Engine(world, strategy, router, exact_breakers=exact_breakers, progress=progress)
    _played(engine)
    return Run(
        scenario=scenario.name, strategy=name or _name(strategy), seed=world.seed, providers=engine.names,
        duration_s=scenario.duration_s, warm_up_s=scenario.warm_up_s, slo_s=scenario.slo_s, requests=engine.rows,
        timeline=engine.timeline,
    )


def _name(strategy: StrategyLike) -> str:
    return strategy if isinstance(strategy, str) else str(getattr(strategy, "name", getattr(strategy, "__name__", "?")))


def _played(engine: _Engine) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _play(engine)
    else:  # in a notebook, or in a program of coroutines: one loop cannot run within another
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_play, engine).result()


def _play(engine: _Engine) -> None:
    with _calm_memory(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(engine.play())


@contextmanager
def _calm_memory() -> Iterator[None]:
    """What is there already is no garbage of the run, and most of what the run leaves needs no collector."""
    before = gc.get_threshold()
    gc.collect(1)  # what an earlier run has left; all that is older is not worth the time to look at it
    gc.freeze()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class _Engine:
    """One run under way."""

    def __init__(
        self, world: World, strategy: StrategyLike, make: MakeRouter, *, exact_breakers: bool,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.world = world
        self.rows = Requests(world.ledger)
        self.names = tuple(provider.name for provider in world.providers)
        self.timeline = Timeline(episodes=[
            Span(provider.name, episode.kind, episode.from_s, episode.until_s)
            for provider in world.providers for episode in provider.model.episodes
        ])
        self._index = {name: index for index, name in enumerate(self.names)}
        self._strategy = strategy
        self._make = make
        self._exact = exact_breakers
        self._progress = progress
        self._breakers: dict[str, str] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def play(self) -> None:
        """The whole run: returns when the last request has ended."""
        self._loop = loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)  # noqa: S101  # see _play; narrows the type
        sys.set_asyncgen_hooks(firstiter=None)  # every stream is read to its end: nobody need remember to close it
        self._router = self._make(self.world, self._strategy, listeners=[self._heard] if self._exact else ())
        for job in self.world.traffic.openings():
            loop.call_at(job.at, self._begin, job)
        _Arrivals(loop, self.world.traffic.arrivals(), self._begin).wait()
        self._sample(0)
        await asyncio.sleep(self.world.scenario.duration_s - loop.time())
        while self._tasks:
            # A task that raised what is no OrchestratorError has stayed here: that is a fault of router or model.
            await asyncio.gather(*self._tasks.values())
        await self._router.aclose()
        self.rows.close()

    def _begin(self, job: Job) -> None:
        self.rows.begin(job)
        # What create_task does, and nothing else.
        self._tasks[job.number] = asyncio.Task(self._ask(job), loop=self._loop)

    async def _ask(self, job: Job) -> None:
        rows = self.rows
        answered = False
        try:
            if job.streamed:
                first, answer = await self._read(job)
            else:
                answer = await self._router.complete(job, timeout=job.timeout, priority=job.priority)
                first = _first_token(answer, job.at)
        except OrchestratorError as error:
            rows.failed(job, self._loop.time() - job.at, type(error).__name__)
        else:
            answered = True
            rows.ended(job, self._loop.time() - job.at, first, self._index.get(answer.provider or "", -1))
        if job.place >= 0:
            following = self.world.traffic.after(job, self._loop.time(), answered=answered)
            if following is not None:
                self._loop.call_at(following.at, self._begin, following)
        del self._tasks[job.number]

    async def _read(self, job: Job) -> tuple[float, Completion]:
        """Seconds to the first piece, and the answer."""
        first, answer = nan, _NONE
        # Read to its end, or until it raises: then there is nothing left to close.
        async for event in self._router.stream(job, timeout=job.timeout, priority=job.priority):
            if first != first:  # noqa: PLR0124  # nan: none yet
                first = self._loop.time() - job.at
            if isinstance(event, Finished):
                answer = event.completion
        return first, answer

    def _sample(self, number: int) -> None:
        loop, providers = self._loop, self.world.providers
        duration = self.world.scenario.duration_s
        self.timeline.samples.append(Sample(
            loop.time(), tuple(p.busy for p in providers), tuple(p.queued for p in providers)
        ))
        if not self._exact:
            self._look()
        if self._progress is not None:
            self._progress(number / SAMPLES)
        if number < SAMPLES:
            loop.call_at(duration * (number + 1) / SAMPLES, self._sample, number + 1)

    def _look(self) -> None:
        """Note which breakers have changed since the last sample."""
        for name, state in _breakers(self._router):
            self._changed(self._loop.time(), name, state)

    def _heard(self, event: Event) -> None:
        if isinstance(event, BreakerChanged):
            self._changed(event.at, event.provider, event.new, event.reason)

    def _changed(self, at: float, provider: str, new: str, reason: str = "") -> None:
        old = self._breakers.get(provider, "closed" if self._exact else new)
        self._breakers[provider] = new
        if new != old:
            self.timeline.breakers.append(BreakerChange(at, provider, old, new, reason))


def _breakers(router: RouterLike) -> Iterator[tuple[str, str]]:
    """Providers and the states of their breakers, where the router tells."""
    if isinstance(router, Router):  # its snapshot() would also work out all quantiles
        for candidate in router._pool:  # noqa: SLF001
            yield candidate.name, candidate.breaker.phase
    elif (snapshot := getattr(router, "snapshot", None)) is not None:
        for name, state in snapshot().items():
            yield name, state.breaker


class _Arrivals:
    """Woken when the next request comes, and only by the clock: no timer, no handle, no task of its own."""

    __slots__ = ("_begin", "_job", "_jobs", "_loop")

    cancelled = done = False.__bool__  # False, without a frame

    def __init__(self, loop: VirtualTimeLoop, jobs: Iterator[Job], begin: Callable[[Job], None]) -> None:
        self._loop = loop
        self._jobs = jobs
        self._begin = begin

    def wait(self) -> None:
        """For the next one, if there is one."""
        job = next(self._jobs, None)
        if job is not None:
            self._job = job
            self._loop.wake_at(job.at, self)

    def set_result(self, _: None, /) -> None:
        """It has come."""
        self._begin(self._job)
        self.wait()


def _first_token(answer: Completion, begun: float) -> float:
    """Seconds from the caller's call to the first token of a plain answer, of which its provider told."""
    own = answer.time_to_first_token
    if own is None:
        return nan
    attempts = answer.attempts
    if len(attempts) <= 1:
        return own
    winner = next(a for a in reversed(attempts) if a.error is None and a.provider == answer.provider)
    return winner.started - begun + own
