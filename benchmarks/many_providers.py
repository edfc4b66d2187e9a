"""What it costs a hundred providers that a decision compares some of them only, in calls served and in instructions.

    python benchmarks/many_providers.py [--strategy NAME ...] [--seeds N] [--write]

Queueing models in virtual time, the strategy alone: no network, no breaker, no retry. Each strategy plays twice: as it
is, and with all candidates compared in every decision. ``--write``: ``benchmarks/results/many_providers.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import platform
from collections import deque
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from random import Random

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage
from orchestrator.strategies import RoutingStrategy, lowest_cost, resolve, shortlist
from orchestrator.testing.loop import VirtualTimeLoop

RESULTS = Path(__file__).parent / "results" / "many_providers.json"
STRATEGIES = ("least-latency", "best-available", "prequal", "adaptive", "lowest-cost")
COUNT, UNTIL, WARM_UP = 100, 60.0, 10.0
FAILS_WITHIN = 0.005  # seconds
REQUEST = Request("?")
SERVICE = 3.2  # seconds an answer takes on average where the speed is 1


@dataclass
class Server:
    """Takes ``capacity`` calls at once, the others queue; ``slowness`` 2 takes twice as long."""

    view: CandidateView
    capacity: int
    slowness: float = 1.0
    fails: bool = False  # between 20 and 40 s
    busy: int = 0
    queue: deque[Call] = field(default_factory=deque)


@dataclass
class Call:
    """One call at a modelled provider."""

    server: Server
    at: float
    tokens: int
    luck: float
    load: int
    ok: bool = True


def server(number: int, capacity: int, slowness: float = 1.0, price: float = 1.0, *, fails: bool = False) -> Server:
    view = CandidateView(f"p{number}")
    view.input_price = view.output_price = price
    return Server(view, capacity, slowness, fails)


# Title: the servers, and how busy they would be if all were used alike.
POOLS = {
    "alike, 70 % busy": (lambda n: server(n, 4), 0.7),
    "four speeds, 60 % busy": (lambda n: server(n, 4, (0.5, 1.0, 1.5, 3.0)[n % 4], (4, 3, 2, 1)[n % 4]), 0.6),
    "one five times as fast": (lambda n: server(n, 200 if n == 57 else 8, 0.2 if n == 57 else 1.0), 0.1),
    "every fifth fails at once": (lambda n: server(n, 8, fails=n % 5 == 0), 0.6),
    "a hundred prices": (lambda n: server(n, 8, 1 + n % 7 / 7, 1 + n * 37 % 100 / 20), 0.4),
}


async def play(pool: str, strategy: RoutingStrategy, seed: int) -> tuple[list[float], int, float]:
    """Latencies of all answers after the warm-up, how many calls failed, and the price of the answers."""
    loop = asyncio.get_running_loop()
    random, strategy.random = Random(seed), Random(seed + 1)
    make, load = POOLS[pool]
    servers = {made.view: made for made in map(make, range(COUNT))}
    views = list(servers)
    rate = load * sum(made.capacity / (SERVICE * made.slowness) for made in servers.values())
    numbers = itertools.count()
    events: list[tuple[float, int, Call | None]] = [(random.expovariate(rate), 0, None)]
    latencies, failed, paid = [], 0, 0.0

    def later(at: float, call: Call | None) -> None:
        heapq.heappush(events, (at, next(numbers), call))

    def begin(call: Call, t: float) -> None:
        call.server.busy += 1
        later(t + (0.5 + call.tokens / 80) * call.server.slowness * exp(0.2 * call.luck), call)

    def arrive(t: float) -> None:
        if t < UNTIL:
            later(t + random.expovariate(rate), None)
        to = servers[next(iter(strategy.order(views, REQUEST)))]
        to.view.in_flight += 1
        to.view.requests += 1
        call = Call(to, t, int(exp(random.gauss(5.3, 0.8))) + 1, random.gauss(0, 1), to.view.in_flight)
        if to.fails and 20 <= t < 40:
            call.ok = False
            later(t + FAILS_WITHIN, call)
        elif to.busy < to.capacity:
            begin(call, t)
        else:
            to.queue.append(call)

    while events:
        t, _, call = heapq.heappop(events)
        loop.advance(t - loop.time())
        if call is None:
            arrive(t)
            continue
        of = call.server
        of.view.in_flight -= 1
        if not call.ok:
            failed += 1
            of.view.failed(t, None)
            continue
        of.view.answered(t, t - call.at, Usage(0, call.tokens), 0, call.load)
        of.busy -= 1
        if call.at > WARM_UP:
            latencies.append(t - call.at)
            paid += of.view.output_price * call.tokens
        if of.queue:
            begin(of.queue.popleft(), t)
    return latencies, failed, paid


def measure(name: str, pool: str, seeds: int, compared: int) -> dict[str, float]:
    shortlist.ALL = lowest_cost.ALL = compared
    latencies, failed, paid = [], 0, 0.0
    for seed in range(1, seeds + 1):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            one = runner.run(play(pool, resolve(name), seed))
        latencies, failed, paid = latencies + one[0], failed + one[1], paid + one[2]
    latencies.sort()
    count = len(latencies)
    return {
        "mean_s": round(sum(latencies) / count, 3), "p99_s": round(latencies[int(0.99 * count)], 3),
        "failed": failed, "price": round(paid / count, 1),
    }


def shown(figures: dict[str, float]) -> str:
    return "mean {mean_s:6.3f} s  p99 {p99_s:6.2f} s  failed {failed:4}  price {price:7.1f}".format(**figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", nargs="*", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    some = shortlist.ALL
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for pool in POOLS:
        print(f"{COUNT} providers, {pool}")
        for name in options.strategy:
            found = {told: measure(name, pool, options.seeds, n) for told, n in (("some", some), ("all", COUNT))}
            results.setdefault(pool, {})[name] = found
            for told, figures in found.items():
                print(f"  {name:15} {told:4} compared  {shown(figures)}", flush=True)
    if options.write:
        command = f"python benchmarks/many_providers.py --seeds {options.seeds} --write"
        document = {"command": command, "python": platform.python_version(), "providers": COUNT, "pools": results}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
