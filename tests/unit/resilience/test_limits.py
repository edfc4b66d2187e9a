"""A provider's own limits, exact over any minute."""

from __future__ import annotations

import gc
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import ProviderConfig
from orchestrator.core.config import LimitPolicy
from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilteredError,
    InvalidRequestError,
    RateLimitError,
    ServerError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.resilience.limits import Lease, Limits


def config(**fields):
    return ProviderConfig(name="a", **fields)


def test_no_limit_configured_is_no_limit_object():
    assert Limits.of(config()) is None
    assert Limits.of(config(), policy=LimitPolicy()) is None


@pytest.mark.parametrize("field", ["rpm_limit", "tpm_limit", "max_concurrency"])
def test_any_limit_configured_is_kept(field):
    assert Limits.of(config(**{field: 1})) is not None


def test_concurrency_frees_a_place_when_a_call_ends():
    limits = Limits(concurrency=2)
    lease = limits.acquire(0)
    assert limits.wait_time(0) == 0
    assert not limits.wakes
    limits.acquire(0)
    assert limits.full
    assert limits.wakes
    assert limits.wait_time(0) == inf
    limits.release(lease, 1)
    assert limits.wait_time(1) == 0


def test_a_lease_given_back_twice_is_given_back_once():
    limits = Limits(tpm=100, concurrency=2)
    lease, other = limits.acquire(0, 50), limits.acquire(0, 50)
    limits.release(lease, 1, tokens=10)
    limits.release(lease, 1, tokens=10)
    assert limits.in_use == 1
    assert limits.wait_time(1, 40) == 0
    assert limits.wait_time(1, 41) == 59
    limits.release(other, 1)
    assert limits.in_use == 0


def test_calls_per_minute_are_free_again_a_minute_after_the_oldest():
    limits = Limits(rpm=2)
    limits.acquire(0)
    limits.acquire(10)
    assert limits.wait_time(20) == 40
    assert limits.wait_time(60) == 0
    limits.acquire(60)
    assert limits.wait_time(60) == 10


def test_the_calls_of_the_last_minute_count_not_those_before():
    limits = Limits(rpm=2)
    limits.acquire(0)
    limits.acquire(50)
    assert limits.wait_time(61) == 0


def test_the_end_of_a_call_may_make_room_only_for_tokens_it_was_estimated_to_use():
    limits = Limits(tpm=100)
    limits.release(limits.acquire(0, 0), 1)
    assert not limits.wakes
    limits.acquire(1, 1)
    assert limits.wakes


def test_tokens_per_minute_count_what_was_really_used():
    limits = Limits(tpm=100)
    for at, tokens in ((0, 60), (10, 60)):
        assert limits.wait_time(at) == 0
        limits.release(limits.acquire(at), at, tokens=tokens)
    assert limits.wait_time(20) == 40
    assert limits.wait_time(60) == 0
    limits.release(limits.acquire(60), 60, tokens=39)
    assert limits.wait_time(61) == 0
    limits.release(limits.acquire(61), 61, tokens=1)
    assert limits.wait_time(61) == 9


def test_tokens_far_above_the_limit_wait_for_enough_of_them_to_age():
    limits = Limits(tpm=10)
    for at in (0, 5, 9):
        limits.release(limits.acquire(at), at, tokens=20)
    assert limits.wait_time(10) == 59


def test_an_estimate_is_charged_at_once_and_replaced_by_what_was_used():
    limits = Limits(tpm=100)
    lease = limits.acquire(0, 80)
    assert limits.wait_time(5, 20) == 0
    assert limits.wait_time(5, 21) == 55
    assert limits.wakes
    limits.release(lease, 5, tokens=30)
    assert not limits.wakes
    assert limits.wait_time(5, 70) == 0
    assert limits.wait_time(5, 71) == 55


def test_what_a_call_used_is_charged_to_the_minute_in_which_it_began():
    limits = Limits(tpm=100)
    lease = limits.acquire(0, 80)
    assert limits.wait_time(60, 100) == 0
    limits.release(lease, 61, tokens=90)
    limits.acquire(61, 50)
    assert limits.wait_time(61, 50) == 0
    assert limits.wait_time(61, 51) == 60


def test_calls_without_tokens_take_no_room_when_they_are_waited_for_nor_when_they_age():
    limits = Limits(tpm=100)
    limits.acquire(0)
    limits.acquire(10, 60)
    limits.acquire(20, 40)
    assert limits.wait_time(30, 1) == 40
    assert limits.wait_time(30, 60) == 40
    assert limits.wait_time(80, 1) == 0
    limits.acquire(80, 99)
    assert limits.wait_time(80, 1) == 0
    assert limits.wait_time(80, 2) == 60


def test_a_call_without_an_estimate_takes_no_tokens_yet():
    limits = Limits(tpm=1)
    limits.acquire(0)
    assert limits.wait_time(0, 1) == 0


def test_at_first_no_call_is_under_way():
    assert Limits.of(config(max_concurrency=1)).in_use == 0


def test_a_call_as_large_as_the_whole_limit_waits_for_the_last_token():
    limits = Limits(tpm=100)
    limits.acquire(0, 1)
    assert limits.wait_time(1, 100) == 59


def test_no_more_is_remembered_than_a_minute_of_calls():
    limits = Limits(tpm=100)
    for at in range(1000):
        limits.wait_time(at)
        limits.release(limits.acquire(at), at, tokens=1)
    assert sum(isinstance(found, Lease) and found.limits is limits for found in gc.get_objects()) <= 61


