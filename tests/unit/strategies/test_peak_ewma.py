"""Peak EWMA: quick to leave a slow provider, slow to come back, and never fooled by a fast failure."""

from __future__ import annotations

import asyncio
from collections import Counter

from orchestrator.core.clock import now
from orchestrator.core.types import Usage
from orchestrator.strategies import PeakEwma
from unit.strategies.views import burst, firsts, order, seeded, view


async def test_pace_load_and_weight_count():
    strategy = seeded(PeakEwma())
    assert {order(strategy, view("a", 0.03), view("b", 0.01)) for _ in range(9)} == {"ba"}
    assert {order(strategy, view("a", 0.01, 5), view("b", 0.02, 1)) for _ in range(9)} == {"ba"}
    assert {order(strategy, view("a", 0.01), view("b", 0.03, weight=4)) for _ in range(9)} == {"ba"}


async def test_one_slow_answer_counts_at_once_and_longer_than_the_fast_ones_after_it():
    jumpy, steady = view("j", 0.01, 1), view("s", 0.02, 1)
    jumpy.answered(now(), 100 * 0.1, Usage(0, 50), 0)
    for _ in range(50):
        jumpy.answered(now(), 100 * 0.01, Usage(0, 50), 0)
    assert jumpy.pace < 0.02, "the plain average has forgotten it"
    assert order(seeded(PeakEwma()), jumpy, steady) == "sj"
    await asyncio.sleep(30)
    jumpy.answered(now(), 100 * 0.01, Usage(0, 50), 0)
    assert order(seeded(PeakEwma()), jumpy, steady) == "js"


async def test_of_three_the_slowest_never_goes_first():
    assert "c" not in firsts(seeded(PeakEwma()), [view("a", 0.01), view("b", 0.02), view("c", 0.03)], 100)


async def test_an_idle_one_is_tried_again_as_its_peak_fades():
    slow, fast = view("s", 0.1), view("f", 0.01, 1)
    assert order(seeded(PeakEwma()), slow, fast) == "fs"
    await asyncio.sleep(20)
    assert order(seeded(PeakEwma()), slow, fast) == "sf"


async def test_a_busy_one_that_does_not_answer_is_not_forgiven():
    hanging, fast = view("h", 0.1, 1), view("f", 0.01, 1)
    await asyncio.sleep(100)
    assert order(seeded(PeakEwma()), hanging, fast) == "fh"


async def test_an_unmeasured_one_gets_one_call_and_no_second_before_it_answers():
    new, known = view("n"), view("k", 0.01, 1)
    assert order(seeded(PeakEwma()), new, known) == "nk"
    new.in_flight = 1
    assert order(seeded(PeakEwma()), new, known) == "kn"


async def test_a_burst_on_unmeasured_ones_is_spread():
    assert set(burst(seeded(PeakEwma()), [view(name) for name in "abcd"], 40).values()) <= {8, 9, 10, 11, 12}


async def test_a_failure_weighs_more_than_a_slow_answer():
    failing, slow = view("f", 0.01), view("s", 0.05, 9)
    failing.failed(now(), None)
    assert {order(seeded(PeakEwma()), failing, slow) for _ in range(9)} == {"sf"}
    await asyncio.sleep(30)
    assert {order(seeded(PeakEwma()), failing, slow) for _ in range(9)} == {"fs"}


async def test_of_failing_ones_the_longer_retry_after_waits_longer():
    short, long = view("s", 0.01), view("l", 0.01)
    short.failed(now(), 6)
    long.failed(now(), 60)
    long.peak = 0.005
    assert Counter(order(seeded(PeakEwma()), short, long) for _ in range(9)) == {"sl": 9}
