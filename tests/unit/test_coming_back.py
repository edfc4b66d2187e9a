"""Providers that come back: how those who waited are let in, told that it is in vain, or sent as the last resort."""

from __future__ import annotations

import asyncio

import pytest

from held import Held, ask
from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    CapacityError,
    CircuitOpenError,
    OverloadedError,
    RateLimitError,
    RouterClosedError,
    ServerError,
    Timeouts,
    Usage,
)
from orchestrator.providers.mock import Answer, Fail, Hang
from support import NO_RETRY, first_available, mock, settle

LONG = Timeouts(total=10_000, attempt=10_000)
CONVERSATION = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]


# --------------------------------------------------------------------------------------------------------- coming back


async def test_of_those_who_waited_out_a_pause_more_and_more_are_let_in():
    times = []

    class Limited(Held):
        async def complete(self, request):
            times.append(asyncio.get_running_loop().time())
            if len(times) == 1:
                raise RateLimitError("x", retry_after=10)
            await asyncio.sleep(30)

    router = first_available(Limited(), timeouts=LONG, retry=NO_RETRY)
    ask(router, "first")
    await settle()
    tasks = ask(router, *("x" * 1000))
    await asyncio.sleep(15)
    assert [sum(t < 10 + s for t in times[1:]) for s in (0.1, 5)] == [1, 1000]
    assert 3 <= sum(t < 10.5 for t in times[1:]) <= 31
    for task in tasks:
        task.cancel()


async def test_a_provider_that_still_refuses_when_it_is_back_is_not_asked_by_all():
    loop = asyncio.get_running_loop()
    asked = []

    class Limited(Held):
        async def complete(self, request):
            asked.append(loop.time())
            await asyncio.sleep(0.1)
            raise RateLimitError("x", retry_after=10)

    router = first_available(Limited(), timeouts=LONG)
    ask(router, "first")
    await asyncio.sleep(1)
    tasks = ask(router, *("x" * 1000))
    await asyncio.sleep(60)
    assert len(asked) <= 1 + 6 * 3
    for task in tasks:
        task.cancel()


async def test_a_window_of_the_routers_own_limit_lets_all_in_it_has_room_for():
    provider = mock("a", rpm_limit=20)
    router = first_available(provider, timeouts=LONG)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*ask(router, *("x" * 60)))
    assert loop.time() - begun == pytest.approx(120, abs=0.1)


async def test_when_a_probe_has_closed_the_circuit_those_who_wait_follow():
    provider = mock("a", *[Fail(ServerError("x"))] * 5, "a")
    router = first_available(provider, retry=NO_RETRY)
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    begun = asyncio.get_running_loop().time()
    assert await asyncio.gather(*ask(router, *("x" * 20))) == ["a"] * 20
    assert 0.5 <= asyncio.get_running_loop().time() - begun <= 3


# ------------------------------------------------------------------------------------------------------------- in vain


async def test_who_waits_for_a_provider_that_is_isolated_is_told_at_once():
    limited = mock("a", Fail(RateLimitError("x", retry_after=20)))
    router = first_available(limited)
    tasks = ask(router, "x", "y", "z")
    await asyncio.sleep(1)
    router.isolate("a")
    await settle()
    assert [type(task.exception()) for task in tasks[1:]] == [CircuitOpenError, CircuitOpenError]
    tasks[0].cancel()  # that one tries the same provider again


async def test_a_pause_that_gets_too_long_is_told_at_once():
    busy = Held(max_concurrency=1)
    router = first_available(busy)
    tasks = ask(router, "x", "y", "z")
    await settle()
    busy.calls[0].set_exception(RateLimitError("x", retry_after=200))
    await settle()
    assert [type(task.exception()) for task in tasks] == [RateLimitError, CapacityError, CapacityError]
    assert tasks[1].exception().retry_after == pytest.approx(200)


async def test_a_pause_that_is_prolonged_meanwhile_is_told_at_once():
    provider = Held()
    router = first_available(provider, retry=NO_RETRY)
    ask(router, "1", "2")
    await settle()
    provider.calls[0].set_exception(RateLimitError("x", retry_after=20))
    await settle()
    waiting, = ask(router, "3")
    await settle()
    assert not waiting.done()
    provider.calls[1].set_exception(RateLimitError("x", retry_after=200))
    await settle()
    assert isinstance(waiting.exception(), CapacityError)


async def test_who_waits_when_the_only_provider_leaves_is_told_so():
    router = first_available(mock("a", Hang(), max_concurrency=1))
    tasks = ask(router, "x", "y")
    await settle()
    await router.aclose(grace=1)
    with pytest.raises(RouterClosedError):
        await tasks[1]
    tasks[0].cancel()


async def test_a_provider_that_joins_is_asked_by_those_who_wait_in_order():
    router = first_available(mock("a", Hang(), max_concurrency=1))
    hanging, *_ = ask(router, *"xyz")
    await settle()
    held = Held("b", max_concurrency=1)
    router.add_provider(held)
    await settle()
    assert held.asked == ["y"]
    held.answer()
    await settle()
    assert held.asked == ["y", "z"]
    hanging.cancel()