def test_a_call_larger_than_the_whole_limit_goes_when_the_minute_is_empty():
    limits = Limits(tpm=100)
    limits.release(limits.acquire(0), 0, tokens=10)
    limits.release(limits.acquire(20), 20, tokens=0)
    assert limits.wait_time(30, 1000) == 30
    assert limits.wait_time(60, 1000) == 0
    limits.acquire(60, 1000)
    assert limits.wait_time(61) == 59


@pytest.mark.parametrize(
    "error", [None, TimeoutError(), ServerError(), ConnectionFailedError(), ContentFilteredError()]
)
def test_a_call_whose_tokens_are_not_told_keeps_its_estimate(error):
    limits = Limits(tpm=100)
    limits.release(limits.acquire(0, 80), 1, error=error)
    assert limits.wait_time(1, 21) == 59


@pytest.mark.parametrize("error", [RateLimitError(), AuthenticationError(), InvalidRequestError()])
def test_a_call_that_was_refused_costs_no_tokens(error):
    limits = Limits(tpm=100)
    limits.release(limits.acquire(0, 80), 1, error.verdict, error=error)
    assert limits.wait_time(1, 100) == 0
    limits.acquire(1, 100)
    assert limits.wait_time(1, 1) == 60


@settings(max_examples=100, deadline=None)
@given(rpm=st.integers(1, 5), gaps=st.lists(st.floats(0, 40), min_size=1, max_size=30))
def test_no_minute_ever_sees_more_calls_than_allowed(rpm, gaps):
    limits = Limits(rpm=rpm)
    admitted: list[float] = []
    at = 0.0
    for gap in gaps:
        at += gap
        if limits.wait_time(at) == 0:
            limits.acquire(at)
            admitted.append(at)
    for start in admitted:
        assert sum(start <= other < start + 60 for other in admitted) <= rpm


def test_new_settings_go_on_counting_what_the_old_ones_counted():
    before = Limits.of(config(rpm_limit=3, tpm_limit=100))
    for at in (0, 10):
        before.release(before.acquire(at), at, tokens=60)
    after = Limits.of(config(rpm_limit=2, tpm_limit=200), before=before)
    assert after.wait_time(20) == 40
    after = Limits.of(config(tpm_limit=100), before=after)
    assert after.wait_time(20) == 40


def test_a_limit_lowered_and_raised_again_has_forgotten_nothing():
    limits = Limits.of(config(rpm_limit=3))
    for at in (0, 1, 2):
        limits.acquire(at)
    limits = Limits.of(config(rpm_limit=1), before=limits)
    assert limits.wait_time(3) == 59
    limits = Limits.of(config(rpm_limit=3), before=limits)
    assert limits.wait_time(3) == 57


def test_a_call_that_began_before_there_were_limits_gives_its_place_back():
    limits = Limits.of(config(max_concurrency=1, tpm_limit=100), in_use=1)
    assert limits.full
    limits.release(None, 5, tokens=80)
    limits.release(None, 6)
    assert not limits.full
    assert limits.wait_time(5, 21) == 60


def test_a_lease_of_limits_that_were_lifted_meanwhile_counts_in_the_new_ones():
    old = Limits.of(config(tpm_limit=100))
    lease = old.acquire(0, 90)
    assert Limits.of(config(), before=old) is None
    new = Limits.of(config(tpm_limit=100), in_use=1)
    new.release(lease, 10, tokens=70)
    assert new.in_use == 0
    assert new.wait_time(10, 30) == 0
    assert new.wait_time(10, 31) == 60


def test_what_was_learnt_is_forgotten_when_the_configuration_changes():
    limits = Limits.of(config(rpm_limit=10))
    limits.learn(RateLimits(requests=Quota(0, reset=50)), 0)
    assert limits.wait_time(0) == 50
    assert Limits.of(config(rpm_limit=10, api_key="another"), before=limits).wait_time(0) == 0


def test_a_cancelled_call_teaches_the_adaptive_limit_nothing():
    limits = Limits.of(config(), policy=LimitPolicy(adaptive=True, adaptive_initial=2))
    for verdict, limit in ((Verdict.NEUTRAL, 2), (Verdict.CREDENTIALS, 2), (Verdict.LIMITED, 1)):
        limits.release(limits.acquire(1), 2, verdict)
        assert limits.concurrency == limit


def test_an_answer_teaches_the_adaptive_limit():
    limits = Limits.of(config(), policy=LimitPolicy(adaptive=True, adaptive_initial=1))
    limits.release(limits.acquire(0), 1)
    assert limits.concurrency == 2


def test_the_configured_concurrency_bounds_the_adaptive_one():
    policy = LimitPolicy(adaptive=True)
    limits = Limits.of(config(max_concurrency=3), policy=policy)
    assert limits.concurrency == 3
    assert Limits.of(config(max_concurrency=2), before=limits, policy=policy).concurrency == 2


def test_the_room_is_what_the_tightest_limit_leaves():
    assert Limits().room(0) == inf
    limits = Limits(rpm=4, concurrency=3)
    limits.release(limits.acquire(0), 1)
    limits.acquire(30)
    limits.acquire(30)
    assert limits.room(30) == 1
    assert limits.room(60) == 1
    adaptive = Limits.of(config(max_concurrency=9), policy=LimitPolicy(adaptive=True, adaptive_initial=2))
    assert adaptive.room(0) == 2
    called = Limits(rpm=4)
    called.acquire(0)
    assert (called.room(0), called.room(60)) == (3, 4)
    called.learn(RateLimits(requests=Quota(2, reset=50)), 60)
    assert (called.room(60), called.room(110)) == (2, 4)
