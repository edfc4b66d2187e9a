"""What holds for every built-in strategy, whatever the candidates are and however they come and go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core.clock import new_random
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage
from orchestrator.strategies import RoutingStrategy, resolve
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY
from orchestrator.strategies.registry import BUILT_IN
from orchestrator.testing.loop import VirtualTimeLoop

ASKED = Request("?")
EVERY_STRATEGY = pytest.mark.parametrize("name", BUILT_IN)

outcomes = st.one_of(st.floats(0.0, 30.0), st.none())  # an answer after so many seconds, or a failure


@st.composite
def pools(draw: st.DrawFn, most: int = 6) -> list[CandidateView]:
    """Candidates with any past: measured or not, failed or not, idle or busy."""
    pool = []
    for number in range(draw(st.integers(1, most))):
        view = CandidateView(f"p{number}", weight=draw(st.floats(0.1, 10)), priority=draw(st.integers(-2, 2)))
        for outcome in draw(st.lists(outcomes, max_size=4)):
            end(view, 0.0, outcome)
        view.in_flight = draw(st.integers(0, 5))
        pool.append(view)
    return pool


def subsets(pool: Sequence[CandidateView], chosen: Sequence[int]) -> list[list[CandidateView]]:
    """Lists of ready candidates, in the order of the pool; a number is a set of positions."""
    return [[view for n, view in enumerate(pool) if bits >> n & 1] for bits in chosen]


def end(view: CandidateView, at: float, latency: float | None) -> None:
    if latency is None:
        view.failed(at, None)
    else:
        view.answered(at, latency, Usage(0, 50), 0)


def make(name: str, seed: int = 1) -> RoutingStrategy:
    strategy = resolve(name)
    strategy.random = new_random(seed)
    return strategy


def run(main: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main)


@EVERY_STRATEGY
@given(pool=pools(), chosen=st.lists(st.integers(0, 63), min_size=1, max_size=20), gap=st.floats(0, 20))
@settings(max_examples=60, deadline=None)
def test_an_order_holds_every_candidate_once(name, pool, chosen, gap):
    async def main() -> None:
        strategy = make(name)
        for candidates in subsets(pool, chosen):
            order = list(strategy.order(candidates, ASKED))
            assert sorted(order, key=id) == sorted(candidates, key=id)
            await asyncio.sleep(gap)

    run(main())


@EVERY_STRATEGY
@given(pool=pools(), taken=st.lists(st.integers(1, 6), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_orders_read_in_part_and_at_the_same_time_hold_nobody_twice(name, pool, taken):
    async def main() -> None:
        strategy = make(name)
        orders = [(iter(strategy.order(pool, ASKED)), []) for _ in taken]
        for step in range(6):
            for (order, seen), count in zip(orders, taken, strict=True):
                if step < count:
                    seen.extend([view for view in [next(order, None)] if view is not None])
        for (_, seen), count in zip(orders, taken, strict=True):
            assert len(set(seen)) == len(seen) == min(count, len(pool))

    run(main())


@EVERY_STRATEGY
@given(pool=pools(most=5), paces=st.lists(st.floats(0.01, 30), min_size=5, max_size=5))
@settings(max_examples=15, deadline=None)
def test_nobody_is_starved(name, pool, paces):
    """Each goes first within a bounded number of decisions; first-available reaches it when those before it fail."""
    for view in pool:
        view.in_flight = 0
        view.weight = round(view.weight) or 1
    latency = dict(zip(pool, paces, strict=False))
    explorations = len(pool) * EXPLORE_EVERY * (1 + EXPLORE_AFTER)  # one second passes between two decisions
    bound = int(max(explorations, sum(view.weight for view in pool)))

    async def main() -> None:
        strategy, failing = make(name), set()
        seen: Counter[CandidateView] = Counter()
        for number in range(bound):
            asked = Request("?", session=str(number))  # affinity gives each of them its own order
            first = next(view for view in strategy.order(pool, asked) if view not in failing)
            seen[first] += 1
            end(first, asyncio.get_running_loop().time(), latency[first])
            if name == "first-available":
                failing.add(first)
            if len(seen) == len(pool):
                return
            await asyncio.sleep(1)
        raise AssertionError(f"never first: {set(pool) - set(seen)}")

    run(main())


@pytest.mark.parametrize("name", ["round-robin", "weighted", "random", "least-latency", "adaptive"])
@given(
    cycle=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
@example(cycle=[5, 1, 1, 3], weights=[2, 1, 1, 1])
@settings(max_examples=40, deadline=None)
def test_nobody_is_starved_by_a_list_that_changes(name, cycle, weights):
    """Whoever is in a list again and again is also its first one again and again."""
    pool = [CandidateView(f"p{n}", weight=weight) for n, weight in enumerate(weights)]
    lists = subsets(pool, cycle)

    async def main() -> None:
        strategy = make(name)
        missing = {view for candidates in lists for view in candidates}
        for round_ in range(60 * EXPLORE_EVERY):
            candidates = lists[round_ % len(lists)]
            first = next(iter(strategy.order(candidates, ASKED)))
            end(first, asyncio.get_running_loop().time(), 1.0 + pool.index(first))
            missing.discard(first)
            if not missing:
                return
            await asyncio.sleep(1)
        raise AssertionError(f"never first: {missing}")

    run(main())


@EVERY_STRATEGY
@given(seed=st.integers(0, 100), fates=st.lists(outcomes, min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_same_seed_gives_the_same_run(name, seed, fates):
    def play() -> list[list[str]]:
        orders: list[list[str]] = []

        async def main() -> None:
            strategy, pool = make(name, seed), [CandidateView(f"p{n}") for n in range(4)]
            for fate in fates:
                order = list(strategy.order(pool, ASKED))
                orders.append([view.name for view in order])
                end(order[0], asyncio.get_running_loop().time(), fate)
                await asyncio.sleep(1)

        run(main())
        return orders

    assert play() == play()


class Counted(CandidateView):
    """Counts how often its attributes are read."""

    __slots__ = ()
    reads = 0

    def __getattribute__(self, name: str) -> object:
        Counted.reads += 1
        return super().__getattribute__(name)


@EVERY_STRATEGY
@given(size=st.integers(1, 200), failed=st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_order_costs_a_constant_per_candidate(name, size, failed):
    async def main() -> None:
        strategy, pool = make(name), [Counted(f"p{n}") for n in range(size)]
        for number, view in enumerate(pool):
            end(view, 0.0, None if failed else number % 7)
        for _ in range(3):
            Counted.reads = 0
            next(iter(strategy.order(pool, ASKED)))
            assert Counted.reads <= 60 * size, "the first one"
            Counted.reads = 0
            list(strategy.order(pool, ASKED))
            assert Counted.reads <= 100 * size, "all of them"

    run(main())


extremes = st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 1e9, 1e300])
weights_of_all_sizes = st.sampled_from([5e-324, 1e-9, 1.0, 1e9, 1e300])


@EVERY_STRATEGY
@given(
    histories=st.lists(st.tuples(st.lists(st.one_of(extremes, st.none()), max_size=4), weights_of_all_sizes,
                                 st.integers(0, 10**9), st.one_of(extremes, st.none())), min_size=1, max_size=5),
    gap=st.sampled_from([0.0, 1e-9, 1e6]),
)
@example(histories=[([0.0], 5e-324, 1, None), ([1e-300], 5e-324, 0, None)], gap=1e6)  # one that answers in no time
@example(histories=[([0.0], 1.0, 0, None), ([1e9], 1.0, 0, None)], gap=1e6)
@settings(max_examples=40, deadline=None)
def test_no_number_however_extreme_makes_it_raise_or_lose_a_candidate(name, histories, gap):
    async def main() -> None:
        strategy, pool = make(name), []
        for number, (past, weight, in_flight, price) in enumerate(histories):
            view = CandidateView(f"p{number}", weight=weight)
            view.in_flight, view.input_price, view.output_price = in_flight, price, price
            for outcome in past:
                end(view, asyncio.get_running_loop().time(), outcome)
                await asyncio.sleep(gap)
            pool.append(view)
        for _ in range(60):
            assert sorted(strategy.order(pool, ASKED), key=id) == sorted(pool, key=id)

    run(main())


@EVERY_STRATEGY
def test_no_candidates_are_no_order(name):
    assert list(make(name).order([], ASKED)) == []
