"""How often, and how soon, the same provider is asked again."""

from __future__ import annotations

from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.backoff import backoff_delay, retries_allowed
from orchestrator.core.clock import new_random
from orchestrator.core.config import RetryPolicy
from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    MalformedResponseError,
    RateLimitError,
    ServerError,
    TimeoutError,
)


class Highest:
    """Chance at its worst: the longest wait there can be."""

    def uniform(self, low, high):
        assert low == 0.0
        return high


@pytest.mark.parametrize(
    ("error", "allowed"),
    [
        (AuthenticationError(), (0, 0, 0)),
        (TimeoutError(), (0, 0, 0)),
        (ConnectionFailedError(), (0, 1, 1)),
        (MalformedResponseError(), (0, 1, 1)),
        (ServerError(), (0, 1, 3)),
        (RateLimitError(), (0, 1, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_class_says_how_often_and_the_policy_is_the_limit(error, allowed):
    assert tuple(retries_allowed(error, RetryPolicy(max_retries=most)) for most in (0, 1, 3)) == allowed


def test_the_longest_wait_doubles_up_to_its_limit():
    policy = RetryPolicy(base_delay=0.5, max_delay=3)
    assert [backoff_delay(policy, number, Highest()) for number in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@settings(max_examples=150, deadline=None)
@given(
    base=st.floats(0.001, 10), most=st.floats(0.001, 60), number=st.integers(1, 11), seed=st.integers(0, 2**32),
)
def test_no_wait_is_negative_or_longer_than_its_limit(base, most, number, seed):
    policy = RetryPolicy(base_delay=base, max_delay=most)
    delay = backoff_delay(policy, number, new_random(seed))
    assert 0.0 <= delay <= min(most, base * 2 ** (number - 1))


def test_the_jitter_is_full():
    policy, random = RetryPolicy(base_delay=1, max_delay=100), new_random(7)
    delays = [backoff_delay(policy, 4, random) for _ in range(2000)]
    assert min(delays) < 0.2
    assert max(delays) > 7.8
    assert mean(delays) == pytest.approx(4, abs=0.2)


def test_the_same_seed_gives_the_same_waits():
    policy = RetryPolicy()
    runs = []
    for _ in range(2):
        random = new_random(42)
        runs.append([backoff_delay(policy, number, random) for number in range(1, 5)])
    assert runs[0] == runs[1]
