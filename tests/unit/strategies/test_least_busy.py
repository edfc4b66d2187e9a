"""Least busy: the power of two choices, and the failing provider whose queue is always empty."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.core.clock import new_random, now
from orchestrator.strategies import LeastBusy
from orchestrator.strategies.least_busy import two
from unit.strategies.views import burst, firsts, order, seeded, view


async def test_of_two_the_one_with_fewer_in_flight_goes_first():
    for _ in range(20):
        assert order(seeded(LeastBusy()), view("a", in_flight=3), view("b", in_flight=2)) == "ba"


async def test_weight_counts():
    assert set(firsts(seeded(LeastBusy()), [view("a", in_flight=3), view("b", in_flight=5, weight=2)], 20)) == {"b"}


async def test_the_busiest_never_goes_first_and_the_others_share():
    counts = Counter(firsts(seeded(LeastBusy()), [view("a", in_flight=9), view("b"), view("c", in_flight=1)], 600))
    assert counts["a"] == 0
    assert counts["b"] == pytest.approx(400, abs=40), "in two of three pairs"


async def test_ties_are_broken_by_chance():
    assert Counter(firsts(seeded(LeastBusy()), [view("a"), view("b")], 400))["a"] == pytest.approx(200, abs=40)


async def test_a_burst_is_spread_by_weight():
    counts = burst(seeded(LeastBusy()), [view("a"), view("b"), view("c", weight=2)], 400)
    assert counts["c"] == pytest.approx(200, abs=4)


async def test_a_failing_one_goes_last_until_the_failure_has_faded():
    failing, busy = view("f", 0.01), view("b", 0.01, in_flight=50)
    failing.failed(now(), None)
    assert {order(seeded(LeastBusy()), failing, busy) for _ in range(20)} == {"bf"}
    await asyncio.sleep(30)
    assert {order(seeded(LeastBusy()), failing, busy) for _ in range(20)} == {"fb"}


async def test_the_rest_follow_the_healthy_first_then_the_less_busy():
    candidates = [view("f", 0.01), view("b", 0.01, 5), view("c", 0.01, 7), view("g", 0.01, 1)]
    candidates[0].failed(now(), None)
    candidates[3].failed(now(), None)
    assert order(seeded(LeastBusy()), *candidates) == "bcfg"


async def test_two_failing_ones_are_not_drawn_together():
    candidates = [view("f", 0.01), view("g", 0.01), view("b", 0.01, in_flight=50), view("c", 0.01, in_flight=50)]
    for failing in candidates[:2]:
        failing.failed(now(), None)
    assert set(firsts(seeded(LeastBusy()), candidates, 50)) == {"b", "c"}


async def test_when_all_fail_their_load_is_shared():
    candidates = [view(name, 0.01) for name in "abc"]
    for candidate in candidates:
        candidate.failed(now(), None)
    assert set(burst(seeded(LeastBusy()), candidates, 30).values()) <= {9, 10, 11}


def test_every_pair_is_drawn_as_often_and_nobody_with_itself():
    random, pairs = new_random(1), Counter()
    for _ in range(6000):
        pairs[two("abc", random)] += 1
    assert len(pairs) == 6
    assert all(count == pytest.approx(1000, rel=0.15) for count in pairs.values())
    assert two("a", random) == ("a", "a")
