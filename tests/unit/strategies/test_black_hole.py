"""One provider fails in 5 ms, and so looks fast and idle: nobody who reads load or speed may fall for it."""

from __future__ import annotations

import asyncio
import heapq

import pytest

from orchestrator.core.clock import new_random
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Usage
from orchestrator.strategies import resolve
from unit.strategies.views import ASKED, seeded


async def share_lost(strategy, *, rate, latency, others):
    """Percent of the calls of 30 s in which the first of the providers fails, without breaker, retry and failover."""
    random, loop = new_random(5), asyncio.get_running_loop()
    hole, *_ = candidates = [CandidateView(f"p{n}") for n in range(1 + others)]
    ends, asked, lost, at = [], 0, 0, 0.0
    while at < 50:
        at += random.expovariate(rate)
        while ends and ends[0][0] <= at:
            ended, _, candidate, began, load, ok = heapq.heappop(ends)
            candidate.in_flight -= 1
            if ok:
                candidate.answered(ended, ended - began, Usage(0, 150), 0, load)
            else:
                candidate.failed(ended, None)
        loop.advance(at - loop.time())
        first = next(strategy.order(candidates, ASKED))
        first.in_flight += 1
        down = at >= 20
        ok = not (down and first is hole)
        lasts = latency * random.uniform(0.5, 1.5) if ok else 0.005
        heapq.heappush(ends, (at + lasts, asked, first, at, first.in_flight, ok))
        asked += down
        lost += not ok
    return 100 * lost / asked


@pytest.mark.parametrize(("rate", "latency", "others"), [(200, 0.1, 10), (16, 4.0, 3)])
@pytest.mark.parametrize("name", ["least-busy", "peak-ewma", "prequal", "lowest-cost", "best-available"])
async def test_a_black_hole_swallows_almost_nothing_without_a_breaker(name, rate, latency, others):
    assert await share_lost(seeded(resolve(name)), rate=rate, latency=latency, others=others) <= 2.0
