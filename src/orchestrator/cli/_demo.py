"""``orchestrator demo``: a steady load over three providers, one of which is killed and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

from orchestrator.cli._board import Board
from orchestrator.core.clock import now
from orchestrator.core.config import BreakerPolicy, Timeouts
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.providers.base import BaseProvider
from orchestrator.router import Router
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.least_latency import LeastLatency
from orchestrator.strategies.registry import resolve

__all__ = ["Demo", "Plan", "Stage", "View", "run_simulated"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, by which strategy. All that takes time is scaled to the length, so that it fits into it."""

    seconds: float = 30.0
    rate: float = 20.0
    strategy: str = "least-latency"
    seed: int | None = None

    @property
    def killed_at(self) -> float:
        """Seconds after the start."""
        return 0.25 * self.seconds

    @property
    def back_at(self) -> float:
        """Seconds after the start."""
        return 0.55 * self.seconds

    def breaker(self) -> BreakerPolicy:
        """Quick to open, short breaks, a short ramp."""
        return BreakerPolicy(
            consecutive_failures=2, break_base=0.05 * self.seconds, break_max=0.1 * self.seconds,
            probe_timeout=2.0, ramp=0.15 * self.seconds,
        )

    def routing(self) -> RoutingStrategy:
        """The strategy; the one that must explore to find a provider again does so more often than it would."""
        strategy = resolve(self.strategy)
        if isinstance(strategy, LeastLatency):
            return LeastLatency(explore_every=5, explore_after=0.05 * self.seconds)
        return strategy


@dataclass(frozen=True, slots=True)
class Stage:
    """The providers, and how the first of them is killed and brought back."""

    providers: Sequence[BaseProvider]
    kill: Callable[[], object]
    revive: Callable[[], object]


class View(Protocol):
    """Shows the board: ``show`` is called ``every`` so many seconds and once more at the end."""

    every: float

    def show(self, board: Board, providers: Sequence[ProviderSnapshot], at: float) -> None:
        """What is known at loop time ``at``."""


class Demo:
    """One run. ``board`` is there as soon as it has begun, and stays after Ctrl-C."""

    def __init__(self, plan: Plan, view: View) -> None:
        self.plan = plan
        self.board: Board | None = None
        self._view = view

    async def run(self, stage: Stage) -> Board:
        """Drive the load to its end; the providers are closed."""
        plan = self.plan
        names = [provider.name for provider in stage.providers]
        board = self.board = Board(names, started=now(), length=plan.seconds)
        async with Router(
            plan.routing(), stage.providers, breaker=plan.breaker(), listeners=[board], seed=plan.seed,
            timeouts=Timeouts(connect=1, first_token=5, idle=5, total=10),
        ) as router:
            load = asyncio.create_task(self._load(router, stage, board))
            try:
                while not load.done():
                    self._view.show(board, list(router.snapshot().values()), now())
                    await asyncio.wait({load}, timeout=self._view.every)
                await load
            finally:
                load.cancel()
                await asyncio.wait({load})
                self._view.show(board, list(router.snapshot().values()), now())
        return board

    async def _load(self, router: Router, stage: Stage, board: Board) -> None:
        """One request every ``1 / rate`` seconds, whether or not the earlier ones have been answered."""
        plan = self.plan
        started = now()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outage(stage, board))
            for number in range(max(1, round(plan.seconds * plan.rate))):
                await asyncio.sleep(started + number / plan.rate - now())
                tasks.create_task(_request(router, number))

    async def _outage(self, stage: Stage, board: Board) -> None:
        name = stage.providers[0].name
        await asyncio.sleep(self.plan.killed_at)
        board.down.add(name)
        board.note(now(), "bad", f"{name} is killed: it accepts no connection any more")
        stage.kill()
        await asyncio.sleep(self.plan.back_at - self.plan.killed_at)
        stage.revive()
        board.down.discard(name)
        board.note(now(), "good", f"{name} is up again; nobody knows yet")


async def _request(router: Router, number: int) -> None:
    with suppress(OrchestratorError):  # the board has counted it
        await router.route(f"Question {number}")


async def run_simulated(demo: Demo) -> None:
    """Over the embedded servers."""
    from orchestrator.cli._simulated import demo_servers

    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(server) for server in demo_servers(demo.plan.seed)]
        await demo.run(Stage([server.provider() for server in servers], servers[0].down, servers[0].up))
