"""What hedging takes off the tail, and what it costs: the real router with and without it, in virtual time.

    python benchmarks/hedging.py [--write]

Two modelled providers stream; the first token comes after a log-normal time (median 0.5 s, sigma 0.4), but 2 % of the
calls straggle for 5 to 30 s. 20 000 requests come at random, 20 a second. Everything is seeded and no socket is open,
so two runs give the same figures. ``--write`` puts them into ``benchmarks/results/hedging.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from collections.abc import AsyncGenerator
from math import exp
from pathlib import Path
from random import Random

from orchestrator import (
    Completion,
    Finished,
    HedgePolicy,
    ProviderConfig,
    Request,
    Router,
    StreamEvent,
    TextDelta,
    Timeouts,
)
from orchestrator.providers import BaseProvider
from orchestrator.testing import VirtualTimeLoop

RESULTS = Path(__file__).parent / "results" / "hedging.json"
REQUESTS = 20_000
RATE = 20.0
STRAGGLERS = 0.02


class Straggling(BaseProvider):
    """Streams two pieces, late or not."""

    def __init__(self, name: str, random: Random) -> None:
        super().__init__(ProviderConfig(name=name))
        self.random = random
        self.calls = 0

    async def open_stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        self.calls += 1
        straggles = self.random.random() < STRAGGLERS
        await asyncio.sleep(self.random.uniform(5, 30) if straggles else 0.5 * exp(0.4 * self.random.gauss(0, 1)))
        yield TextDelta("to ")
        yield TextDelta("you")
        yield Finished(Completion(""))


async def first_tokens(strategy: str, hedge: HedgePolicy | None) -> dict[str, float]:
    """Seconds from the call to the first piece, as the reader saw it."""
    random = Random(1)
    providers = [Straggling(name, Random(seed)) for seed, name in enumerate(("alpha", "beta"))]
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    async def ask() -> None:
        began = loop.time()
        stream = router.route_stream("?")
        await anext(stream)
        waits.append(loop.time() - began)
        async for _ in stream:
            pass

    router = Router(strategy, providers, hedge=hedge, timeouts=Timeouts(first_token=60), seed=1)
    tasks = set()
    for _ in range(REQUESTS):
        await asyncio.sleep(random.expovariate(RATE))
        task = loop.create_task(ask())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await router.aclose()
    waits.sort()
    calls = sum(provider.calls for provider in providers)
    found = {f"p{100 * q:g}": round(waits[int(q * len(waits))], 2) for q in (0.5, 0.95, 0.99, 0.999)}
    return {**found, "extra_calls_percent": round(100 * (calls / REQUESTS - 1), 2)}


def played(strategy: str, hedge: HedgePolicy | None) -> dict[str, float]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(first_tokens(strategy, hedge))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    policies = {
        "no hedging": None,
        "HedgePolicy()": HedgePolicy(),
        "HedgePolicy(quantile=0.99, median_factor=1000)": HedgePolicy(quantile=0.99, median_factor=1000),
    }
    results = {
        strategy: {name: played(strategy, policy) for name, policy in policies.items()}
        for strategy in ("round-robin", "first-available", "least-latency")
    }
    written = {"command": "python benchmarks/hedging.py --write", "python": platform.python_version(), **results}
    text = json.dumps(written, indent=2)
    print(text)
    if options.write:
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
