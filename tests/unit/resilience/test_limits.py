"""A provider's own limits, exact over any minute."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import ProviderConfig
from orchestrator.resilience.limits import Limits


def test_no_limit_configured_is_no_limit_object():
    assert Limits.of(ProviderConfig(name="a")) is None


@pytest.mark.parametrize("field", ["rpm_limit", "tpm_limit", "max_concurrency"])
def test_any_limit_configured_is_kept(field):
    assert Limits.of(ProviderConfig(name="a", **{field: 1})) is not None


def test_concurrency_frees_a_place_when_a_call_ends():
    limits = Limits(concurrency=2)
    limits.acquire(0)
    assert limits.wait_time(0) == 0
    limits.acquire(0)
    assert limits.full
    assert limits.wait_time(0) == inf
    limits.release(1, 0)
    assert limits.wait_time(1) == 0


def test_calls_per_minute_are_free_again_a_minute_after_the_oldest():
    limits = Limits(rpm=2)
    limits.acquire(0)
    limits.acquire(10)
    assert limits.wait_time(20) == 40
    assert limits.wait_time(60) == 0
    limits.acquire(60)
    assert limits.wait_time(60) == 10


def test_tokens_per_minute_count_what_was_really_used():
    limits = Limits(tpm=100)
    for at, tokens in ((0, 60), (10, 60)):
        assert limits.wait_time(at) == 0
        limits.acquire(at)
        limits.release(at, tokens)
    assert limits.wait_time(20) == 40
    assert limits.wait_time(60) == 0
    limits.acquire(60)
    limits.release(60, 0)
    assert limits.wait_time(61) == 0


def test_tokens_far_above_the_limit_wait_for_enough_of_them_to_age():
    limits = Limits(tpm=10)
    for at in (0, 5, 9):
        limits.acquire(at)
        limits.release(at, 20)
    assert limits.wait_time(10) == 59


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


def test_new_limits_go_on_counting_what_the_old_ones_counted():
    before = Limits.of(ProviderConfig(name="a", rpm_limit=3, tpm_limit=100))
    for at in (0, 10):
        before.acquire(at)
        before.release(at, 60)
    after = Limits.of(ProviderConfig(name="a", rpm_limit=2, tpm_limit=200), in_use=0, before=before)
    assert after.wait_time(20) == 40
    after = Limits.of(ProviderConfig(name="a", tpm_limit=100), in_use=0, before=before)
    assert after.wait_time(20) == 40
