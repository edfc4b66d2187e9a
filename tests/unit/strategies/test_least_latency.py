"""Least latency: what counts, what is explored, and the black hole it must not fall into."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from itertools import permutations

import pytest

from orchestrator.core.clock import new_random, now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage
from orchestrator.strategies import LeastLatency
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY

ASKED = Request("?")


def view(
    name: str, pace: float | None = None, in_flight: int = 0, load: float = 1.0, **config: float
) -> CandidateView:
    made = CandidateView(name, **config)
    if pace is not None:
        made.answered(now(), pace * 100, Usage(0, 50), 0, load)
    made.in_flight = in_flight
    return made


def least_latency(**options: float) -> LeastLatency:
    strategy = LeastLatency(**options)
    strategy.random = new_random(1)
    return strategy


def order(strategy: LeastLatency, *candidates: CandidateView) -> str:
    return "".join(candidate.name for candidate in strategy.order(candidates, ASKED))


def firsts(strategy: LeastLatency, candidates: list[CandidateView], count: int) -> str:
    return "".join(next(strategy.order(candidates, ASKED)).name for _ in range(count))


class TestCost:
    async def test_the_fastest_goes_first_and_the_rest_follow(self):
        assert order(LeastLatency(), view("a", 0.03), view("b", 0.01), view("c", 0.02)) == "bca"

    async def test_among_the_near_the_shortest_queue_goes_first(self):
        assert order(LeastLatency(), view("a", 0.01, in_flight=1), view("b", 0.012)) == "ba"

    async def test_among_the_near_a_little_faster_is_no_reason_for_a_longer_queue(self):
        assert order(least_latency(), view("f", 0.01, 9, load=10), view("s", 0.0125, 8, load=10)) == "sf"
        assert order(least_latency(), view("f", 0.01, 9, load=10), view("s", 0.0135, 8, load=10)) == "fs"

    async def test_an_empty_queue_is_no_merit_of_one_that_is_far_slower(self):
        assert order(LeastLatency(), view("a", 0.01, in_flight=30, load=30), view("b", 0.014, load=30)) == "ab"

    async def test_a_crowd_makes_room_for_a_slower_one(self):
        fast, slow = view("f", 0.01, in_flight=10, load=10), view("s", 0.02)
        assert order(LeastLatency(), fast, slow) == "fs"
        fast.in_flight = 40
        assert order(LeastLatency(), fast, slow) == "sf"

    async def test_weight_counts_among_the_near(self):
        assert order(LeastLatency(), view("a", 0.01), view("b", 0.012, weight=4)) == "ba"
        assert order(LeastLatency(), view("a", 0.01), view("b", 0.03, weight=4)) == "ab"

    async def test_the_shortest_queue_is_found_wherever_it_stands(self):
        more, fewer, last = view("m", 0.01, in_flight=5, load=9), view("f", 0.012, in_flight=4, load=9), view("l", 9)
        for candidates in permutations([more, fewer, last]):
            assert order(LeastLatency(), *candidates) == "fml"
        first = view("1", 0.001)
        for candidates in permutations([more, fewer, first]):
            assert order(LeastLatency(), *candidates) == "1fm"

    async def test_equal_queues_are_shared(self):
        counts = Counter(firsts(LeastLatency(), [view("a", 0.01), view("b", 0.011), view("c", 0.012)], 90))
        assert set(counts.values()) == {30}

    async def test_an_unmeasured_one_is_tried_as_if_it_were_the_fastest(self):
        assert order(LeastLatency(), view("a", 0.03), view("new"), view("b", 0.01, in_flight=1)) == "newba"

    async def test_an_unmeasured_one_is_not_herded_on(self):
        fast, new = view("f", 0.01), view("n")
        asked = Counter()
        for _ in range(40):  # a burst: no call ends before the last one has begun
            first = next(LeastLatency().order([fast, new], ASKED))
            first.in_flight += 1
            asked[first.name] += 1
        assert asked == {"f": 20, "n": 20}

    async def test_the_later_ones_are_ordered_when_they_are_asked_for(self):
        candidates = [view("a", 0.01), view("b", 0.02), view("c", 0.03)]
        later = LeastLatency().order(candidates, ASKED)
        assert next(later).name == "a"
        candidates[1].in_flight = 9
        assert [candidate.name for candidate in later] == ["c", "b"]

    async def test_the_later_ones_are_judged_by_the_time_they_are_asked_for(self):
        candidates = [view("a", 0.01), view("b", 0.02), view("c", 0.05)]
        candidates[1].failed(now(), None)
        later = LeastLatency().order(candidates, ASKED)
        assert next(later).name == "a"
        await asyncio.sleep(30)
        assert [candidate.name for candidate in later] == ["b", "c"]


class TestFailures:
    async def test_a_failure_puts_it_behind_slower_ones_for_a_while(self):
        failing, slow = view("f", 0.01), view("s", 0.03)
        failing.failed(now(), None)
        assert order(LeastLatency(), failing, slow) == "sf"
        await asyncio.sleep(30)
        assert order(LeastLatency(), failing, slow) == "fs"

    async def test_the_empty_queue_of_a_failing_one_is_no_merit(self):
        failing, busy = view("f", 0.01), view("b", 0.01, in_flight=50)
        failing.failed(now(), None)
        assert order(LeastLatency(), failing, busy) == "bf"

    async def test_when_all_fail_their_load_is_shared(self):
        candidates = [view(name, 0.01) for name in "abc"]
        for candidate in candidates:
            candidate.failed(now(), None)
        asked = Counter()
        for _ in range(30):
            first = next(LeastLatency().order(candidates, ASKED))
            first.in_flight += 1
            asked[first.name] += 1
        assert asked == {"a": 10, "b": 10, "c": 10}

    async def test_among_failing_ones_their_own_load_counts(self):
        busy, idle = view("b", 0.01, in_flight=20), view("i", 0.01)
        busy.failed(now(), None)
        await asyncio.sleep(1)
        idle.failed(now(), None)
        assert order(LeastLatency(), busy, idle) == "ib"

    async def test_an_unmeasured_one_that_failed_goes_behind_the_measured(self):
        new = view("n")
        new.failed(now(), None)
        assert order(LeastLatency(), new, view("slow", 0.2)) == "slown"
        assert order(LeastLatency(), new, view("unmeasured")) == "unmeasuredn"

    @pytest.mark.parametrize(("rate", "latency", "others"), [(500, 0.1, 10), (16, 4.0, 3)])
    async def test_a_black_hole_swallows_almost_nothing_without_a_breaker(self, rate, latency, others):
        """One provider fails within 5 ms for 30 s; the second case is the one with long calls and full queues."""
        strategy, random = least_latency(), new_random(5)
        hole, *_ = candidates = [CandidateView(f"p{n}") for n in range(1 + others)]
        loop = asyncio.get_running_loop()
        ends: list[tuple[float, int, CandidateView, float, bool]] = []
        asked = lost = 0
        at = 0.0
        while at < 50:
            at += random.expovariate(rate)
            while ends and ends[0][0] <= at:
                ended, _, candidate, began, ok = heapq.heappop(ends)
                candidate.in_flight -= 1
                if ok:
                    candidate.answered(ended, ended - began, Usage(0, 150), 0)
                else:
                    candidate.failed(ended, None)
            loop.advance(at - loop.time())
            first = next(strategy.order(candidates, ASKED))
            first.in_flight += 1
            down = at >= 20
            ok = not (down and first is hole)
            heapq.heappush(ends, (at + (latency * random.uniform(0.5, 1.5) if ok else 0.005), asked, first, at, ok))
            asked += down
            lost += not ok
        assert lost <= 0.015 * asked


class TestExploration:
    async def test_about_one_decision_in_fifty_goes_to_the_one_not_heard_of_for_longest(self):
        near, nearer, fast = view("n", 0.01), view("N", 0.01), view("f", 0.01)
        await asyncio.sleep(1)
        nearer.answered(now(), 1.0, Usage(0, 50), 0)
        strategy = least_latency()
        await asyncio.sleep(EXPLORE_AFTER + 1)
        fast.answered(now(), 0.1, Usage(0, 50), 0)
        near.pace = nearer.pace = 1.4 * fast.pace  # not near, and hardly slower
        decisions = firsts(strategy, [nearer, near, fast], 100 * EXPLORE_EVERY)
        assert decisions.replace("f", "")[:40] == "n" * 40
        assert decisions[: EXPLORE_EVERY - 1] == "f" * (EXPLORE_EVERY - 1)
        gaps = {len(gap) + 1 for gap in decisions[EXPLORE_EVERY - 1 :].split("n")[1:-1]}
        assert 25 <= min(gaps) < max(gaps) <= 75 * 1.4**2 + EXPLORE_EVERY // 8

    async def test_the_slower_it_was_the_fewer_go_to_it(self):
        tried = {}
        for times in (1.5, 2, 5, 100):
            slow, fast = view("s", 0.01 * times), view("f", 0.01)
            await asyncio.sleep(EXPLORE_AFTER + 1)
            fast.answered(now(), 1.0, Usage(0, 50), 0)
            tried[times] = firsts(least_latency(), [slow, fast], 400 * EXPLORE_EVERY).count("s")
        assert tried[1.5] > 1.5 * tried[2] > 3 * tried[5]
        assert 15 <= tried[5] == pytest.approx(tried[100], rel=0.2)  # one in a thousand, however slow

    async def test_an_old_pace_is_doubted(self):
        slow, fast = view("s", 0.05), view("f", 0.01)
        await asyncio.sleep(600)
        fast.answered(now(), 1.0, Usage(0, 50), 0)
        assert firsts(least_latency(), [slow, fast], 20 * EXPLORE_EVERY).count("s") >= 15

    async def test_how_often_and_after_how_long_can_be_set(self):
        slow, fast = view("s", 0.014), view("f", 0.01)
        strategy = least_latency(explore_every=1, explore_after=3)
        await asyncio.sleep(2)
        assert firsts(strategy, [slow, fast], 10) == "f" * 10
        await asyncio.sleep(2)
        fast.answered(now(), 1.0, Usage(0, 50), 0)
        assert firsts(strategy, [slow, fast], 10).count("s") >= 4

    async def test_nobody_is_explored_who_was_heard_of_lately(self):
        slow, fast = view("s", 9), view("f", 0.01)
        await asyncio.sleep(EXPLORE_AFTER)
        assert "s" not in firsts(least_latency(), [slow, fast], 2 * EXPLORE_EVERY)

    async def test_a_failure_is_news_too(self):
        slow, fast = view("s", 9), view("f", 0.01)
        await asyncio.sleep(EXPLORE_AFTER + 1)
        slow.failed(now(), None)
        fast.answered(now(), 1.0, Usage(0, 50), 0)
        assert "s" not in firsts(least_latency(), [slow, fast], 2 * EXPLORE_EVERY)

    async def test_one_that_is_being_explored_is_not_explored_again(self):
        slow, fast = view("s", 9, in_flight=1), view("f", 0.01)
        await asyncio.sleep(EXPLORE_AFTER + 1)
        assert "s" not in firsts(least_latency(), [slow, fast], 2 * EXPLORE_EVERY)

    async def test_a_provider_that_became_fast_is_found_again(self):
        strategy = least_latency()
        was_slow, steady = view("w", 0.1), view("s", 0.02)
        asked = ""
        for _ in range(1200):
            await asyncio.sleep(0.1)
            first = next(strategy.order([was_slow, steady], ASKED))
            first.answered(now(), 1.0 if first is was_slow else 2.0, Usage(0, 50), 0)
            asked += first.name
        assert asked[:100] == "s" * 100
        assert asked[-600:].count("w") > 590
