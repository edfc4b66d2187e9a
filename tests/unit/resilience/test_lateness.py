"""What is late, by a provider's own answers, and what losing says."""

from __future__ import annotations

import pytest

from orchestrator import HedgePolicy
from orchestrator.core.clock import new_random
from orchestrator.resilience.lateness import Lateness


def after(waits, policy=HedgePolicy(), *, streamed=True):  # noqa: B008  # frozen
    lateness = Lateness(policy)
    for seconds in waits:
        lateness.answered(seconds, streamed=streamed)
    return lateness


def test_nothing_is_late_before_enough_is_known():
    assert after([1.0] * 19).delay(streamed=True) is None
    assert after([1.0] * 19, HedgePolicy(first_delay=7)).delay(streamed=True) == 7
    assert after([1.0] * 20, HedgePolicy(first_delay=7)).delay(streamed=True) < 1.2


def test_first_tokens_and_whole_answers_are_told_apart():
    lateness = after([1.0] * 20)
    assert lateness.delay(streamed=False) is None


@pytest.mark.parametrize(("waits", "delay"), [
    ([1.0] * 90 + [2.0] * 10, 2.0),  # the 95th percentile
    ([0.5] * 40 + [1.0] * 50 + [9.0] * 10, 3.0),  # three medians
    ([0.01] * 100, 0.05),  # the least
], ids=["quantile", "median", "least"])
def test_late_is_the_quantile_or_a_multiple_of_the_median_and_no_less_than_the_least(waits, delay):
    assert after(waits).delay(streamed=True) == pytest.approx(delay, rel=0.2)


def test_equal_answers_are_none_of_them_late():
    for seconds in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 3.0):
        assert after([seconds] * 40).delay(streamed=True) >= seconds


def test_it_follows_a_provider_that_changes():
    lateness = after([0.2] * 5000)
    for _ in range(2000):
        lateness.answered(2.0, streamed=True)
    assert lateness.delay(streamed=True) > 2


def test_the_delay_is_found_anew_with_every_tenth_answer():
    lateness = after([1.0] * 20)
    for seconds in (2.0, 9.0):
        delay = lateness.delay(streamed=True)
        for _ in range(9):
            lateness.answered(seconds, streamed=True)
            assert lateness.delay(streamed=True) == delay
        lateness.answered(seconds, streamed=True)
        assert lateness.delay(streamed=True) > delay


def test_losing_counts_only_when_it_was_late():
    lateness = after([1.0] * 40)
    assert not lateness.lost(0.9, 0.1, streamed=True)
    assert lateness.lost_in_a_row == 0
    assert lateness.lost(1.2, 0.1, streamed=True)
    assert lateness.lost_in_a_row == 1
    lateness.answered(5.0, streamed=False)
    assert lateness.lost_in_a_row == 0, "however late, it answers"


def test_of_an_unknown_provider_the_time_of_the_winner_decides():
    lateness = after([])
    assert not lateness.lost(0.9, 1.0, streamed=True)
    assert lateness.lost(1.0, 1.0, streamed=True)


def test_the_delay_does_not_shrink_by_its_own_doing():
    random = new_random(1)
    lateness = after([random.expovariate(1.0) for _ in range(200)], HedgePolicy(median_factor=100))
    hedged = 0
    for _ in range(20_000):
        wait, delay = random.expovariate(1.0), lateness.delay(streamed=True)
        if wait > delay:
            hedged += 1
            lateness.lost(delay + 0.1, 0.1, streamed=True)
        else:
            lateness.answered(wait, streamed=True)
    assert 0.03 < hedged / 20_000 < 0.06
