"""The retry budget: a share of the calls, plus a floor, over the last ten seconds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.resilience.budget import TAU, RetryBudget


def spent(budget: RetryBudget, at: float) -> int:
    count = 0
    while count < 1000 and budget.spend(at):
        count += 1
    return count


def test_the_floor_is_there_without_any_call():
    assert spent(RetryBudget(0.2, 3), 0.0) == 3
    assert spent(RetryBudget(0.2, 0), 0.0) == 0


def test_calls_earn_their_share():
    budget = RetryBudget(0.2, 0)
    for _ in range(100):
        budget.call(0.0)
    assert spent(budget, 0.0) == 20


def test_both_fade_so_what_was_spent_comes_back():
    budget = RetryBudget(0.2, 5)
    assert spent(budget, 0.0) == 5
    assert spent(budget, TAU / 100) == 1
    assert spent(budget, TAU / 100) == 0
    assert spent(budget, TAU) == 3  # 6 / e are left of those spent
    for _ in range(100):
        budget.call(TAU)
    assert spent(budget, 100 * TAU) == 5  # and nothing of the calls


def test_what_was_ten_seconds_ago_counts_a_third():
    budget = RetryBudget(1.0, 0)
    for _ in range(100):
        budget.call(50.0)
    assert spent(budget, 60.0) == 37  # 100 / e = 36.8


def test_calls_of_long_ago_do_not_fade_those_of_now():
    budget = RetryBudget(1.0, 0)
    budget.call(0.0)
    for _ in range(10):
        budget.call(1000.0)
    assert spent(budget, 1000.0) == 10


def test_a_clock_that_stands_still_or_steps_back_changes_nothing():
    budget = RetryBudget(0.5, 0)
    for at in (5.0, 5.0, 4.0, 5.0):
        budget.call(at)
    assert spent(budget, 4.0) == 2


@settings(max_examples=100, deadline=None)
@given(
    ratio=st.floats(0, 1), floor=st.integers(0, 10),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=100),
)
def test_in_any_ten_seconds_retries_are_bounded_by_the_calls(ratio, floor, steps):
    budget, at, calls, retries = RetryBudget(ratio, floor), 0.0, [], []
    for is_call, gap in steps:
        at += gap
        if is_call:
            budget.call(at)
            calls.append(at)
        elif budget.spend(at):
            retries.append(at)
    for end in retries:
        lately = [t for t in retries if end - TAU < t <= end]
        # What is at most a time constant old counts at least 1/e; so does no more than e times the allowance pass.
        assert len(lately) <= 2.7183 * (floor + ratio * len(calls) + 1)


def test_there_is_no_first_time_discount():
    budget = RetryBudget(0.2, 1)
    assert budget.spend(1000.0)
    assert not budget.spend(1000.0)
    assert budget.spend(1000.0 + TAU)
