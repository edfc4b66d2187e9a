"""Affinity: whose key goes where, what moves when the pool changes, and when stickiness gives way."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from orchestrator import InvalidRequestError, Router
from orchestrator.core.clock import now
from orchestrator.core.messages import parse_messages, parse_tools
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage
from orchestrator.providers import MockProvider, ProviderConfig
from orchestrator.strategies import Affinity
from orchestrator.strategies.affinity import BOUND, FRESH, PREFIX, REMEMBERED, SLOWER
from orchestrator.sync import Router as SyncRouter

KEYS = 10_000


def views(names="abcde", **weights):
    return [CandidateView(name, weight=weights.get(name, 1.0)) for name in names]


def order(candidates, key, strategy=None):
    asked = Request("?", session=key) if isinstance(key, str) else key
    return "".join(view.name for view in (strategy or Affinity()).order(candidates, asked))


def homes(candidates, count=KEYS):
    strategy = Affinity()
    return [next(strategy.order(candidates, Request("?", session=f"user-{n}"))).name for n in range(count)]


def measured(view, pace):
    view.answered(now(), pace * 100, Usage(0, 50), 0)
    return view


class TestRendezvous:
    async def test_keys_are_shared_evenly(self):
        counts = Counter(homes(views()))
        assert all(count == pytest.approx(KEYS / 5, rel=0.06) for count in counts.values())

    async def test_names_that_look_alike_get_their_share_too(self):
        counts = Counter(homes([CandidateView(f"caching-{n}") for n in range(8)]))
        assert all(count == pytest.approx(KEYS / 8, rel=0.1) for count in counts.values())

    async def test_keys_are_shared_by_weight(self):
        counts = Counter(homes(views("abc", a=5, b=3, c=2)))
        assert {name: round(count / KEYS, 2) for name, count in counts.items()} == pytest.approx(
            {"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.02
        )

    async def test_one_that_leaves_moves_its_own_keys_only_and_to_all_others(self):
        before, after = homes(views()), homes(views("abde"))
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert {old for old, _ in moved} == {"c"}
        assert len(moved) == before.count("c")
        assert all(
            count == pytest.approx(len(moved) / 4, rel=0.15) for count in Counter(new for _, new in moved).values()
        )

    async def test_a_weight_that_rises_only_takes_keys(self):
        before, after = homes(views()), homes(views(c=2))
        assert {new for old, new in zip(before, after, strict=True) if old != new} == {"c"}

    async def test_who_takes_over_is_the_one_who_gets_the_key_when_the_first_is_gone(self):
        pool = views()
        for n in range(200):
            first, *rest = order(pool, f"user-{n}")
            assert order([view for view in pool if view.name != first], f"user-{n}") == "".join(rest)

    async def test_the_order_of_the_pool_does_not_matter(self):
        assert order(views("abcde"), "me") == order(views("edcba"), "me")

    async def test_no_two_providers_are_always_neighbours(self):
        followers = Counter(pair for n in range(600) for pair in pairwise(order(views("abc"), f"user-{n}")))
        assert len(followers) == 6
        assert min(followers.values()) > 150

    async def test_every_process_and_every_release_has_the_same_order(self):
        assert [order(views(), key) for key in ("me", "you", "them")] == ["abecd", "ceabd", "edabc"]

    async def test_names_that_left_for_good_are_forgotten(self):
        strategy = Affinity()
        for n in range(3 * REMEMBERED):
            order([CandidateView("stays"), CandidateView(f"passing {n}")], "me", strategy)
        assert len(strategy._seeds) <= REMEMBERED + 2


def same(one, other):
    """Whether two requests have one order: for 12 providers that is no accident."""
    pool = views("abcdefghijkl")
    return order(pool, one) == order(pool, other)


class TestKey:
    async def test_the_session_is_all_that_counts_where_there_is_one(self):
        assert same(Request("one", session="s"), Request("two", session="s"))
        assert not same(Request("one", session="s"), Request("one", session="t"))

    async def test_an_empty_session_is_none(self):
        assert same(Request("one", session=""), Request("one"))
        assert not same(Request("one", session=""), Request("two", session=""))

    async def test_a_session_is_not_taken_for_a_prompt(self):
        assert not same(Request("a"), Request("b", session="a"))

    async def test_a_prompt_counts_by_its_beginning(self):
        assert same(Request("x" * PREFIX + "one"), Request("x" * PREFIX + "two"))
        assert not same(Request("x" * (PREFIX - 1) + "1"), Request("x" * (PREFIX - 1) + "2"))

    async def test_a_conversation_stays_where_it_began(self):
        first = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
        later = [*first, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}]
        assert same(Request(messages=parse_messages(first)), Request(messages=parse_messages(later)))

    async def test_conversations_that_share_a_system_message_are_spread(self):
        def begun(word):
            messages = [{"role": "system", "content": "Be kind. " * 500}, {"role": "user", "content": word}]
            return Request(messages=parse_messages(messages))

        firsts = Counter(order(views("abc"), begun(str(n)))[0] for n in range(300))
        assert min(firsts.values()) > 70

    async def test_the_system_message_and_the_tools_count(self):
        def request(system, tool):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hi"}]
            return Request(messages=parse_messages(messages), tools=parse_tools([{"name": tool}]))

        assert same(request("a", "t"), request("a", "t"))
        assert not same(request("a", "t"), request("b", "t"))
        assert not same(request("a", "t"), request("a", "u"))

    async def test_a_lone_surrogate_is_no_error(self):
        assert order(views("ab"), Request("\ud800")) in {"ab", "ba"}


class TestGivingWay:
    async def test_a_load_above_the_bound_sends_it_to_the_next_of_its_order(self):
        pool = views("abc")
        usual = order(pool, "me")
        first = next(view for view in pool if view.name == usual[0])
        first.in_flight = int(BOUND * 1.5)  # the mean of three is a third of it: exactly on the bound
        assert order(pool, "me") == usual
        first.in_flight += 1
        assert order(pool, "me") == usual[1:] + usual[0]

    async def test_a_busy_pool_is_no_gap(self):
        pool = views("abc")
        for view in pool:
            view.in_flight = 500
        assert order(pool, "me") == order(views("abc"), "me")

    async def test_weight_counts_in_the_load(self):
        pool = views("ab", a=10, b=1)
        pool[0].in_flight, pool[1].in_flight = 100, 10
        assert [order(pool, f"user-{n}") for n in range(50)] == [
            order(views("ab", a=10, b=1), f"user-{n}") for n in range(50)
        ]

    async def test_weight_counts_in_the_mean(self):
        pool = views("ab", a=10, b=1)
        pool[0].in_flight, pool[1].in_flight = 100, 30  # by weight 10 and 30: their mean is 20
        assert {order(pool, f"user-{n}")[0] for n in range(100)} == {"a"}

    async def test_a_failure_sends_it_elsewhere_until_the_penalty_has_faded(self):
        pool = [measured(view, 0.01) for view in views("abc")]
        usual = order(pool, "me")
        next(view for view in pool if view.name == usual[0]).failed(now(), None)
        assert order(pool, "me") == usual[1:] + usual[0]
        await asyncio.sleep(60)
        assert order(pool, "me") == usual

    async def test_a_failure_of_one_that_never_answered_counts_too(self):
        pool = views("abc")
        usual = order(pool, "me")
        next(view for view in pool if view.name == usual[0]).failed(now(), None)
        assert order(pool, "me")[0] == usual[1]

    async def test_a_much_slower_one_is_passed_over_and_probed_by_one_call_at_a_time(self):
        pool = views("ab")
        usual = order(pool, "me")
        home = next(view for view in pool if view.name == usual[0])
        for view in pool:
            measured(view, 0.01 * (SLOWER + 0.1 if view is home else 1))
        assert order(pool, "me")[0] == usual[1]
        await asyncio.sleep(FRESH)
        assert order(pool, "me")[0] == usual[0]
        home.in_flight = 1
        assert order(pool, "me")[0] == usual[1]

    async def test_one_that_is_a_little_slower_keeps_its_keys(self):
        pool = [measured(view, pace) for view, pace in zip(views("ab"), (0.01, 0.035), strict=True)]
        assert [order(pool, str(n)) for n in range(50)] == [order(views("ab"), str(n)) for n in range(50)]

    async def test_among_fast_ones_nobody_is_slow(self):
        pool = [measured(view, pace) for view, pace in zip(views("ab"), (0.0, 0.0009), strict=True)]
        assert [order(pool, str(n)) for n in range(50)] == [order(views("ab"), str(n)) for n in range(50)]

    async def test_when_all_are_passed_over_the_least_loaded_goes_first(self):
        pool = [measured(view, 0.01) for view in views("abc")]
        for view, load in zip(pool, (3, 1, 2), strict=True):
            view.failed(now(), None)
            view.in_flight = load
        assert {order(pool, str(n))[0] for n in range(50)} == {"b"}

    async def test_the_later_ones_are_judged_when_they_are_asked_for(self):
        pool = views("abc")
        usual = order(pool, "me")
        later = Affinity().order(pool, Request("?", session="me"))
        next(later)
        next(view for view in pool if view.name == usual[1]).in_flight = 100
        assert "".join(view.name for view in later) == usual[2] + usual[1]

    async def test_the_bound_is_that_of_the_moment_too(self):
        pool = views("abc")
        usual = order(pool, "me")
        later = Affinity().order(pool, Request("?", session="me"))
        first = next(later)
        first.in_flight = 40
        next(view for view in pool if view.name == usual[1]).in_flight = 20  # no more than the mean has become
        assert "".join(view.name for view in later) == usual[1:]


class TestRouter:
    def router(self, make=Router):
        return make("affinity", [MockProvider(ProviderConfig(name=name)) for name in "abcd"])

    async def test_every_verb_takes_a_session(self):
        async with self.router() as router:
            homes = set()
            for n in range(3):
                homes.add((await router.complete(f"turn {n}", session="me")).provider)
                async for event in router.stream(f"turn {n}", session="me"):
                    last = event
                homes.add(last.completion.provider)
                assert await router.route(f"turn {n}", session="me")
                assert [piece async for piece in router.route_stream(f"turn {n}", session="me")]
            assert len(homes) == 1
            assert sum(told.requests for told in router.snapshot().values()) == 12
            assert max(told.requests for told in router.snapshot().values()) == 12

    async def test_a_conversation_with_tools_takes_one_too(self):
        async with self.router() as router:
            asked = [await router.complete([{"role": "user", "content": str(n)}], session="me") for n in range(5)]
            assert len({answer.provider for answer in asked}) == 1

    async def test_a_session_that_is_no_text_is_refused(self):
        async with self.router() as router:
            with pytest.raises(InvalidRequestError, match="session is int"):
                await router.route("Hi", session=7)

    @pytest.mark.real_time
    def test_the_synchronous_router_takes_a_session(self):
        with self.router(SyncRouter) as router:
            for n in range(3):
                router.route(f"turn {n}", session="me")
                router.complete(f"turn {n}", session="me")
                list(router.route_stream(f"turn {n}", session="me"))
                list(router.stream(f"turn {n}", session="me"))
            assert sorted(told.requests for told in router.snapshot().values()) == [0, 0, 0, 12]