async def test_when_the_last_one_has_gone_no_timer_is_left():
    router = first_available(mock("a", rpm_limit=1))
    await router.route("x")
    waiting, = ask(router, "x")
    await settle()
    room = router._pool.room
    assert room._timer is not None
    waiting.cancel()
    await settle()
    assert room._timer is None
    assert not [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]


async def test_a_request_with_more_tokens_than_there_is_room_for_waits_for_them_and_is_not_overtaken_by_small_ones():
    answer = Answer("a", delay=1, usage=Usage(60, 0))
    router = first_available(mock("a", answer, tpm_limit=100), timeouts=LONG)
    assert await router.route("x") == "a"
    looks = 0
    plain = router._pool.ready

    def ready(at):
        nonlocal looks
        looks += 1
        return plain(at)

    router._pool.ready = ready
    done = []
    for prompt in ("long " * 70, "short"):
        ask(router, prompt)[0].add_done_callback(lambda _, prompt=prompt: done.append(prompt[:5]))
        await settle()
    await asyncio.sleep(50)
    assert (done, looks) == ([], 2)
    await asyncio.sleep(150)
    assert (done, looks < 10) == (["long ", "short"], True)


async def test_a_provider_that_came_back_during_a_failed_attempt_is_asked_at_once():
    a, b = Held("a"), mock("b", enabled=False)
    router = first_available(a, b, retry=NO_RETRY)
    task, = ask(router, "x")
    await settle()
    b.config.enabled = True
    a.calls[0].set_exception(ServerError("x"))
    await settle()
    assert task.result() == "b"


async def test_refused_although_there_seems_to_be_room_it_looks_again_but_not_all_the_time(monkeypatch):
    router = first_available(mock("a"), timeouts=Timeouts(total=60))
    candidate = router._pool.get("a")
    looks = 0

    def refuse(*_, **__):
        nonlocal looks
        looks += 1
        raise CapacityError("no")

    monkeypatch.setattr(candidate, "admit", refuse)
    with pytest.raises(CapacityError):
        await router.route("x")
    assert 10 < looks < 100
    assert router.queued == 0


# --------------------------------------------------------------------------------------------------------- last resort


async def tripped(provider, **options):
    """A router whose only provider's circuit has just opened, for longer than a request lasts."""
    router = first_available(provider, retry=NO_RETRY, timeouts=Timeouts(total=3), **options)
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    assert router.snapshot()["a"].breaker == "open"
    return router


async def test_a_break_that_outlasts_the_deadline_is_cut_short_by_a_last_resort():
    router = await tripped(mock("a", *[Fail(ServerError("x"))] * 5, "a"))
    begun = asyncio.get_running_loop().time()
    assert await router.route("x") == "a"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(0.5, abs=0.01)  # break_base / 10
    assert await router.route("x") == "a"


async def test_of_many_in_an_outage_one_at_a_time_is_the_last_resort():
    provider = mock("a", *[Fail(ServerError("x"), delay=0.1)] * 100)
    router = await tripped(provider)
    before = len(provider.calls)
    results = await asyncio.gather(*ask(router, *("x" * 50)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, CircuitOpenError)]
    assert len(provider.calls) - before == 50 - len(refused) == 5  # 0.5 s after each opening, for 0.1 s, of 3 s
    assert all(result.retry_after > 0 for result in refused)
    assert router.queued == 0


async def test_those_who_wait_behind_a_last_resort_that_succeeds_follow_it():
    router = await tripped(mock("a", *[Fail(ServerError("x"))] * 5, Answer("a", delay=0.1)))
    assert await asyncio.gather(*ask(router, *("x" * 8))) == ["a"] * 8


async def test_where_several_last_resorts_must_succeed_an_opened_stream_makes_room_for_the_next():
    provider = mock("a", *[Fail(ServerError("x"))] * 5, Answer("a b", gap=2))
    router = await tripped(provider, breaker=BreakerPolicy(probes=2))
    streams = [router.stream("x") for _ in range(3)]
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert asyncio.get_running_loop().time() - begun < 1.5
    for stream in streams:
        await stream.aclose()


async def test_the_last_resort_is_whose_break_ends_first_and_never_an_isolated_one():
    a, b = (mock(name, *[Fail(ServerError("x"))] * 5, name) for name in "ab")
    router = first_available(a, b, mock("c"), retry=NO_RETRY, timeouts=Timeouts(total=3))
    router.isolate("c")
    b.config.enabled = False
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    a.config.enabled, b.config.enabled = False, True
    await asyncio.sleep(1)
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    a.config.enabled = True
    assert await router.route("x") == "a"


async def test_a_refused_key_and_a_pause_it_asked_for_are_no_case_for_a_last_resort():
    for error in (AuthenticationError("x"), OverloadedError("x", retry_after=100)):
        router = first_available(
            provider := mock("a", Fail(error)), retry=NO_RETRY, breaker=BreakerPolicy(consecutive_failures=1),
            timeouts=Timeouts(total=3),
        )
        with pytest.raises(type(error)):
            await router.route("x")
        with pytest.raises(CircuitOpenError):
            await router.route("x")
        assert len(provider.calls) == 1
