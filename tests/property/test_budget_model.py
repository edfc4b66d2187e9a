"""The retry budget against a naive model of it: the times of all calls and retries, each weighed by its age."""

from __future__ import annotations

from math import ceil, exp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.resilience.budget import RetryBudget

E_FOLD = 10.0  # seconds, as the documentation says
ROUNDING = 1e-9


class Budget(RuleBasedStateMachine):
    @initialize(ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), floor=st.integers(0, 6))
    def begin(self, ratio, floor):
        self.budget = RetryBudget(ratio, floor)
        self.ratio, self.floor = ratio, floor
        self.now = 0.0
        self.calls: list[float] = []
        self.retries: list[float] = []

    def weight(self, times):
        return sum(exp((at - self.now) / E_FOLD) for at in times)

    def allowance(self):
        return self.floor + self.ratio * self.weight(self.calls)

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.0, 7.0, 10.0, 100.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(number=st.integers(1, 12), late=st.sampled_from([0.0, 0.0, 0.25]))
    def calls_begin(self, number, late):
        for _ in range(number):  # whose time was read a little earlier counts as one of now
            self.budget.call(self.now)
            self.budget.call(self.now - late)
            self.calls += [self.now, self.now]

    @rule()
    def a_retry_is_asked_for(self):
        self.ask()

    def ask(self):
        spent, allowed = self.weight(self.retries), self.allowance()
        given = self.budget.spend(self.now)
        exact = all(at == self.now for at in self.calls + self.retries)
        if exact or abs(spent - allowed) > ROUNDING:
            assert given == (spent < allowed)
        if given:
            self.retries.append(self.now)
        return given

    @rule()
    def an_outage_spends_all_there_is(self):
        left = self.allowance() - self.weight(self.retries)
        given = 0
        while self.ask():
            given += 1
        assert given in {max(0, ceil(left - ROUNDING)), max(0, ceil(left + ROUNDING))}

    @rule()
    def after_a_long_silence_only_the_floor_is_left(self):
        self.now += 400.0
        self.budget.call(self.now - 400.0)  # a late one changes nothing either
        self.calls.append(self.now - 400.0)

    @invariant()
    def the_retries_never_exceed_the_allowance_by_one(self):
        # The last one was given below it, and both fade together, but for the floor, which does not fade.
        assert self.weight(self.retries) < self.allowance() + 1 + ROUNDING


Budget.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_the_budget_behaves_as_its_model = Budget.TestCase


def test_without_calls_the_floor_is_all_and_comes_back_as_the_spent_ones_fade():
    budget = RetryBudget(0.5, 2)
    assert [budget.spend(5.0) for _ in range(3)] == [True, True, False]
    assert not budget.spend(5.0 + 0.0)
    assert budget.spend(12.0)  # 2/e**0.7 = 0.99, and one more is 1.99
    assert budget.spend(12.0)
    assert not budget.spend(12.0)
