"""Prequal: the fastest of those that are not busier than usual, else the least busy."""

from __future__ import annotations

import asyncio

from orchestrator.core.clock import now
from orchestrator.strategies import Prequal
from orchestrator.strategies.prequal import NOTED, REMEMBERED
from unit.strategies.views import burst, firsts, order, seeded, view


def used_to(strategy, *candidates):
    """It has seen these loads often enough."""
    firsts(strategy, candidates, NOTED * (REMEMBERED // len(candidates)))
    return strategy


async def test_of_cold_ones_the_fastest_goes_first_whatever_its_load():
    candidates = [view("a", 0.02, 1, load=9), view("b", 0.01, 5, load=9), view("c", 0.03, 0, load=9)]
    strategy = used_to(seeded(Prequal(quantile=1.0)), *candidates)
    assert order(strategy, *candidates) == "bac"


async def test_a_hot_one_comes_after_the_cold_ones_however_fast():
    candidates = [view("a", 0.02, 1, load=9), view("b", 0.01, 5, load=9), view("c", 0.03, 0, load=9)]
    strategy = used_to(seeded(Prequal(quantile=0.6)), *candidates)
    assert order(strategy, *candidates) == "acb"


async def test_weight_says_how_much_is_busy():
    candidates = [view("a", 0.02, 1), view("b", 0.01, 5, load=9, weight=5), view("c", 0.03)]
    strategy = used_to(seeded(Prequal(quantile=0.6)), *candidates)
    assert order(strategy, *candidates)[0] == "b"


async def test_of_hot_ones_the_least_busy_goes_first():
    idle = [view("a", 0.01), view("b", 0.02), view("c", 0.03)]
    strategy = used_to(seeded(Prequal()), *idle)
    for candidate, count in zip(idle, (9, 4, 6), strict=True):
        candidate.in_flight = count
    assert order(strategy, *idle) == "bca"


async def test_more_in_flight_than_when_it_was_measured_makes_it_slower():
    crowded, calm = view("c", 0.01, 40, load=5), view("k", 0.02, 5, load=5)
    strategy = used_to(seeded(Prequal(quantile=1.0)), crowded, calm)
    assert order(strategy, crowded, calm) == "kc"
    crowded.in_flight = 8
    assert order(strategy, crowded, calm) == "ck"


async def test_a_failing_one_goes_last_until_the_failure_has_faded():
    failing, slow = view("f", 0.01), view("s", 0.05, 9, load=9)
    failing.failed(now(), None)
    assert order(seeded(Prequal()), failing, slow) == "sf"
    await asyncio.sleep(30)
    assert order(seeded(Prequal()), failing, slow) == "fs"


async def test_an_unmeasured_one_is_not_herded_on():
    counts = burst(seeded(Prequal()), [view("n"), view("a", 0.01), view("b", 0.01)], 90)
    assert max(counts.values()) <= 45


async def test_the_fastest_does_not_get_a_whole_burst():
    counts = burst(seeded(Prequal()), [view("a", 0.01), view("b", 0.015), view("c", 0.02)], 90)
    assert max(counts.values()) <= 60


async def test_who_was_slow_is_tried_again_now_and_then():
    slow, fast = view("s", 0.1), view("f", 0.01)
    strategy = seeded(Prequal())
    assert "s" not in firsts(strategy, [slow, fast], 100)
    await asyncio.sleep(11)
    fast.answered(now(), 1.0, None, 200)
    assert "s" in firsts(strategy, [slow, fast], 2000)
