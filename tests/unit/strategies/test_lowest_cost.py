"""Lowest cost: the cheapest in time, what "in time" and "cheap" are, and that load and failures end it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.core.clock import now
from orchestrator.core.config import GenerationParams
from orchestrator.core.types import Request, Usage
from orchestrator.strategies import LowestCost
from unit.strategies.views import firsts, order, seeded, view


async def test_the_cheapest_within_twice_the_fastest_goes_first_and_late_ones_follow():
    late, cheap, fast = view("l", 0.03, price=0.1), view("c", 0.019, price=1), view("f", 0.01, price=5)
    assert order(LowestCost(), fast, late, cheap) == "cfl"
    assert order(LowestCost(within=4), fast, late, cheap) == "lcf"
    assert order(LowestCost(within=1), fast, late, cheap) == "fcl"


async def test_a_bound_in_seconds_replaces_it():
    slow, fast = view("s", 0.05, price=1), view("f", 0.01, price=5)  # of 50 + 50 tokens: 5 s and 1 s
    assert order(LowestCost(seconds=5.5), slow, fast) == "sf"
    assert order(LowestCost(seconds=4.5), slow, fast) == "fs"
    assert order(LowestCost(seconds=0.1), slow, fast) == "fs", "nobody is in time: the fastest"


async def test_a_short_answer_is_in_time_where_a_long_one_is_not():
    slow, fast = view("s", 0.05, price=1), view("f", 0.01, price=5)
    short = Request("?", GenerationParams(max_tokens=10))
    assert order(LowestCost(seconds=4.5), slow, fast, request=short) == "sf"


async def test_the_size_of_the_prompt_decides_whose_prices_are_lower():
    reads, writes = view("r", 0.01), view("w", 0.01)
    reads.input_price, reads.output_price = 0.1, 4.0
    writes.input_price, writes.output_price = 1.0, 1.0
    assert order(LowestCost(), reads, writes) == "wr"
    assert order(LowestCost(), reads, writes, request=Request("long " * 1000)) == "rw"


async def test_what_its_cache_has_is_cheaper():
    caching, plain = view("c", 0.01, price=2), view("p", 0.01, price=1)
    caching.output_price, caching.cached_input_price = 1, 0.1
    request = Request("long " * 1000)
    assert order(LowestCost(), caching, plain, request=request) == "pc"
    for _ in range(50):
        caching.answered(now(), 1.0, Usage(1000, 50, cached_tokens=900), 0)
    assert order(LowestCost(), caching, plain, request=request) == "cp"


async def test_of_equal_prices_the_faster_and_less_busy_goes_first():
    assert order(LowestCost(), view("a", 0.015, price=1), view("b", 0.01, price=1)) == "ba"
    a, b = view("a", 0.01, 5, load=9, price=1), view("b", 0.011, 2, load=9, price=1)
    assert order(LowestCost(), a, b) == "ba"
    a.weight = 4
    assert order(LowestCost(), a, b) == "ab"


async def test_without_prices_it_comes_after_those_with_prices_and_before_the_late():
    late, unknown, dear = view("l", 0.05, price=1), view("u", 0.01), view("d", 0.015, price=9)
    assert order(LowestCost(), late, unknown, dear) == "dul"
    unknown.input_price = 0.0
    assert order(LowestCost(), late, unknown, dear) == "dul", "half of the prices is none"
    unknown.output_price = 0.0
    assert order(LowestCost(), late, unknown, dear) == "udl"


async def test_a_queue_that_grows_is_late_before_anybody_in_it_was_answered():
    cheap, dear = view("c", 0.015, 10, load=10, price=1), view("d", 0.01, price=5)
    assert order(LowestCost(), cheap, dear) == "cd"
    cheap.in_flight = 20
    assert order(LowestCost(), cheap, dear) == "dc"


async def test_a_failing_one_goes_last_until_the_failure_has_faded():
    failing, late, dear = view("f", 0.01, price=1), view("l", 0.09, 5, load=9, price=1), view("d", 0.01, price=5)
    failing.failed(now(), None)
    assert order(LowestCost(), failing, late, dear) == "dlf"
    await asyncio.sleep(30)
    assert order(LowestCost(), failing, late, dear) == "fdl"


async def test_cheaper_ones_left_aside_are_tried_again_and_dearer_ones_are_not():
    late, dear, first = view("l", 0.05, price=1), view("d", 0.01, price=9), view("f", 0.01, price=5)
    await asyncio.sleep(11)
    first.answered(now(), 1.0, Usage(0, 50), 0)
    assert Counter(firsts(seeded(LowestCost()), [late, dear, first], 2000)).keys() == {"f", "l"}


async def test_those_not_heard_of_are_found_when_time_has_passed_and_when_they_come_later():
    late, first = view("l", 0.05, price=1), view("f", 0.01, price=5)
    strategy, alone, both = seeded(LowestCost()), [first], [late, first]
    assert set(firsts(strategy, both, 200)) == {"f"}, "there is news of both"
    await asyncio.sleep(11)
    first.answered(now(), 1.0, Usage(0, 50), 0)
    assert set(firsts(strategy, alone, 200)) == {"f"}
    assert "l" in firsts(strategy, both, 2000)
    late.in_flight = 1
    assert set(firsts(strategy, both, 200)) == {"f"}, "it is being tried"
    late.in_flight = 0
    assert "l" in firsts(strategy, both, 2000)


async def test_one_that_was_late_because_all_asked_it_is_asked_again_when_its_queue_is_short():
    cheap, dear = view("c", 0.04, load=20, price=1, in_flight=20), view("d", 0.01, load=5, price=9, in_flight=5)
    assert order(LowestCost(seconds=3), cheap, dear) == "dc"
    cheap.in_flight = 5
    assert order(LowestCost(seconds=3), cheap, dear) == "cd"


@pytest.mark.parametrize("wrong", [{"within": 0.9}, {"within": float("nan")}, {"seconds": 0}])
def test_a_bound_that_nobody_could_keep_is_refused(wrong):
    with pytest.raises(ValueError, match="within is at least 1 and seconds above 0"):
        LowestCost(**wrong)
