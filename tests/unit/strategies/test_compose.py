"""Strategies made of strategies: groups, ties, trials, and one chance for all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import Router
from orchestrator.core.clock import new_random
from orchestrator.core.errors import ServerError
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.providers import MockProvider, ProviderConfig
from orchestrator.providers.mock import Fail
from orchestrator.strategies import (
    Filtered,
    FirstAvailable,
    LeastLatency,
    RandomChoice,
    RoundRobin,
    RoutingStrategy,
    Shadow,
    TieBreak,
    Tiers,
)

ASKED = Request("?")


class Given(RoutingStrategy):
    """Exactly this order."""

    def __init__(self, names):
        self.names = names

    def order(self, candidates, request):
        by_name = {view.name: view for view in candidates}
        return [by_name[name] for name in self.names if name in by_name]


class Broken(RoutingStrategy):
    def order(self, candidates, request):
        raise KeyError("broken")


def views(names="abcd", **priorities):
    return [CandidateView(name, priority=priorities.get(name, 0)) for name in names]


def order(strategy, candidates, request=ASKED):
    return "".join(view.name for view in strategy.order(candidates, request))


def firsts(strategy, candidates, count):
    """Who is asked in ``count`` decisions, none of which fails."""
    return "".join(next(iter(strategy.order(candidates, ASKED))).name for _ in range(count))


class TestFiltered:
    def test_those_that_fail_the_predicate_come_last_in_the_same_order(self):
        strategy = Filtered(Given("dcba"), lambda view, request: view.name in "ac")
        assert order(strategy, views()) == "cadb"

    def test_the_predicate_sees_the_request(self):
        strategy = Filtered(Given("ab"), lambda view, request: view.name == request.prompt)
        assert [order(strategy, views("ab"), Request(name)) for name in "ab"] == ["ab", "ba"]

    def test_when_all_or_none_fail_nothing_changes(self):
        for verdict in (True, False):
            assert order(Filtered(Given("cab"), lambda view, request, v=verdict: v), views("abc")) == "cab"

    def test_the_strategy_within_keeps_its_turns(self):
        strategy = Filtered(RoundRobin(), lambda view, request: view.name != "b")
        assert firsts(strategy, views("abc"), 4) == "acac"


class TestTiers:
    def test_all_of_the_best_tier_then_the_next(self):
        assert order(Tiers(Given("dcba")), views(a=1, b=0, c=1, d=0)) == "dbca"

    def test_a_key_of_ones_own(self):
        assert order(Tiers(Given("dcba"), key=lambda view: view.name > "b"), views()) == "badc"

    def test_within_a_tier_the_load_is_shared(self):
        strategy, pool = Tiers("round-robin"), views("abc", b=1)
        assert firsts(strategy, pool, 4) == "acac"

    def test_a_changed_priority_counts_at_once(self):
        strategy, pool = Tiers(), views("ab")
        pool[1].priority = -1
        assert {order(strategy, pool)[0] for _ in range(4)} == {"b"}

    def test_the_next_tier_is_ordered_only_when_it_is_reached(self):
        asked = []

        class Noting(RoutingStrategy):
            def order(self, candidates, request):
                asked.append("".join(view.name for view in candidates))
                return candidates

        later = iter(Tiers(Noting()).order(views("abc", c=1), ASKED))
        assert [next(later).name, next(later).name] == ["a", "b"]
        assert asked == ["ab"]
        assert next(later).name == "c"
        assert asked == ["ab", "c"]


class TestTieBreak:
    def paced(self, **paces):
        pool = views("".join(paces))
        return pool, lambda view: paces[view.name]

    def test_who_is_close_to_the_least_is_its_equal(self):
        pool, measure = self.paced(a=1.0, b=1.1, c=1.2, d=1.3)
        assert order(TieBreak(measure, Given("dcba"), tolerance=0.1), pool) == "badc"
        assert order(TieBreak(measure, Given("dcba"), tolerance=0.0), pool) == "abcd"
        assert order(TieBreak(measure, Given("dcba"), tolerance=1.0), pool) == "dcba"

    def test_equals_are_measured_from_the_least_of_them_and_form_no_chain(self):
        pool, measure = self.paced(a=1.0, b=1.09, c=1.18)
        assert order(TieBreak(measure, Given("cba"), tolerance=0.1), pool) == "bac"

    def test_negative_and_missing_measures_have_their_place(self):
        pool, measure = self.paced(a=nan, b=-1.0, c=-1.05, d=nan)
        assert order(TieBreak(measure, Given("dbca"), tolerance=0.1), pool) in {"bcad", "bcda"}

    def test_a_tolerance_below_zero_is_refused(self):
        for tolerance in (-0.1, nan):
            with pytest.raises(ValueError, match="tolerance"):
                TieBreak(lambda view: 0.0, "random", tolerance=tolerance)


class TestShadow:
    def test_main_decides_and_differences_are_told(self):
        told = []
        strategy = Shadow(Given("abc"), Given("cab"), lambda *what: told.append(what))
        pool = views("abc")
        assert order(strategy, pool) == "abc"
        assert told == [(pool[0], pool[2], ASKED)]
        assert (strategy.asked, strategy.differed) == (1, 1)

    def test_agreement_is_no_news(self):
        told = []
        strategy = Shadow(Given("abc"), Given("acb"), lambda *what: told.append(what))
        order(strategy, views("abc"))
        assert (strategy.asked, strategy.differed, told) == (1, 0, [])

    def test_one_on_trial_that_orders_nobody_takes_the_first_as_the_router_would(self):
        strategy = Shadow(Given("ba"), Given(""))
        order(strategy, views("ab"))
        assert strategy.differed == 1

    def test_what_the_one_on_trial_raises_is_logged(self, caplog):
        with caplog.at_level(logging.ERROR):
            assert order(Shadow(Given("ab"), Broken()), views("ab")) == "ab"
        assert "on trial failed" in caplog.text

    def test_what_the_function_raises_is_logged(self, caplog):
        def fails(*_):
            raise RuntimeError

        with caplog.at_level(logging.ERROR):
            assert order(Shadow(Given("ab"), Given("ba"), fails), views("ab")) == "ab"
        assert "on trial failed" in caplog.text

    def test_the_one_on_trial_takes_nothing_of_mains_chance(self):
        def run(strategy):
            strategy.random = new_random(3)
            return [order(strategy, views()) for _ in range(30)]

        assert run(Shadow(RandomChoice(), RandomChoice())) == run(RandomChoice())

    def test_the_one_on_trial_is_seeded_too(self):
        def run(seed):
            told = []
            strategy = Shadow(FirstAvailable(), RandomChoice(), lambda _, other, __: told.append(other.name))
            strategy.random = new_random(seed)
            for _ in range(30):
                order(strategy, views())
            return told

        assert run(1) == run(1) != run(2)


COMPOSED = [
    lambda within: Filtered(within, lambda view, request: view.in_flight < 2),
    lambda within: Tiers(within),
    lambda within: TieBreak(lambda view: view.in_flight, within, tolerance=0.5),
    lambda within: Shadow(within, "random"),
    lambda within: Tiers(
        Filtered(TieBreak(lambda view: view.in_flight, within), lambda view, request: view.weight > 1)
    ),
]


@pytest.mark.parametrize("compose", COMPOSED)
@pytest.mark.parametrize("within", [RoundRobin, RandomChoice, LeastLatency, lambda: Given("caac"), lambda: Given("")])
@given(pool=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=6))
@settings(max_examples=15, deadline=None)
def test_an_order_holds_every_candidate_once(compose, within, pool):
    candidates = [CandidateView("abcdef"[n], priority=priority) for n, (_, priority) in enumerate(pool)]
    for view, (load, _) in zip(candidates, pool, strict=True):
        view.in_flight = load
    strategy = compose(within())
    if isinstance(strategy, Shadow) and isinstance(strategy.within, Given):
        return  # what main leaves out, the router adds
    async def main():
        assert sorted(order(strategy, candidates)) == sorted(view.name for view in candidates)

    asyncio.run(main())


@pytest.mark.parametrize("compose", COMPOSED)
def test_the_routers_chance_reaches_the_innermost(compose):
    chance, within = new_random(1), RandomChoice()
    strategy = compose(within)
    strategy.random = chance
    assert within.random is chance is strategy.random


@pytest.mark.parametrize("compose", COMPOSED)
def test_names_and_classes_will_do(compose):
    assert order(compose("first-available"), views("a")) == order(compose(FirstAvailable), views("a")) == "a"
    with pytest.raises(ValueError, match="unknown strategy"):
        compose("no such")


async def test_a_router_falls_to_the_next_tier_when_the_first_one_fails():
    down = [MockProvider(ProviderConfig(name=name), script=[Fail(ServerError("down"))], cycle=True) for name in "ab"]
    spare = MockProvider(ProviderConfig(name="spare", priority=1))
    async with Router(Tiers("least-latency"), [spare, *down]) as router:
        answer = await router.complete("Hi")
    assert answer.provider == "spare"
    assert Counter(attempt.provider for attempt in answer.attempts).keys() == {"a", "b", "spare"}
