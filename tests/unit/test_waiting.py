"""Who waits is served in order, by whoever has room first; the queue is bounded and can be seen."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from held import Held, ask
from orchestrator import (
    AuthenticationError,
    CapacityError,
    InvalidRequestError,
    LimitPolicy,
    ProviderConfig,
    RetryPolicy,
    ServerError,
    Timeouts,
)
from orchestrator.core.events import AttemptStarted, Waiting
from orchestrator.providers.mock import Answer, Fail, Hang
from orchestrator.sync import Router as BlockingRouter
from orchestrator.testing.loop import VirtualTimeLoop
from support import NEVER_OPEN, NO_RETRY, Echo, first_available, mock, pieces_of, settle

LONG = Timeouts(total=10_000, attempt=10_000)
CONVERSATION = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]


# ------------------------------------------------------------------------------------------------------------ in order


async def test_requests_are_answered_in_the_order_they_came():
    provider = mock("a", Answer("a", delay=1), max_concurrency=1)
    router = first_available(provider, timeouts=LONG)
    done = []
    for n, task in enumerate(tasks := ask(router, *map(str, range(100)))):
        task.add_done_callback(lambda _, n=n: done.append(n))
    await asyncio.gather(*tasks)
    assert done == list(range(100))
    assert asyncio.get_running_loop().time() == pytest.approx(100)


async def test_the_more_important_are_served_first_and_among_equals_the_older():
    provider = Held(max_concurrency=1)
    router = first_available(provider, timeouts=LONG)
    tasks = ask(router, "first")
    await settle()
    for priority in (1, 0, 5, -1, 0):
        tasks += ask(router, f"{priority} {len(tasks)}", priority=priority)
        await settle()
    for _ in tasks:
        provider.answer()
        await settle()
    assert provider.asked == ["first", "-1 4", "0 2", "0 5", "1 1", "5 3"]


async def test_a_newcomer_does_not_overtake_one_that_was_woken():
    provider = Held(max_concurrency=1)
    router = first_available(provider)
    ask(router, "first", "waiting")
    await settle()
    provider.answer()
    ask(router, "newcomer")  # its turn comes after the first has ended, and before the one that waits wakes up
    await settle()
    assert provider.asked == ["first", "waiting"]
    assert router.queued == 1


async def test_a_more_important_newcomer_goes_ahead_and_the_woken_one_keeps_its_place():
    provider = Held(max_concurrency=1)
    router = first_available(provider)
    ask(router, "first", "waiting", "behind")
    await settle()
    provider.answer()
    ask(router, "urgent", priority=-1)
    await settle()
    provider.answer()
    await settle()
    assert provider.asked == ["first", "urgent", "waiting"]


async def test_who_waits_for_one_provider_holds_nobody_up_who_may_use_another():
    a = Held("a", max_concurrency=1)
    b = Echo(ProviderConfig(name="b"))  # takes no conversation
    router = first_available(a, b)
    tasks = [asyncio.create_task(router.complete(CONVERSATION)) for _ in range(3)]
    await settle()
    assert router.queued == 2
    assert await router.route("x") == "b: x"
    assert {name: p.queued for name, p in router.snapshot().items()} == {"a": 2, "b": 0}
    for _ in tasks:
        a.answer()
        await settle()
    await asyncio.gather(*tasks)


async def test_an_older_request_that_failed_elsewhere_is_ahead_of_the_younger_ones():
    class Failing(Held):
        async def complete(self, request):
            await asyncio.sleep(5)
            raise AuthenticationError("x")

    b = Held("b", max_concurrency=1)
    router = first_available(Failing("a", max_concurrency=1), b, timeouts=LONG)
    tasks = ask(router, "oldest", "busy", "young", "younger")
    await asyncio.sleep(6)
    assert router.queued == 3
    for _ in range(3):
        b.answer()
        await settle()
    assert b.asked == ["busy", "oldest", "young", "younger"]
    b.answer()
    await asyncio.gather(*tasks)


async def test_a_second_choice_that_the_more_important_wait_for_by_now_is_left_to_them():
    class Failing(Echo):  # takes no conversation
        async def generate(self, prompt, params=None):
            await failing
            raise ServerError("x")

    failing = asyncio.get_running_loop().create_future()
    b = Held("b", max_concurrency=1)
    router = first_available(Failing(ProviderConfig(name="a")), b, retry=NO_RETRY)
    ask(router, "less important")
    await settle()
    conversations = [asyncio.create_task(router.complete(CONVERSATION, priority=-1)) for _ in range(2)]
    await settle()
    b.answer()
    failing.set_result(None)  # it goes on to its second choice before the one that waits for that wakes up
    await settle()
    assert b.asked == [None, None]
    b.answer()
    await asyncio.gather(*conversations)
    assert b.asked == [None, None, "less important"]


async def test_who_is_crowded_out_between_two_retries_waits_for_its_turn_and_keeps_its_retries():
    provider = mock("a", Fail(ServerError("x")), Answer("a", delay=1), max_concurrency=1)
    router = first_available(provider, retry=RetryPolicy(max_retries=1))
    assert await asyncio.gather(*ask(router, "1", "2", "3")) == ["a"] * 3
    assert [request.prompt for request in provider.calls] == ["1", "2", "1", "3"]
    always = mock("a", Fail(ServerError("why"), delay=0.1), max_concurrency=1)
    router = first_available(always, retry=RetryPolicy(max_retries=1), breaker=NEVER_OPEN)
    errors = await asyncio.gather(*ask(router, "1", "2", "3"), return_exceptions=True)
    assert [str(error) for error in errors] == ["a: why"] * 3
    assert Counter(request.prompt for request in always.calls) == {"1": 2, "2": 2, "3": 2}


async def test_streams_wait_in_the_same_queue():
    router = first_available(mock("a", Answer("a", delay=1), max_concurrency=1), timeouts=LONG)
    order = []

    async def ask_for(n):
        await (pieces_of(router.route_stream("x")) if n % 2 else router.route("x"))
        order.append(n)

    await asyncio.gather(*map(ask_for, range(10)))
    assert order == list(range(10))


# ------------------------------------------------------------------------------------------------------------- a bound


async def test_a_full_queue_refuses_the_newcomer_and_says_when_there_will_be_room():
    router = first_available(
        mock("a", Answer("a", delay=2), max_concurrency=1), limits=LimitPolicy(queue_size=3), timeouts=LONG
    )
    tasks = ask(router, *"xxxx")
    await asyncio.sleep(0.1)
    with pytest.raises(CapacityError, match="3 requests wait already") as refused:
        await router.route("x")
    assert refused.value.retry_after is None  # nobody was served yet
    await asyncio.sleep(2)
    tasks += ask(router, "x")
    await asyncio.sleep(3)
    tasks += ask(router, "x")
    await settle()
    with pytest.raises(CapacityError) as refused:
        await router.route("x")
    assert refused.value.retry_after == pytest.approx(3 * (5.1 - 2) / 2, abs=0.1)  # three wait, two left in 3.1 s
    assert await asyncio.gather(*tasks) == ["a"] * 6


async def test_a_more_important_newcomer_takes_the_place_of_the_youngest_of_the_least_important():
    provider = Held(max_concurrency=1)
    router = first_available(provider, limits=LimitPolicy(queue_size=2))
    _, *waiting = ask(router, "first", "one", "two")
    await settle()
    ask(router, "urgent", priority=-1)
    await settle()
    assert [task.done() for task in waiting] == [False, True]
    assert isinstance(waiting[1].exception(), CapacityError)
    assert router.queued == 2
    for _ in range(3):
        provider.answer()
        await settle()
    assert provider.asked == ["first", "urgent", "one"]


async def test_without_places_nobody_waits():
    router = first_available(mock("a", Hang(), max_concurrency=1), limits=LimitPolicy(queue_size=0))
    task, = ask(router, "x")
    await settle()
    with pytest.raises(CapacityError):
        await router.route("x")
    task.cancel()


async def test_a_request_that_failed_before_it_found_no_place_is_told_of_its_failure():
    router = first_available(
        mock("a", Answer("a", delay=50), max_concurrency=1), mock("b", Fail(ServerError("why"))), retry=NO_RETRY,
        limits=LimitPolicy(queue_size=0),
    )
    ask(router, "x")
    await settle()
    with pytest.raises(ServerError, match="why"):
        await router.route("x")


async def test_a_priority_that_is_no_number_is_refused_by_name():
    with pytest.raises(InvalidRequestError, match="priority"):
        await first_available(mock("a")).route("x", priority="high")


# ---------------------------------------------------------------------------------------------------------- to be seen


async def test_waiting_tells_the_place_and_the_snapshot_who_waits_for_what():
    events = []
    held = Held(max_concurrency=1)
    router = first_available(held, mock("b", enabled=False), listeners=[events.append])
    tasks = ask(router, *"xyz")
    await settle()
    ask(router, "urgent", priority=-1)
    await settle()
    assert [(e.position, e.queued) for e in events if isinstance(e, Waiting)] == [(1, 1), (2, 2), (1, 3)]
    seen = router.snapshot()["a"]
    assert (router.queued, seen.queued, seen.in_flight, seen.concurrency) == (3, 3, 1, 1)
    assert router.snapshot()["b"].queued == 0
    held.answer()
    await settle()
    assert len([e for e in events if isinstance(e, Waiting)]) == 3  # told once, however often it looks
    assert len([e for e in events if isinstance(e, AttemptStarted)]) == 2
    for task in tasks:
        task.cancel()


async def test_the_snapshot_tells_why_a_circuit_is_open_and_when_it_is_probed():
    provider = mock("a", *[Fail(ServerError("x"))] * 5, Answer("a", delay=1))
    router = first_available(provider, retry=NO_RETRY)
    assert (router.snapshot()["a"].breaker_reason, router.snapshot()["a"].next_probe) == (None, None)
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    seen = router.snapshot()["a"]
    assert seen.breaker_reason == "5 failures in a row"
    assert 5 <= seen.next_probe <= 5.5
    waiting, = ask(router, "x")
    await asyncio.sleep(1)
    assert router.snapshot()["a"].probes == 1
    await waiting
    router.isolate("a")
    assert (router.snapshot()["a"].breaker_reason, router.snapshot()["a"].next_probe) == ("isolated", None)


def test_what_a_dead_loop_has_left_behind_holds_up_nobody():
    router = first_available(mock("a", Answer("a", delay=1), max_concurrency=1))
    loops = [VirtualTimeLoop() for _ in range(2)]
    tasks = [loops[0].create_task(router.route("x")) for _ in range(3)]
    loops[0].run_until_complete(asyncio.sleep(0.5))
    assert router.queued == 2
    router._pool.get("a").limits._in_use = 0  # nor the call that was under way, whose end nobody will see
    assert loops[1].run_until_complete(router.route("x")) == "a"
    assert router.queued == 0
    for task in tasks:
        task.cancel()
    loops[0].run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for loop in loops:
        loop.close()


def test_the_blocking_router_passes_limits_and_priority_on():
    with BlockingRouter("first-available", [mock("a")], limits=LimitPolicy(queue_size=0)) as router:
        assert router.route("x", priority=1) == "a"
        assert "".join(router.route_stream("x", priority=1)) == "a"
        assert router.complete("x", priority=1).text == "a"
        assert len(list(router.stream("x", priority=1))) == 2
        assert router.queued == 0
