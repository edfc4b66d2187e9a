"""How many calls at once a provider bears, found out."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.clock import new_random, now
from orchestrator.core.config import LimitPolicy
from orchestrator.core.errors import OverloadedError, RateLimitError, ServerError, TimeoutError, Verdict
from orchestrator.resilience.adaptive import HIGHEST, AdaptiveLimit
from orchestrator.resilience.limits import Limits


def adaptive(highest=None, **policy):
    return AdaptiveLimit(LimitPolicy(adaptive=True, **{f"adaptive_{name}": value for name, value in policy.items()}),
                         highest)


def test_a_whole_round_of_answers_adds_one_call():
    limit = adaptive(initial=10)
    for number in range(10):
        limit.answered(0, 1 + number, 10, None)
    assert limit.limit == pytest.approx(11, abs=0.05)


def test_answers_add_nothing_while_less_than_half_of_the_limit_is_in_use():
    limit = adaptive(initial=10)
    limit.answered(0, 1, 4, None)
    assert limit.limit == 10
    limit.answered(0, 1, 5, None)
    assert limit.limit > 10


def test_a_burst_of_refusals_decreases_once():
    limit = adaptive(initial=50)
    for _ in range(64):
        limit.dropped(0, 1)
    assert limit.limit == 45
    limit.dropped(1, 1)  # begun at the moment of the decrease
    assert limit.limit == 45
    limit.dropped(1.5, 2)
    assert limit.limit == 40.5


def test_a_small_limit_falls_by_a_whole_call_down_to_its_minimum():
    limit = adaptive(initial=3, min=2)
    limit.dropped(0, 1)
    assert limit.limit == 2
    limit.dropped(2, 3)
    assert limit.limit == 2


def test_it_grows_slowly_next_to_the_last_refusal_and_freely_beyond():
    limit = adaptive(initial=10)
    limit.dropped(0, 1)
    for _ in range(45):  # of the 95 answers that a call more takes here
        limit.answered(1, 2, 9, None)
    assert 9 < limit.limit < 9.6
    for _ in range(60):
        limit.answered(1, 2, 9, None)
    assert 10 < limit.limit < 11
    before = limit.limit
    limit.answered(1, 2, 9, None)
    assert limit.limit == pytest.approx(before + 1 / before)


def test_it_grows_slowly_only_within_one_call_of_the_last_refusal():
    limit = adaptive(initial=30)
    limit.dropped(0, 1)
    while limit.limit < 28.5:
        limit.answered(1, 2, 30, None)
    before = limit.limit
    limit.answered(1, 2, 30, None)
    assert limit.limit == pytest.approx(before + 1 / before)


def test_a_refusal_that_decreases_nothing_does_not_make_it_grow_slowly():
    limit = adaptive(initial=4, min=4)
    limit.dropped(0, 1)
    limit.answered(1, 2, 4, None)
    assert limit.limit == 4.25


def test_a_late_first_token_counts_as_too_much():
    limit = adaptive(initial=10, latency=5.0)
    limit.answered(0, 5, 10, 5.0)
    assert limit.limit > 10
    limit.answered(0, 6, 10, 5.1)
    assert limit.limit < 10


def test_without_a_bound_it_stays_within_a_thousand():
    assert adaptive(initial=5000).limit == 1000


def test_the_bound_holds_whatever_the_minimum_says():
    limit = adaptive(highest=3, initial=20, min=8)
    assert limit.limit == 3
    limit.answered(0, 1, 3, None)
    assert limit.limit == 3
    limit.bound(None)
    for _ in range(10):
        limit.answered(0, 1, 8, None)
    assert 8 < limit.limit < HIGHEST


@pytest.mark.parametrize(("error", "decreases"), [
    (RateLimitError(), True), (OverloadedError(), True), (TimeoutError(), True), (ServerError(), False),
])
def test_what_says_too_much_decreases_the_limit(error, decreases):
    limits = Limits(adaptive=adaptive(initial=10))
    limits.release(limits.acquire(0), 1, error.verdict, error=error)
    assert limits.concurrency == (9 if decreases else 10)


def test_a_timeout_that_is_nobodys_fault_decreases_nothing():
    limits = Limits(adaptive=adaptive(initial=10))
    limits.release(limits.acquire(0), 1, Verdict.NEUTRAL, error=TimeoutError())
    assert limits.concurrency == 10


class Service:
    """Bears ``capacity`` calls at once; refuses the others."""

    def __init__(self, capacity, seed):
        self.capacity, self.random = capacity, new_random(seed)
        self.answers = self.refusals = self.busy = 0

    async def call(self, limits, lease):
        if self.busy >= self.capacity:
            await asyncio.sleep(0.05)
            self.refusals += 1
            limits.release(lease, now(), Verdict.LIMITED)
            return
        self.busy += 1
        await asyncio.sleep(self.random.uniform(0.5, 1.5))
        self.busy -= 1
        self.answers += 1
        limits.release(lease, now())

    async def run(self, limits, seconds):
        """As many calls as the limits let through; the share that was refused, and the answers per second."""
        self.answers = self.refusals = 0
        until = now() + seconds
        calls = set()
        while now() < until:
            while limits.wait_time(now()) == 0:
                calls.add(asyncio.create_task(self.call(limits, limits.acquire(now()))))
            _, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        figures = self.refusals / (self.answers + self.refusals), self.answers / seconds
        await asyncio.wait(calls)
        return figures


async def test_it_settles_at_what_the_provider_bears_and_follows_it_when_that_changes():
    limits = Limits(adaptive=adaptive())
    service = Service(10, seed=1)
    for capacity, share in ((10, 0.02), (25, 0.02), (3, 0.06)):
        service.capacity = capacity
        await service.run(limits, 60)
        refused, throughput = await service.run(limits, 120)
        assert refused < share
        assert throughput > 0.9 * capacity
        assert capacity - 2 <= limits.concurrency <= capacity
    assert limits.in_use == 0
