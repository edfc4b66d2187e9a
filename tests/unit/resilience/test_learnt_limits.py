"""What a provider told of its limits is heeded until its reset, and healed by its next word."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.limits import Quota, RateLimits
from orchestrator.resilience.limits import Limits
from orchestrator.resilience.quota import LONGEST, LearntQuota


def learnt(at=0.0, in_use=0, **report):
    limits = Limits(in_use=in_use)
    limits.learn(RateLimits(**report), at)
    return limits


def test_what_is_left_is_used_up_and_comes_back_at_the_reset():
    limits = learnt(requests=Quota(2, reset=30))
    for at in (1, 2):
        assert limits.wait_time(at) == 0
        limits.acquire(at)
    assert limits.wait_time(10) == 20
    assert limits.wait_time(30) == 0


def test_tokens_that_are_left_are_measured_by_the_estimate():
    limits = learnt(tokens=Quota(100, limit=1000, reset=30))
    assert limits.counts_tokens
    assert limits.wait_time(0, 101) == 30
    lease = limits.acquire(1, 80)
    assert limits.wait_time(1, 21) == 29
    limits.release(lease, 1, tokens=30)
    assert limits.wait_time(1, 70) == 0
    assert limits.wait_time(1, 71) == 29


def test_a_call_without_an_estimate_is_one_token():
    assert learnt(tokens=Quota(1, reset=30)).wait_time(0) == 0
    assert learnt(tokens=Quota(0, reset=30)).wait_time(0) == 30


def test_a_call_gives_back_nothing_that_the_last_report_has_counted():
    limits = learnt(tokens=Quota(100, reset=31))
    lease = limits.acquire(0, 80)
    limits.learn(RateLimits(tokens=Quota(60, reset=30)), 1)
    assert limits.wait_time(1, 20) == 0
    assert limits.wait_time(1, 21) == 30
    limits.acquire(2, 15)
    limits.release(lease, 2, tokens=10)
    assert limits.wait_time(2, 45) == 0
    assert limits.wait_time(2, 46) == 29


def test_a_bucket_that_refills_is_waited_for_only_as_long_as_it_takes():
    limits = learnt(requests=Quota(0, limit=60, reset=60, refills=True), tokens=Quota(40, 100, 6, refills=True))
    assert limits.wait_time(0) == 1
    assert limits.wait_time(1) == 0
    assert limits.wait_time(0, 60) == 2
    limits.acquire(1)
    assert limits.wait_time(1.5) == 0.5


def test_a_call_larger_than_the_whole_limit_waits_for_the_whole():
    limits = learnt(tokens=Quota(100, limit=100, reset=30))
    assert limits.wait_time(0, 1000) == 0
    limits.acquire(0, 1)
    assert limits.wait_time(0, 1000) == 30


def test_the_report_of_a_call_does_not_hand_out_again_what_others_took_meanwhile():
    limits = learnt(requests=Quota(3, reset=30))
    for _ in range(3):
        limits.acquire(1)
    limits.learn(RateLimits(requests=Quota(2, reset=29)), 1)  # the first of the three; it knows nothing of the others
    assert limits.wait_time(1) == 29


def test_a_count_that_was_wrong_is_healed_by_the_next_report():
    limits = learnt(requests=Quota(0, reset=100), tokens=Quota(0, reset=100))
    assert limits.wait_time(1) == 99
    limits.learn(RateLimits(Quota(5, reset=100), Quota(500, reset=100)), 1)
    assert limits.wait_time(1, 500) == 0
    limits.learn(RateLimits(requests=Quota(0, reset=10)), 2)
    assert limits.wait_time(2) == 10


def test_the_call_that_brings_a_report_is_counted_in_it():
    limits = learnt(requests=Quota(0, reset=100))
    limits.acquire(1)
    limits.learn(RateLimits(requests=Quota(1, reset=99)), 1)
    assert limits.wait_time(1) == 0


def test_a_report_that_tells_of_no_refilling_ends_it():
    limits = learnt(requests=Quota(0, limit=60, reset=60, refills=True))
    limits.learn(RateLimits(requests=Quota(0, limit=60, reset=60)), 1)
    assert limits.wait_time(1) == 60


def test_more_left_than_the_limit_is_no_refilling():
    limits = learnt(requests=Quota(2, limit=1, reset=30, refills=True))
    limits.acquire(1)
    limits.acquire(1)
    assert limits.wait_time(1) == 29


@pytest.mark.parametrize("reset", [86_400.0, float("inf"), 1e300])
def test_no_report_shuts_a_provider_out_for_longer_than_it_is_believed(reset):
    assert learnt(requests=Quota(0, reset=reset)).wait_time(0) == LONGEST == 120


@pytest.mark.parametrize("reset", [None, -1.0, float("nan")])
def test_without_a_reset_it_is_looked_at_again_after_a_second(reset):
    limits = learnt(requests=Quota(0, reset=reset))
    assert limits.wait_time(0) == 1
    assert limits.wait_time(1) == 0


@pytest.mark.parametrize(("reset", "wait"), [(0, 0), (0.5, 0.5)])
def test_a_reset_within_the_second_is_believed(reset, wait):
    assert learnt(requests=Quota(0, reset=reset)).wait_time(0) == wait
    assert learnt(requests=Quota(0, limit=10, reset=reset, refills=True)).wait_time(0) == wait / 10


@pytest.mark.parametrize(("remaining", "limit", "wait"), [(1, 1, 0), (0, 0, 30)])
def test_however_small_a_limit_one_goes_when_the_whole_is_left(remaining, limit, wait):
    assert learnt(tokens=Quota(remaining, limit, 30)).wait_time(0, 5) == wait


def test_less_than_nothing_left_is_nothing():
    assert learnt(requests=Quota(-5, limit=10, reset=10, refills=True)).wait_time(0) == 1


def test_a_report_at_the_reset_of_the_last_one_begins_anew():
    limits = learnt(tokens=Quota(100, reset=30))
    limits.acquire(0, 80)
    limits.learn(RateLimits(tokens=Quota(100, reset=30)), 30)
    assert limits.wait_time(30, 100) == 0


def test_a_call_begun_at_the_moment_of_a_report_may_be_counted_in_it():
    quota = LearntQuota()
    quota.report(Quota(60, reset=30), 1, 0)
    quota.take(50)
    quota.give_back(40, 1)
    assert quota.told(1).remaining == 10


def test_there_is_any_room_where_nothing_is_known():
    quota = LearntQuota()
    assert quota.room(0) == inf
    quota.report(Quota(3, limit=9, reset=12, refills=True), 100, 0)
    assert (quota.room(100), quota.room(104), quota.room(112)) == (3, 5, inf)


def test_no_wait_is_negative():
    quota = LearntQuota()
    assert quota.wait_time(0, 1) == 0
    quota.report(Quota(1, limit=10, reset=9, refills=True), 0, 0)
    assert quota.wait_time(0, 1) == 0
    assert quota.wait_time(5, 3) == 0


def test_what_is_left_is_told_as_it_refills():
    quota = LearntQuota()
    quota.report(Quota(0, limit=10, reset=20, refills=True), 100, 0)
    assert quota.told(104) == Quota(2, 10, 16, refills=True)
    quota.take(5)
    assert quota.told(104).remaining == 0


def test_what_is_known_can_be_looked_at():
    limits = learnt(requests=Quota(3, limit=10, reset=30), tokens=Quota(50, 100, 10, refills=True))
    limits.acquire(0, 20)
    assert limits.learnt(2) == RateLimits(Quota(2, 10, 28), Quota(40, 100, 8, refills=True))
    assert limits.learnt(30) == RateLimits()
    assert Limits().learnt(0) == RateLimits()


numbers = st.one_of(st.none(), st.integers(), st.integers(10**300, 10**320))
seconds = st.one_of(st.none(), st.floats(), st.integers())


@given(remaining=st.integers() | st.integers(10**300, 10**320), limit=numbers, reset=seconds, refills=st.booleans(),
       tokens=st.integers(0, 10**9))
def test_whatever_is_reported_no_wait_is_longer_than_a_report_is_believed(remaining, limit, reset, refills, tokens):
    quota = Quota(remaining, limit, reset, refills)
    limits = learnt(requests=quota, tokens=quota)
    assert 0 <= limits.wait_time(0, tokens) <= LONGEST
    assert limits.wait_time(LONGEST, tokens) == 0
