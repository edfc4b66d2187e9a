"""Adaptive: what it learns, what it forgets, what price and load weigh; it neither herds nor falls in a hole."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter

import pytest

from orchestrator.core.clock import new_random, now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage
from orchestrator.strategies import Adaptive, LeastLatency, RoundRobin
from orchestrator.strategies.adaptive import REMEMBERED, RESULTS, ROOM, SLO

ASKED = Request("?")


def adaptive(**options):
    strategy = Adaptive(**options)
    strategy.random = new_random(1)
    return strategy


def view(name, *, prices=None, weight=1.0):
    made = CandidateView(name, weight=weight)
    made.input_price = made.output_price = prices
    return made


def answer(candidate, latency=1.0, tokens=50):
    candidate.requests += 1
    candidate.answered(now(), latency, Usage(0, tokens), 0)


def fail(candidate):
    candidate.requests += 1
    candidate.failed(now(), None)


def share(strategy, candidates, count=400):
    """How often each goes first, in percent, when nothing happens."""
    firsts = Counter(next(strategy.order(candidates, ASKED)).name for _ in range(count))
    return {candidate.name: 100 * firsts[candidate.name] / count for candidate in candidates}


def counted(strategy, name="a"):
    """How many results in time and how many others count by now."""
    kept, arm = strategy._arms.kept(now()), strategy._arms[name]
    return arm.in_time * kept, arm.others * kept


async def taught(strategy, candidates, latencies, rounds=60):
    """Every candidate answers in its time, again and again; None is a failure."""
    for _ in range(rounds):
        list(strategy.order(candidates, ASKED))
        for candidate, latency in zip(candidates, latencies, strict=True):
            if latency is None:
                fail(candidate)
            else:
                answer(candidate, latency)
        await asyncio.sleep(0.2)


class TestLearning:
    async def test_nobody_known_shares_evenly(self):
        shares = share(adaptive(), [view(name) for name in "abcd"], 2000)
        assert all(each == pytest.approx(25, abs=4) for each in shares.values())

    async def test_the_faster_goes_first(self):
        strategy, pool = adaptive(), [view("fast"), view("slow")]
        await taught(strategy, pool, [1, 3])
        assert share(strategy, pool)["fast"] > 95

    async def test_who_is_late_goes_last_even_if_its_pace_is_better(self):
        """Few tokens at a leisurely pace are in time; many tokens at a brisk one are not."""
        strategy, pool = adaptive(), [view("brisk"), view("leisurely")]
        for _ in range(60):
            list(strategy.order(pool, ASKED))
            answer(pool[0], SLO + 1, tokens=1950)
            answer(pool[1], SLO - 1, tokens=650)
            await asyncio.sleep(0.2)
        assert pool[0].pace < pool[1].pace
        assert share(strategy, pool)["leisurely"] > 95

    async def test_exactly_in_time_is_in_time(self):
        strategy, pool = adaptive(slo=2), [view("a"), view("b")]
        await taught(strategy, pool, [2, 2])
        assert share(strategy, pool)["a"] == pytest.approx(50, abs=10)
        assert strategy._arms["a"].others == 0

    async def test_who_fails_goes_last_and_comes_back_in_time(self):
        strategy, pool = adaptive(), [view("sound"), view("ill")]
        await taught(strategy, pool, [1, None])
        assert share(strategy, pool)["ill"] == 0
        await taught(strategy, pool, [1, 1], rounds=10)
        soon = share(strategy, pool)["ill"]
        await taught(strategy, pool, [1, 1], rounds=600)
        assert soon < 30 < share(strategy, pool)["ill"]

    async def test_results_are_forgotten_by_time_and_not_by_count(self):
        strategy, pool = adaptive(memory=30), [view("a")]
        await taught(strategy, pool, [1], rounds=30)
        list(strategy.order(pool, ASKED))
        before, _ = counted(strategy)
        for _ in range(1000):
            list(strategy.order(pool, ASKED))
        assert counted(strategy) == (pytest.approx(before), 0)
        await asyncio.sleep(30)
        list(strategy.order(pool, ASKED))
        assert counted(strategy) == (pytest.approx(before / 2.71828, rel=0.01), 0)

    async def test_what_is_counted_late_counts_as_much(self):
        """Many lifetimes of the memory later, when nothing is left of what was counted first."""
        strategy, pool = adaptive(memory=1), [view("a"), view("b")]
        for _ in range(100):
            answer(pool[0])
            fail(pool[1])
            list(strategy.order(pool, ASKED))
            await asyncio.sleep(1)
        told = 1 / (2.71828 - 1)  # of one result a second, a second later
        assert counted(strategy, "a") == (pytest.approx(told, rel=0.01), 0)
        assert counted(strategy, "b") == (0, pytest.approx(told, rel=0.01))

    async def test_all_that_ended_since_the_last_decision_counts(self):
        strategy, a = adaptive(), view("a")
        list(strategy.order([a], ASKED))
        for _ in range(5):
            answer(a)
        for _ in range(3):
            fail(a)
        a.requests += 2
        a.in_flight = 2
        list(strategy.order([a], ASKED))
        assert counted(strategy) == (5, 3)

    async def test_a_busy_provider_has_no_more_weight_than_so_many_results(self):
        strategy, a = adaptive(), view("a")
        for _ in range(1000):
            answer(a)
            list(strategy.order([a], ASKED))
            await asyncio.sleep(0.001)
        assert counted(strategy) == (pytest.approx(RESULTS, rel=0.01), 0)

    async def test_names_that_left_for_good_are_forgotten(self):
        strategy = adaptive()
        for n in range(2 * REMEMBERED):
            list(strategy.order([view(f"passing {n}")], ASKED))
        assert len(strategy._arms) <= REMEMBERED + 1

    async def test_an_idle_one_that_was_slow_is_asked_again_by_one_call_at_a_time(self):
        strategy, pool = adaptive(), [view("fast"), view("slow")]
        await taught(strategy, pool, [1, 10])
        assert share(strategy, pool)["slow"] == 0
        for _ in range(600):
            await asyncio.sleep(0.2)
            answer(pool[0])
            list(strategy.order(pool, ASKED))
        assert share(strategy, pool)["slow"] > 0
        pool[1].in_flight = 1
        assert share(strategy, pool)["slow"] == 0

    async def test_the_same_chance_gives_the_same_choice(self):
        def run(seed):
            strategy, pool = Adaptive(), [view(name) for name in "abc"]
            strategy.random = new_random(seed)
            return [next(strategy.order(pool, ASKED)).name for _ in range(50)]

        assert run(1) == run(1) != run(2)


class TestLoad:
    async def test_a_burst_is_shared_before_any_result_is_in(self):
        strategy, pool = adaptive(), [view(name) for name in "abcd"]
        for _ in range(200):
            next(strategy.order(pool, ASKED)).in_flight += 1
        assert all(each.in_flight == pytest.approx(50, abs=35) for each in pool)

    async def test_calls_in_flight_count_against_a_faster_one(self):
        strategy, pool = adaptive(), [view("fast"), view("slow")]
        await taught(strategy, pool, [1, 2])
        pool[1].in_flight = 1
        assert share(strategy, pool)["fast"] > 90
        pool[0].in_flight = int(4 * ROOM)
        assert share(strategy, pool)["fast"] < 10

    async def test_weight_is_capacity(self):
        strategy, pool = adaptive(), [view("big", weight=10), view("small")]
        await taught(strategy, pool, [1, 1])
        pool[0].in_flight = pool[1].in_flight = 40
        assert share(strategy, pool)["big"] > 95

    async def test_the_empty_queue_of_a_failing_one_is_no_merit(self):
        strategy, pool = adaptive(), [view("sound"), view("ill")]
        await taught(strategy, pool, [1, 1])
        fail(pool[1])
        pool[0].in_flight = 100
        assert share(strategy, pool)["ill"] == 0


class TestPrice:
    async def test_the_cheaper_of_equals_goes_first(self):
        strategy, pool = adaptive(), [view("dear", prices=10), view("cheap", prices=1)]
        await taught(strategy, pool, [1, 1])
        assert share(strategy, pool)["cheap"] > 95

    async def test_without_a_weight_prices_do_not_count(self):
        strategy, pool = adaptive(price_weight=0), [view("dear", prices=10), view("cheap", prices=1)]
        await taught(strategy, pool, [1, 1])
        assert share(strategy, pool)["cheap"] == pytest.approx(50, abs=10)

    async def test_a_cheap_one_that_is_late_is_not_worth_it(self):
        strategy, pool = adaptive(), [view("dear", prices=10), view("cheap", prices=1)]
        await taught(strategy, pool, [1, SLO + 5])
        assert share(strategy, pool)["cheap"] < 5

    async def test_with_full_weight_half_the_price_is_worth_twice_the_time(self):
        strategy, pool = adaptive(price_weight=1, miss=0), [view("dear", prices=2), view("cheap", prices=1)]
        await taught(strategy, pool, [1, 1.9])
        assert share(strategy, pool)["cheap"] == 100
        await taught(strategy, pool, [1, 2.2])
        assert share(strategy, pool)["cheap"] == 0

    async def test_who_tells_no_price_is_taken_for_the_dearest(self):
        strategy, pool = adaptive(), [view("untold"), view("cheap", prices=1), view("dear", prices=10)]
        await taught(strategy, pool, [1, 1, 1])
        pool[1].in_flight = 1000
        shares = share(strategy, pool)
        assert shares["untold"] == pytest.approx(shares["dear"], abs=15)

    async def test_free_is_cheap_and_still_loses_when_it_fails(self):
        strategy, pool = adaptive(), [view("free", prices=0.0), view("dear", prices=10)]
        await taught(strategy, pool, [1, 1])
        assert share(strategy, pool)["free"] > 95
        await taught(strategy, pool, [None, 1])
        assert share(strategy, pool)["free"] < 5

    async def test_all_free_is_no_price(self):
        strategy, pool = adaptive(), [view("a", prices=0.0), view("b", prices=0.0)]
        await taught(strategy, pool, [1, 1])
        assert share(strategy, pool)["a"] == pytest.approx(50, abs=10)


async def played(strategy, *, rate, until, serve, providers=4, capacity=16, since=0.0):
    """A queueing model without router; ``serve(provider, at)`` is (seconds, ok). Latencies from ``since``, failures."""
    strategy.random = new_random(2)
    random, loop = new_random(5), asyncio.get_running_loop()
    pool = [CandidateView(f"p{n}") for n in range(providers)]
    free = [[0.0] * capacity for _ in pool]
    ends, latencies, failures, at, count = [], [], 0, 0.0, 0
    while at < until:
        at += random.expovariate(rate)
        while ends and ends[0][0] <= at:
            ended, _, index, began, ok = heapq.heappop(ends)
            pool[index].in_flight -= 1
            if ok:
                pool[index].answered(ended, ended - began, Usage(0, 150), 0)
            else:
                pool[index].failed(ended, None)
        loop.advance(at - loop.time())
        first = next(iter(strategy.order(pool, ASKED)))
        first.in_flight += 1
        first.requests += 1
        count += 1
        index = pool.index(first)
        seconds, ok = serve(index, at, random)
        end = at + seconds
        if ok:
            place = heapq.heappop(free[index])
            end = max(at, place) + seconds
            heapq.heappush(free[index], end)
        heapq.heappush(ends, (end, count, index, at, ok))
        if at >= since:
            failures += not ok
            latencies.append(end - at)
    return latencies, failures


async def test_one_that_is_slow_for_two_minutes_is_not_herded_on_nor_away_from():
    """The experiment of four providers: Thompson sampling without the load answers worse than round robin there."""
    def serve(index, at, random):
        return random.lognormvariate(1.1, 0.5) * (5 if index == 0 and 120 <= at < 240 else 1), True

    def in_time(latencies):
        return sum(latency <= 10 for latency in latencies) / len(latencies)

    ours, _ = await played(adaptive(slo=10), rate=8, until=360, serve=serve)
    others, _ = await played(RoundRobin(), rate=8, until=360, serve=serve)
    assert in_time(ours) > 0.96 > in_time(others) + 0.05


@pytest.mark.parametrize(("rate", "latency", "others"), [(200, 0.1, 10), (16, 4.0, 3)])
async def test_a_black_hole_swallows_almost_nothing_without_a_breaker(rate, latency, others):
    def serve(index, at, random):
        return (0.005, False) if index == 0 and at >= 20 else (latency * random.uniform(0.5, 1.5), True)

    latencies, failures = await played(
        adaptive(), rate=rate, until=50, serve=serve, providers=others + 1, capacity=64, since=20
    )
    assert failures <= 0.015 * len(latencies)


async def test_where_all_are_alike_it_costs_nothing_to_learn():
    def serve(index, at, random):
        return random.lognormvariate(1.1, 0.5), True

    ours, _ = await played(adaptive(), rate=12, until=200, serve=serve)
    others, _ = await played(LeastLatency(), rate=12, until=200, serve=serve)
    assert sorted(ours)[int(0.99 * len(ours))] <= 1.1 * sorted(others)[int(0.99 * len(others))]
