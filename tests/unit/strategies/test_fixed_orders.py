"""Round robin, weighted, random and first available: the orders that do not look at latency."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.clock import new_random
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies import FirstAvailable, RandomChoice, RoundRobin, RoutingStrategy, Weighted
from orchestrator.strategies.round_robin import REMEMBERED

ASKED = Request("?")


def views(**weights: float) -> list[CandidateView]:
    return [CandidateView(name, weight=weight) for name, weight in weights.items()]


def firsts(strategy: RoutingStrategy, candidates: list[CandidateView], count: int) -> str:
    """Who is asked in ``count`` decisions, none of which fails."""
    return "".join(next(iter(strategy.order(candidates, ASKED))).name for _ in range(count))


def asked(strategy: RoutingStrategy, candidates: list[CandidateView], failing: str) -> str:
    """Who answers one request when some of the candidates fail."""
    return next(view.name for view in strategy.order(candidates, ASKED) if view.name not in failing)


class TestRoundRobin:
    def test_takes_turns(self):
        assert firsts(RoundRobin(), views(a=1, b=1, c=1), 7) == "abcabca"

    def test_the_rest_follow_in_turn(self):
        strategy, candidates = RoundRobin(), views(a=1, b=1, c=1)
        firsts(strategy, candidates, 1)
        assert "".join(view.name for view in strategy.order(candidates, ASKED)) == "bca"
        assert "".join(view.name for view in strategy.order(candidates, ASKED)) == "bca"

    def test_the_load_of_a_failing_one_is_spread_over_the_others(self):
        strategy, candidates = RoundRobin(), views(a=1, b=1, c=1)
        answered = Counter(asked(strategy, candidates, failing="a") for _ in range(100))
        assert answered == {"b": 50, "c": 50}

    def test_nobody_is_skipped_when_the_list_changes_its_length(self):
        strategy, pool = RoundRobin(), views(a=1, b=1, c=1, d=1)
        assert "".join(firsts(strategy, pool, 1) + firsts(strategy, pool[:1], 1) for _ in range(4)) == "aabacada"

    def test_a_newcomer_and_one_that_comes_back_go_first_once(self):
        strategy, pool = RoundRobin(), views(a=1, b=1, c=1)
        assert firsts(strategy, pool[:2], 4) == "abab"
        assert firsts(strategy, pool, 4) == "cabc"
        assert firsts(strategy, pool[1:], 4) == "bcbc"
        assert firsts(strategy, pool, 3) == "abc"

    def test_requests_that_overlap_do_not_disturb_each_other(self):
        strategy, candidates = RoundRobin(), views(a=1, b=1, c=1)
        one, two = iter(strategy.order(candidates, ASKED)), iter(strategy.order(candidates, ASKED))
        assert [view.name for view in (next(one), next(two), *one, *two)] == ["a", "b", "c", "b", "a", "c"]

    def test_who_is_asked_late_after_failures_goes_behind_those_asked_meanwhile(self):
        strategy, candidates = RoundRobin(), views(a=1, b=1, c=1, d=1)
        failing = iter(strategy.order(candidates, ASKED))
        assert next(failing).name + next(failing).name + firsts(strategy, candidates, 2) == "abcd"
        assert next(failing).name == "c"
        assert firsts(strategy, candidates, 4) == "abdc"

    def test_a_list_that_grew_in_place_is_noticed(self):
        strategy, candidates = RoundRobin(), views(a=1, b=1)
        assert firsts(strategy, candidates, 2) == "ab"
        candidates += views(c=1)
        assert firsts(strategy, candidates, 3) == "cab"


class TestWeighted:
    @pytest.mark.parametrize(
        ("weights", "order"),
        [
            ({"a": 5, "b": 1, "c": 1}, "aabacaa" * 2),
            ({"a": 1, "b": 1, "c": 1}, "abcabc"),
            ({"a": 2, "b": 1}, "abaaba"),
            ({"a": 0.5, "b": 0.25}, "abaaba"),
        ],
    )
    def test_shares_by_weight_evenly_spread(self, weights, order):
        assert firsts(Weighted(), views(**weights), len(order)) == order

    @given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    @settings(max_examples=50, deadline=None)
    def test_every_share_is_exact_over_a_whole_round(self, weights):
        candidates = [CandidateView(str(n), weight=weight) for n, weight in enumerate(weights)]
        strategy = Weighted()
        counts = Counter(next(strategy.order(candidates, ASKED)) for _ in range(sum(weights)))
        assert [counts[view] for view in candidates] == weights

    def test_a_changed_weight_counts_at_once(self):
        strategy, (a, b) = Weighted(), views(a=1, b=1)
        firsts(strategy, [a, b], 10)
        a.weight = 9
        assert Counter(firsts(strategy, [a, b], 100)) == {"a": 90, "b": 10}

    def test_the_rest_follow_by_credit(self):
        order = [view.name for view in Weighted().order(views(a=1, b=3, c=2), ASKED)]
        assert order == ["b", "c", "a"]

    def test_the_load_of_a_failing_one_is_spread_over_the_others(self):
        strategy, candidates = Weighted(), views(a=1, b=1, c=1)
        answered = Counter(asked(strategy, candidates, failing="a") for _ in range(100))
        assert abs(answered["b"] - answered["c"]) <= 1

    def test_an_absent_one_keeps_its_credit(self):
        strategy, pool = Weighted(), views(a=5, b=1)
        assert (firsts(strategy, pool, 1) + firsts(strategy, pool[:1], 1)) * 6 == "a" * 12
        seen = "".join(firsts(strategy, pool, 1) + firsts(strategy, pool[:1], 1) for _ in range(6))
        assert seen.count("b") == 1

    def test_a_newcomer_is_neither_ahead_nor_behind(self):
        strategy, pool = Weighted(), views(a=1, b=1, c=1)
        for _ in range(50):
            asked(strategy, pool[:2], failing="a")
        assert abs(Counter(firsts(strategy, pool, 30))["c"] - 10) <= 1


class TestRandom:
    def test_draws_from_the_routers_own_chance(self):
        def run(seed: int) -> str:
            strategy = RandomChoice()
            strategy.random = new_random(seed)
            return firsts(strategy, views(a=1, b=1, c=1), 50)

        assert run(1) == run(1) != run(2)

    def test_every_order_is_equally_likely(self):
        strategy = RandomChoice()
        strategy.random = new_random(7)
        candidates = views(a=1, b=1, c=1)
        counts = Counter("".join(view.name for view in strategy.order(candidates, ASKED)) for _ in range(6000))
        assert len(counts) == 6
        assert all(count == pytest.approx(1000, rel=0.15) for count in counts.values())

    def test_does_not_read_weights(self):
        strategy = RandomChoice()
        strategy.random = new_random(7)
        assert Counter(firsts(strategy, views(a=100, b=1), 1000))["b"] == pytest.approx(500, rel=0.15)


class TestFirstAvailable:
    def test_goes_by_priority_then_by_the_order_in_the_pool(self):
        pool = [CandidateView(name, priority=priority) for name, priority in zip("abcd", (2, 0, 1, 0), strict=True)]
        assert "".join(view.name for view in FirstAvailable().order(pool, ASKED)) == "bdca"

    def test_stays_with_the_first(self):
        assert firsts(FirstAvailable(), views(a=1, b=1), 5) == "aaaaa"

    def test_a_changed_priority_counts_at_once(self):
        strategy, (a, b) = FirstAvailable(), views(a=1, b=1)
        b.priority = -1
        assert firsts(strategy, [a, b], 2) == "bb"


@pytest.mark.parametrize("make", [RoundRobin, Weighted])
def test_names_that_left_for_good_are_forgotten(make):
    strategy = make()
    for number in range(3 * REMEMBERED):
        list(strategy.order([CandidateView("stays"), CandidateView(f"passing {number}")], ASKED))
    (memory,) = [value for value in vars(strategy).values() if isinstance(value, dict)]
    assert len(memory) <= REMEMBERED + 2
    assert "stays" in memory


@pytest.mark.parametrize("make", [RoundRobin, Weighted])
def test_forgetting_others_costs_nobody_their_turn(make):
    strategy, candidates = make(), views(a=1, b=1)
    assert firsts(strategy, candidates, 3) == "aba"
    for number in range(REMEMBERED - 1):
        list(strategy.order([CandidateView(f"passing {number}")], ASKED))
    assert firsts(strategy, candidates, 1) == "b"


@pytest.mark.parametrize("make", [RoundRobin, Weighted, RandomChoice, FirstAvailable])
def test_the_order_given_is_left_as_it_is(make):
    candidates = views(a=1, b=5, c=1)
    before = list(candidates)
    for _ in range(5):
        list(make().order(candidates, ASKED))
    assert candidates == before
