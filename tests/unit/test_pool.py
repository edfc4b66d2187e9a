"""Candidates: leases and permits in step, pauses, the ready list, closing."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from orchestrator import (
    BreakerPolicy,
    CapacityError,
    CircuitOpenError,
    ProviderConfig,
    RateLimitError,
    RetryPolicy,
    Timeouts,
)
from orchestrator.core.clock import new_random, now
from orchestrator.core.errors import ServerError, Verdict
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.pool import Pool
from orchestrator.providers.mock import Answer, Fail
from support import Echo, first_available, mock, settle


def make_pool(*providers, breaker=None, events=None):
    pool = Pool(
        breaker=breaker or BreakerPolicy(), retry=RetryPolicy(), random=new_random(1),
        timeouts=Timeouts(), emit=(events if events is not None else []).append,
    )
    for provider in providers:
        pool.add(provider)
    return pool


def ready(pool: Pool) -> list[str]:
    return [view.name for view in pool.ready(now())]


async def test_a_lease_goes_out_with_its_permit_and_both_come_back():
    pool = make_pool(mock("a", max_concurrency=1), mock("b"))
    candidate = pool.get("a")
    permit = candidate.admit(now())
    assert ready(pool) == ["b"]
    assert candidate.wakes
    with pytest.raises(CapacityError, match="limit") as refused:
        candidate.admit(now())
    assert refused.value.retry_after is None  # nobody knows when the call under way ends
    candidate.release(permit, Verdict.SUCCESS, now(), duration=0.1)
    assert ready(pool) == ["a", "b"]
    assert candidate.view.in_flight == 0


async def test_an_open_breaker_refuses_before_a_lease_is_taken():
    pool = make_pool(mock("a", max_concurrency=1))
    candidate = pool.get("a")
    candidate.breaker.isolate()
    assert ready(pool) == []
    with pytest.raises(CircuitOpenError) as refused:
        candidate.admit(now())
    assert refused.value.retry_after is None
    assert candidate.wait_time(now()) == inf
    candidate.breaker.reset()
    assert ready(pool) == ["a"]
    candidate.admit(now())


@pytest.mark.parametrize("field", ["weight", "priority", "input_price", "cached_input_price", "output_price"])
async def test_the_ready_list_is_made_anew_when_what_strategies_read_is_configured(field):
    pool = make_pool(mock("a"), mock("b"))
    before = pool.ready(now())
    setattr(pool.get("a").config, field, 7)
    after = pool.ready(now())
    assert after is not before
    assert getattr(after[0], field) == 7


async def test_who_is_blocked_by_what_it_tells_of_its_limits_leaves_the_ready_list_and_comes_back():
    pool = make_pool(mock("a"), mock("b"))
    assert ready(pool) == ["a", "b"]
    candidate = pool.get("a")
    candidate.learn(RateLimits(Quota(0, reset=10.0)))
    assert ready(pool) == ["b"]
    candidate.learn(RateLimits(Quota(5, reset=10.0)))
    assert ready(pool) == ["a", "b"]


async def test_whose_limit_was_lowered_below_its_calls_is_ready_again_when_one_of_them_ends():
    pool = make_pool(mock("a", max_concurrency=2), mock("b"))
    candidate = pool.get("a")
    permit = candidate.admit(now())
    candidate.config.max_concurrency = 1
    assert ready(pool) == ["b"]
    candidate.release(permit, Verdict.SUCCESS, now(), 0.0)
    assert ready(pool) == ["a", "b"]


async def test_a_timeout_that_is_configured_later_holds_for_the_next_attempt():
    candidate = make_pool(mock("a", timeout=30)).get("a")
    assert (candidate.attempt, candidate.first_token) == (30, 20)
    candidate.config.timeout = 3
    assert (candidate.attempt, candidate.first_token) == (3, 3)
    candidate.config.timeout = None
    assert (candidate.attempt, candidate.first_token) == (60, 20)


async def test_the_ready_list_is_made_anew_when_a_pause_ends_and_not_before():
    pool = make_pool(mock("a"), mock("b"))
    candidate = pool.get("a")
    candidate.pause(RateLimitError(retry_after=10), now())
    before = pool.ready(now())
    assert pool.ready(now()) is before
    assert ready(pool) == ["b"]
    await asyncio.sleep(10)
    assert ready(pool) == ["a", "b"]


async def test_an_error_without_a_hint_that_is_no_429_pauses_nobody():
    events: list[object] = []
    pool = make_pool(mock("a"), events=events)
    events.clear()
    pool.get("a").pause(ServerError(), now())
    assert events == []
    assert ready(pool) == ["a"]


async def test_an_assignment_to_the_configuration_takes_effect():
    provider = mock("a", weight=1)
    pool = make_pool(provider)
    view = pool.get("a").view
    provider.config.weight, provider.config.priority, provider.config.context_window = 5, 2, 9000
    assert (view.weight, view.priority, view.context_window) == (5, 2, 9000)
    provider.config.max_concurrency = 1
    pool.get("a").admit(now())
    assert ready(pool) == []
    pool.remove("a")
    provider.config.weight = 7
    assert view.weight == 5  # it has left: nobody watches it


async def test_leases_taken_before_a_limit_changed_come_back_too():
    provider = mock("a", max_concurrency=2)
    pool = make_pool(provider)
    candidate = pool.get("a")
    permit = candidate.admit(now())
    provider.config.max_concurrency = 1
    assert ready(pool) == []
    candidate.release(permit, Verdict.SUCCESS, now(), duration=0.1)
    assert ready(pool) == ["a"]


async def test_removing_and_draining_close_exactly_once():
    closed: list[str] = []

    class Closing(Echo):
        async def aclose(self):
            closed.append(self.name)

    pool = make_pool(*(Closing(ProviderConfig(name=name)) for name in "abc"))
    busy = pool.get("b")
    permit = busy.admit(now())
    pool.remove("a")
    await pool.close_removed()
    assert closed == ["a"]
    draining = asyncio.create_task(pool.drain(10))
    await settle()
    busy.release(permit, Verdict.SUCCESS, now(), duration=0.1)
    await draining
    await pool.drain(10)
    assert sorted(closed) == ["a", "b", "c"]


async def test_easing_in_keeps_everybody_and_ends_with_the_ramp():
    flaky = mock("a", Fail(ServerError("x")), Answer("a"))
    policy = BreakerPolicy(consecutive_failures=1, break_base=1, break_jitter=0, ramp=10)
    router = first_available(flaky, mock("b"), breaker=policy, retry=RetryPolicy(max_retries=0))
    await router.route("x")
    await asyncio.sleep(1.1)
    await router.route("x")
    pool = router._pool
    views = pool.ready(now())
    assert pool.ramping
    orders = {tuple(view.name for view in pool.ease_in(views)) for _ in range(100)}
    assert orders == {("a", "b"), ("b", "a")}
    await asyncio.sleep(10)
    assert [view.name for view in pool.ease_in(views)] == ["a", "b"]
    pool.ready(now())
    assert not pool.ramping
