"""Retry in place: how often, how long, and when rather not."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from orchestrator import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    MalformedResponseError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    TimeoutError,
)
from orchestrator.core.clock import new_random
from orchestrator.resilience.retry import RetryInPlace

PATIENT = RetryPolicy(max_retries=3, patience=50)


def make(policy=None, *, remaining=inf, afford=lambda: True, seen=None):
    return RetryInPlace(
        policy or PATIENT, random=new_random(1), remaining=lambda: remaining,
        afford=afford,
        on_retry=lambda error, delay: seen.append((error, delay)) if seen is not None else None,
    )


async def count_attempts(error: Exception, **options) -> int:
    calls = 1

    async def again():
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        await make(**options).run(error, again)
    return calls


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ServerError(), 4), (OverloadedError(), 4), (ConnectionFailedError(), 2), (MalformedResponseError(), 2),
        (TimeoutError(), 1), (AuthenticationError(), 1), (QuotaExceededError(retry_after=0.1), 1),
        (InvalidRequestError(), 1), (RateLimitError(), 1), (RateLimitError(retry_after=1), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_how_often_each_class_is_tried_with_three_retries_allowed(error, attempts):
    assert await count_attempts(error) == attempts


async def test_zero_retries_means_one_attempt():
    assert await count_attempts(ServerError(), policy=RetryPolicy(max_retries=0)) == 1


async def test_the_answer_of_a_retry_is_the_answer():
    async def again():
        return "answer"

    assert await make().run(ServerError(), again) == "answer"


async def test_full_jitter_lies_between_zero_and_the_doubling_cap():
    retry = make(RetryPolicy(max_retries=10, base_delay=1, max_delay=6))
    caps = {1: 1, 2: 2, 3: 4, 4: 6, 5: 6}
    for number, cap in caps.items():
        delays = [retry.delay_before(ServerError(), number) for _ in range(400)]
        assert all(0 <= delay <= cap for delay in delays)
        assert max(delays) > 0.95 * cap
        assert min(delays) < 0.05 * cap


async def test_retry_after_is_slept_exactly_and_on_the_loops_clock():
    seen: list[tuple[object, float]] = []
    loop = asyncio.get_running_loop()

    async def again():
        return loop.time()

    begun = loop.time()
    assert await make(seen=seen).run(RateLimitError(retry_after=7), again) == pytest.approx(begun + 7)
    assert [delay for _, delay in seen] == [7]


async def test_every_later_wait_is_slept_too():
    begun = asyncio.get_running_loop().time()
    assert await count_attempts(RateLimitError(retry_after=7)) == 4
    assert asyncio.get_running_loop().time() == pytest.approx(begun + 21)


async def test_without_budget_there_is_no_retry_and_each_retry_takes_from_it():
    assert await count_attempts(ServerError(), afford=lambda: False) == 1
    budget = iter([True, True, False])
    assert await count_attempts(ServerError(), afford=lambda: next(budget)) == 3
    untouched = iter([])  # an error that is not retried asks for nothing
    assert await count_attempts(AuthenticationError(), afford=lambda: next(untouched)) == 1


async def test_a_wait_that_ends_after_the_deadline_is_not_begun():
    assert await count_attempts(RateLimitError(retry_after=5), remaining=4) == 1
    assert await count_attempts(RateLimitError(retry_after=5), remaining=5) == 1
    assert await count_attempts(RateLimitError(retry_after=5), remaining=5.1) == 4


async def test_a_long_retry_after_is_not_waited_for_in_place():
    usual = RetryPolicy(max_retries=3)
    assert await count_attempts(RateLimitError(retry_after=0.25), policy=usual) == 4
    assert await count_attempts(RateLimitError(retry_after=0.26), policy=usual) == 1
    assert await count_attempts(OverloadedError(retry_after=0.26), policy=usual) == 1
    assert await count_attempts(OverloadedError(retry_after=50.1)) == 1


async def test_cancellation_while_waiting_ends_it():
    async def again():
        raise AssertionError("must not be tried")

    task = asyncio.create_task(make().run(RateLimitError(retry_after=50), again))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_attempt_is_not_tried_again():
    async def again():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await make().run(ServerError(), again)
