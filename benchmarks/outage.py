"""What an outage, a black hole and a storm of cancellations cost: the real router at its defaults, in virtual time.

    python benchmarks/outage.py [--write]

Three modelled providers answer after a log-normal 0.3 s. Everything is seeded and no socket is open, so two runs give
the same figures. ``--write`` puts them into ``benchmarks/results/outage.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from random import Random

from orchestrator import ConnectionFailedError, OrchestratorError, ProviderConfig, Router, ServerError
from orchestrator.core.events import AttemptStarted, BreakerChanged, Event
from orchestrator.providers import BaseProvider
from orchestrator.strategies.registry import BUILT_IN
from orchestrator.testing import VirtualTimeLoop

RESULTS = Path(__file__).parent / "results" / "outage.json"
NAMES = "alpha", "beta", "gamma"


class Modelled(BaseProvider):
    """Answers after a while, or fails in ``fails_in`` seconds while ``down``."""

    def __init__(self, name: str, random: Random, *, fails_in: float = 0.05) -> None:
        super().__init__(ProviderConfig(name=name))
        self.random = random
        self.fails_in = fails_in
        self.down: Callable[[float], bool] = lambda _: False
        self.error: type[OrchestratorError] = ConnectionFailedError

    async def generate(self, prompt: str, params: object = None) -> str:
        if self.down(asyncio.get_running_loop().time()):
            await asyncio.sleep(self.fails_in)
            raise self.error("down")
        await asyncio.sleep(0.3 * exp(0.4 * self.random.gauss(0, 1)))
        return self.name


@dataclass
class Run:
    """What callers saw and what the wire saw: loop times."""

    began: list[float] = field(default_factory=list)
    ended: list[tuple[float, float, str]] = field(default_factory=list)  # began, ended, outcome
    attempts: list[tuple[float, str]] = field(default_factory=list)
    breaks: list[tuple[float, str, float]] = field(default_factory=list)  # at, provider, length

    def listen(self, event: Event) -> None:
        if isinstance(event, AttemptStarted):
            self.attempts.append((event.at, event.provider))
        elif isinstance(event, BreakerChanged) and event.new == "open":
            self.breaks.append((event.at, event.provider, event.retry_after or 0.0))

    async def ask(self, router: Router, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.began.append(began)
        try:
            outcome = f"answered by {await router.route('?', timeout=timeout)}"
        except OrchestratorError as error:
            outcome = type(error).__name__
        self.ended.append((began, loop.time(), outcome))


async def traffic(rate: float, until: float, random: Random, one: Callable[[], Awaitable[None]]) -> None:
    """Poisson arrivals; returns when all of them have ended."""
    loop = asyncio.get_running_loop()
    tasks = set()
    while loop.time() < until:
        await asyncio.sleep(random.expovariate(rate))
        task = asyncio.ensure_future(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def total_outage(timeout: float) -> dict[str, object]:
    """All three refuse connections for 60 s, at 10 000 requests in that time; 10 s of health before, 60 s after."""
    begins, ends, rate = 10.0, 70.0, 10_000 / 60
    random = Random(1)
    providers = [Modelled(name, random) for name in NAMES]
    for provider in providers:
        provider.down = lambda at: begins <= at < ends
    run = Run()
    async with Router("round-robin", providers, listeners=[run.listen], seed=1) as router:
        await traffic(rate, ends + 60, random, lambda: run.ask(router, timeout))
    requests = sum(begins <= at < ends for at in run.began)
    wire = sum(begins <= at < ends for at, _ in run.attempts)
    longest = max(length for at, _, length in run.breaks if at < ends)
    answered = sorted(end for _, end, outcome in run.ended if outcome.startswith("answered") and end >= ends)
    healthy = next((at for at in range(int(ends), int(ends) + 60) if share_answered(run, at) >= 0.99), None)
    return {
        "requests": requests, "wire_calls": wire, "wire_calls_per_request": round(wire / requests, 4),
        "longest_break": round(longest, 2),
        "first_answer_after": round(answered[0] - ends, 2),
        "99_percent_answered_from": None if healthy is None else round(healthy - ends, 2),
        "outcomes_of_those_begun_in_it": count(run, begins, ends),
    }


def share_answered(run: Run, at: float) -> float:
    """Of the requests begun in the second from ``at`` on."""
    outcomes = [outcome for began, _, outcome in run.ended if at <= began < at + 1]
    return sum(outcome.startswith("answered") for outcome in outcomes) / len(outcomes) if outcomes else 0.0


def count(run: Run, since: float, until: float) -> dict[str, int]:
    return dict(Counter(outcome.split(" by ")[0] for began, _, outcome in run.ended if since <= began < until))


async def black_hole(strategy: str) -> dict[str, object]:
    """One of three fails in 5 ms for 60 s, 100 requests a second."""
    begins, ends = 10.0, 70.0
    random = Random(2)
    providers = [Modelled(name, random, fails_in=0.005) for name in NAMES]
    providers[0].down = lambda at: begins <= at < ends
    providers[0].error = ServerError
    run = Run()
    async with Router(strategy, providers, listeners=[run.listen], seed=2) as router:
        await traffic(100, ends, random, lambda: run.ask(router, 30))
    asked = [outcome for began, _, outcome in run.ended if began >= begins + 1]
    errors = sum(not outcome.startswith("answered") for outcome in asked)
    latencies = sorted(end - began for began, end, _ in run.ended if began >= begins + 1)
    wasted = sum(at >= begins + 1 and name == NAMES[0] for at, name in run.attempts)
    return {
        "requests": len(asked), "errors_percent": round(100 * errors / len(asked), 3),
        "calls_to_the_black_hole_percent": round(100 * wasted / len(asked), 3),
        "p50": round(latencies[len(latencies) // 2], 3), "p99": round(latencies[int(0.99 * len(latencies))], 3),
    }


async def cancellation_storm() -> dict[str, object]:
    """10 000 requests, plain and streamed, every one cancelled or abandoned at a random moment."""
    random = Random(3)
    providers = [Modelled(name, random) for name in NAMES]
    providers[0].config.max_concurrency = 50
    providers[1].config.rpm_limit = 100_000
    loop = asyncio.get_running_loop()
    before = len(asyncio.all_tasks())
    outcomes: Counter[str] = Counter()

    async def one() -> None:
        call = streamed(router) if random.random() < 0.5 else router.route("?")
        task = loop.create_task(call)
        await asyncio.sleep(random.uniform(0, 0.6))
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        outcomes["answered" if isinstance(result, str) else type(result).__name__] += 1

    router = Router("random", providers, seed=3)
    await traffic(500, 20, random, one)
    gc.collect()
    await asyncio.sleep(0.1)
    snapshots = router.snapshot().values()
    left = {
        "in_flight": sum(snapshot.in_flight for snapshot in snapshots),
        "guards": len(router._watch or ()), "tasks": len(asyncio.all_tasks()) - before,
    }
    breakers = Counter(snapshot.breaker for snapshot in snapshots)
    await router.aclose()
    return {"outcomes": dict(outcomes), "left": left, "breakers": dict(breakers)}


async def streamed(router: Router) -> str:
    return "".join([piece async for piece in router.route_stream("?")])


def played(scenario: Coroutine[None, None, dict[str, object]]) -> dict[str, object]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    results = {
        "total outage, callers wait 120 s": played(total_outage(120)),
        "total outage, callers wait 2 s": played(total_outage(2)),
        "black hole": {strategy: played(black_hole(strategy)) for strategy in sorted(BUILT_IN)},
        "cancellation storm": played(cancellation_storm()),
    }
    written = {"command": "python benchmarks/outage.py --write", "python": platform.python_version(), **results}
    text = json.dumps(written, indent=2)
    print(text)
    if options.write:
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
