"""Hedging: a second attempt when the first is late; whatever happens to the two, one answer, and nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import (
    BreakerPolicy,
    ConnectionFailedError,
    ContextWindowExceededError,
    HedgePolicy,
    InvalidRequestError,
    ProviderConfig,
    RetryPolicy,
    Router,
    ServerError,
    TextDelta,
    TimeoutError,
    Timeouts,
)
from orchestrator.core.events import AttemptEnded, AttemptStarted, FailedOver, Hedged, RequestEnded
from orchestrator.pool import Pool
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang, MockProvider
from support import NEVER_OPEN, NO_RETRY, first_available, kinds, mock, pieces_of, settle

SOON = HedgePolicy(first_delay=1)
ENOUGH = RetryPolicy(max_retries=0, budget_floor=1000)


def hedging(*providers, hedge=SOON, retry=ENOUGH, **options):
    """A router, the events it tells, and a check that nothing is left of its calls."""
    events = []
    router = first_available(*providers, hedge=hedge, retry=retry, listeners=[events.append], **options)
    return router, events


def cycling(name, *script):
    return MockProvider(ProviderConfig(name=name), script=script, cycle=True)


def outcomes(events):
    return [(e.attempt.provider, e.outcome) for e in events if isinstance(e, AttemptEnded)]


def check_nothing_is_left(router, events):
    started = [(e.request, e.number) for e in events if isinstance(e, AttemptStarted)]
    ended = [(e.request, e.attempt.number) for e in events if isinstance(e, AttemptEnded)]
    assert sorted(started) == sorted(ended)
    assert all(state.in_flight == 0 for state in router.snapshot().values())
    assert len(router._watch) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def timed(awaitable):
    begun = asyncio.get_running_loop().time()
    result = await awaitable
    return result, pytest.approx(asyncio.get_running_loop().time() - begun, abs=1e-6)


async def ask(router, *, stream):
    return "".join(await pieces_of(router.route_stream("x"))) if stream else await router.route("x")


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@both
async def test_an_answer_in_time_has_no_hedge(stream):
    second = mock("b")
    router, events = hedging(mock("a", Answer("a", delay=0.9)), second)
    assert await ask(router, stream=stream) == "a"
    await asyncio.sleep(10)
    assert second.calls == []
    assert "Hedged" not in kinds(events)
    check_nothing_is_left(router, events)


@both
async def test_a_late_answer_is_overtaken_by_that_of_another_provider(stream):
    router, events = hedging(mock("a", Answer("a", delay=30)), mock("b", Answer("b", delay=0.5)))
    assert await timed(ask(router, stream=stream)) == ("b", 1.5)
    ended = events[-1]
    assert isinstance(ended, RequestEnded)
    first, second = ended.completion.attempts
    assert (first.provider, first.hedge, first.lost, first.error, first.duration) == ("a", False, True, None, 1.5)
    assert (second.provider, second.hedge, second.lost, second.started, second.duration) == ("b", True, False, 1, 0.5)
    assert [(e.provider, e.delay) for e in events if isinstance(e, Hedged)] == [("b", 1)]
    assert outcomes(events) == [("a", "cancelled"), ("b", "answer")]
    assert ended.completion.latency == 1.5
    assert router.snapshot()["a"].failures == 0
    assert [state.hedges for state in router.snapshot().values()] == [0, 1]
    await settle()
    check_nothing_is_left(router, events)


@both
async def test_the_first_may_still_win_and_the_hedge_is_cancelled(stream):
    router, events = hedging(mock("a", Answer("a", delay=1.5)), mock("b", Answer("b", delay=5)))
    assert await timed(ask(router, stream=stream)) == ("a", 1.5)
    completion = events[-1].completion
    assert [(a.provider, a.hedge, a.lost, a.duration) for a in completion.attempts] == [
        ("a", False, False, 1.5), ("b", True, True, 0.5),
    ]
    assert outcomes(events) == [("b", "cancelled"), ("a", "answer")], "before the request's end"
    await settle()
    check_nothing_is_left(router, events)


@both
async def test_without_enough_samples_and_a_first_delay_there_is_no_hedge(stream):
    steps = [*[Answer("a", delay=0.1)] * 19, Answer("a", delay=8)]
    router, events = hedging(mock("a", *steps), mock("b"), hedge=HedgePolicy())
    for _ in steps:
        assert await ask(router, stream=stream) == "a"
    assert "Hedged" not in kinds(events)


@both
async def test_the_delay_is_what_is_usual_for_that_provider(stream):
    usual = [Answer("a", delay=0.2 if n % 10 else 5) for n in range(1, 21)]
    router, events = hedging(mock("a", *usual, Hang()), mock("b"), hedge=HedgePolicy())
    for _ in usual:
        await ask(router, stream=stream)
    assert await ask(router, stream=stream) == "b"
    (hedged,) = (e for e in events if isinstance(e, Hedged))
    assert hedged.delay == pytest.approx(3 * 0.2, rel=0.1), "a tenth of its answers takes 5 s, so the median decides"


async def test_plain_calls_and_streams_are_late_by_measures_of_their_own():
    pieces = Answer("1 2", delay=0.2, pieces=["1 ", "2"], gap=4)
    router, events = hedging(mock("a", *[pieces] * 25, Hang()), mock("b"), hedge=HedgePolicy())
    for _ in range(24):
        await ask(router, stream=True)
    assert await ask(router, stream=False) == "1 2", "of plain calls nothing is known yet"
    await ask(router, stream=True)
    assert [e.delay for e in events if isinstance(e, Hedged)] == [pytest.approx(0.2, rel=0.1)]


@both
async def test_a_hedge_that_fails_leaves_the_first_alone(stream):
    router, events = hedging(mock("a", Answer("a", delay=3)), mock("b", Fail(ServerError("x"))), mock("c"))
    assert await timed(ask(router, stream=stream)) == ("a", 3)
    assert [(e.provider, type(e.error)) for e in events if isinstance(e, FailedOver)] == [("b", ServerError)]
    assert outcomes(events) == [("b", "error"), ("a", "answer")]


@both
async def test_a_hedge_that_fails_is_followed_by_the_next_at_once_if_more_than_one_is_allowed(stream):
    providers = mock("a", Hang()), mock("b", Fail(ServerError("x"), delay=0.5)), mock("c", Answer("c", delay=0.25))
    router, events = hedging(*providers, hedge=HedgePolicy(first_delay=1, max_hedges=2))
    assert await timed(ask(router, stream=stream)) == ("c", 1.75)
    assert outcomes(events) == [("b", "error"), ("a", "cancelled"), ("c", "answer")]
    await settle()
    check_nothing_is_left(router, events)


async def test_no_more_than_max_hedges_are_begun_for_one_request_whoever_was_late():
    slow_failure = Fail(ServerError("x"), delay=2)
    router, _ = hedging(*(mock(name, slow_failure) for name in "abcd"))
    with pytest.raises(ServerError) as caught:
        await router.route("x")
    assert [(a.provider, a.started, a.hedge) for a in caught.value.attempts] == [
        ("a", 0, False), ("b", 1, True), ("c", 3, False), ("d", 5, False),
    ]


@both
async def test_a_failing_first_waits_for_the_hedge_and_asks_no_third(stream):
    third = mock("c")
    router, events = hedging(
        mock("a", Fail(ServerError("x"), delay=2)), mock("b", Answer("b", delay=3)), third,
    )
    assert await timed(ask(router, stream=stream)) == ("b", 4)
    assert third.calls == []
    assert [e.provider for e in events if isinstance(e, FailedOver)] == ["a"]
    assert outcomes(events) == [("a", "error"), ("b", "answer")]


@both
async def test_when_both_fail_the_next_candidate_is_asked(stream):
    router, events = hedging(
        mock("a", Fail(ServerError("x"), delay=2)), mock("b", Fail(ConnectionFailedError("y"), delay=3)), mock("c"),
        hedge=HedgePolicy(first_delay=1, max_hedges=3),
    )
    assert await timed(ask(router, stream=stream)) == ("c", 4)
    assert [attempt.hedge for attempt in events[-1].attempts] == [False, True, False], "nobody is late any more"
    assert [e.provider for e in events if isinstance(e, FailedOver)] == ["a", "b"]


async def test_a_hedge_that_calls_the_request_invalid_does_not_end_the_first():
    invalid = Fail(InvalidRequestError("bad field"))
    router, _ = hedging(mock("a", Answer("a", delay=3)), mock("b", invalid), hedge=HedgePolicy(first_delay=1))
    assert await router.route("x") == "a"


async def test_a_hedge_that_calls_the_request_invalid_is_the_end_once_the_first_has_failed():
    third = mock("c")
    providers = mock("a", Fail(ServerError("x"), delay=3)), mock("b", Fail(InvalidRequestError("bad"))), third
    router, _ = hedging(*providers, hedge=HedgePolicy(first_delay=1, max_hedges=3))
    with pytest.raises(InvalidRequestError, match="bad") as caught:
        await router.route("x")
    assert len(caught.value.attempts) == 2
    assert third.calls == []


@both
async def test_an_invalid_request_ends_the_hedge_too(stream):
    router, events = hedging(mock("a", Fail(InvalidRequestError("bad"), delay=2)), mock("b", Hang()))
    with pytest.raises(InvalidRequestError):
        await ask(router, stream=stream)
    assert outcomes(events) == [("a", "error"), ("b", "cancelled")]
    assert kinds(events)[-1] == "RequestEnded"
    await settle()
    check_nothing_is_left(router, events)


@both
@pytest.mark.parametrize("after", [0.5, 1, 1.25, 2, 2.5], ids=str)
async def test_a_caller_who_leaves_ends_both(stream, after):
    providers = mock("a", Fail(ServerError("x"), delay=2)), mock("b", Hang())
    router, events = hedging(*providers)
    call = asyncio.create_task(ask(router, stream=stream))
    await asyncio.sleep(after)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    ended = events[-1]
    assert isinstance(ended, RequestEnded)
    assert ended.outcome == "cancelled"
    await settle()
    check_nothing_is_left(router, events)


@both
async def test_a_caller_who_leaves_as_the_hedge_answers_is_cancelled_all_the_same(stream):
    closed = []

    class Leaves(BaseProvider):
        async def open_stream(self, request):
            await asyncio.sleep(1)
            call.cancel()  # in the very step of the hedge in which it answers
            try:
                yield TextDelta("b")
                await asyncio.sleep(100)
            finally:
                closed.append("b")

        async def complete(self, request):
            await asyncio.sleep(1)
            call.cancel()
            return await mock("b").complete(request)

    router, events = hedging(mock("a", Hang()), Leaves(ProviderConfig(name="b")))
    call = asyncio.create_task(ask(router, stream=stream))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert events[-1].outcome == "cancelled"
    await asyncio.sleep(3)
    assert closed == (["b"] if stream else [])
    check_nothing_is_left(router, events)


@both
@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_of_two_that_answer_in_the_same_instant_one_is_used(stream, order):
    closed = []

    class At(BaseProvider):
        async def open_stream(self, request):
            turn = order.index(self.name)
            try:
                await gates[turn]
                yield TextDelta(self.name)
                yield TextDelta("!")
            finally:
                closed.append(self.name)

        async def complete(self, request):
            await gates[order.index(self.name)]
            return await mock(self.name, f"{self.name}!").complete(request)

    loop = asyncio.get_running_loop()
    gates = [loop.create_future(), loop.create_future()]
    router, events = hedging(At(ProviderConfig(name="a")), At(ProviderConfig(name="b")))
    call = asyncio.create_task(read_first(router, stream=stream))
    await asyncio.sleep(2)
    for gate in gates:
        gate.set_result(None)
    assert await call == order[0]
    await settle()
    assert sorted(name for name, _ in outcomes(events)) == ["a", "b"]
    assert events[-1].outcome == ("cancelled" if stream else "answer")
    assert sorted(closed) == (["a", "b"] if stream else [])
    check_nothing_is_left(router, events)


async def read_first(router, *, stream):
    if not stream:
        return (await router.route("x"))[0]
    pieces = router.route_stream("x")
    try:
        return await anext(pieces)
    finally:
        await pieces.aclose()


class Stubborn(BaseProvider):
    """Swallows its first cancellation, and answers ``lag`` seconds later."""

    lag = 0.5

    async def complete(self, request):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(self.lag)
        return await mock(self.name, self.name).complete(request)

    async def open_stream(self, request):
        answer = await self.complete(request)
        yield TextDelta(answer.text)
        await asyncio.sleep(100)


@both
async def test_a_first_that_answers_although_cancelled_answers_too_late(stream):
    router, events = hedging(Stubborn(ProviderConfig(name="a")), mock("b", Answer("b", delay=0.5)))
    assert await timed(ask(router, stream=stream)) == ("b", 2)
    await settle()
    assert outcomes(events) == [("a", "cancelled"), ("b", "answer")]
    check_nothing_is_left(router, events)


@both
async def test_a_first_that_swallows_its_cancellation_is_cancelled_again(stream):
    first = Stubborn(ProviderConfig(name="a"))
    first.lag = 50
    router, events = hedging(first, mock("b", Answer("b", delay=0.5)))
    assert await timed(ask(router, stream=stream)) == ("b", 3.5), "after the two seconds anybody has to clean up"
    await settle()
    check_nothing_is_left(router, events)


@both
@pytest.mark.parametrize("lag", [0.5, 50])
async def test_a_hedge_that_does_not_want_to_end_delays_nobody(stream, lag):
    second = Stubborn(ProviderConfig(name="b"))
    second.lag = lag
    router, events = hedging(mock("a", Answer("a", delay=2)), second)
    assert await timed(ask(router, stream=stream)) == ("a", 2)
    assert router.snapshot()["b"].in_flight == 0
    assert len(asyncio.all_tasks()) == 3, "it and who waits for it"
    await asyncio.sleep(min(lag, 2.1))
    await settle()
    check_nothing_is_left(router, events)


async def test_closing_the_router_waits_for_the_clean_up_of_a_loser():
    cleaned = []

    class Tidy(BaseProvider):
        async def complete(self, request):
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                cleaned.append(self.name)

    router, events = hedging(mock("a", Answer("a", delay=2)), Tidy(ProviderConfig(name="b")))
    await router.route("x")
    assert cleaned == []
    await router.aclose()
    assert cleaned == ["b"]
    check_nothing_is_left(router, events)


@both
async def test_the_deadline_ends_both(stream):
    router, events = hedging(mock("a", Hang()), mock("b", Hang()), timeouts=Timeouts(total=5, attempt=9))
    with pytest.raises(TimeoutError) as caught:
        await ask(router, stream=stream)
    assert caught.value.phase == "total"
    assert asyncio.get_running_loop().time() == pytest.approx(5)
    await settle()
    check_nothing_is_left(router, events)


async def test_a_timeout_of_the_callers_own_works_through_a_race():
    router, events = hedging(mock("a", Hang()), mock("b", Answer("b", delay=1)))
    async with asyncio.timeout(10):
        assert await router.route("x") == "b"
    with pytest.raises(builtin_timeout):
        async with asyncio.timeout(1.5):
            await router.route("x")
    assert asyncio.current_task().cancelling() == 0
    await settle()
    check_nothing_is_left(router, events)


builtin_timeout = asyncio.TimeoutError


async def test_a_retry_that_waits_is_overtaken_too():
    retry = RetryPolicy(base_delay=100, max_delay=100)
    router, events = hedging(mock("a", Fail(ServerError("x"), delay=0.5)), mock("b"), retry=retry)
    assert await timed(router.route("x")) == ("b", 1)
    assert outcomes(events) == [("a", "error"), ("b", "answer")]
    check_nothing_is_left(router, events)


async def test_who_takes_no_call_now_is_passed_over():
    router, events = hedging(mock("a", Hang()), mock("b"), mock("c"), retry=RetryPolicy(budget_floor=1, budget_ratio=0))
    asyncio.get_running_loop().call_at(0.5, router.isolate, "b")
    assert await timed(router.route("x")) == ("c", 1)
    assert [e.provider for e in events if isinstance(e, Hedged)] == ["c"]


async def test_a_hedge_does_not_jump_the_queue(monkeypatch):
    # One who waits is woken as soon as there is room, so the two meet in one instant only.
    monkeypatch.setattr(Pool, "queued", lambda _, name: name == "b")
    router, _ = hedging(mock("a", Hang()), mock("b"), mock("c"))
    assert await timed(router.route("x")) == ("c", 1)


async def test_a_hedge_is_paid_for_by_the_retry_budget_of_the_late_one():
    slow, second = mock("a", Answer("a", delay=2)), mock("b", Answer("b", delay=0.5))
    router, _ = hedging(slow, second, retry=RetryPolicy(max_retries=0, budget_floor=2, budget_ratio=0))
    answers = await asyncio.gather(*(router.route("x") for _ in range(3)))
    assert sorted(answers) == ["a", "b", "b"]


async def test_a_hedge_earns_nobody_a_retry():
    flaky = mock("b", Fail(ServerError("x")), "b")
    retry = RetryPolicy(max_retries=1, base_delay=0.01, budget_floor=0, budget_ratio=1)
    router, _ = hedging(mock("a", Answer("a", delay=3)), flaky, retry=retry)
    assert await router.route("x") == "a"
    assert len(flaky.calls) == 1


async def test_who_was_not_asked_for_want_of_a_budget_is_there_for_the_failover():
    failing = mock("a", Fail(ServerError("x"), delay=2))
    router, events = hedging(failing, mock("b"), retry=RetryPolicy(max_retries=0, budget_floor=0, budget_ratio=0))
    assert await timed(router.route("x")) == ("b", 2)
    assert "Hedged" not in kinds(events)
    assert "Waiting" not in kinds(events)


async def test_a_provider_that_never_answers_is_ejected_although_it_only_loses():
    silent = mock("a", Hang())
    router, _ = hedging(silent, mock("b"), breaker=BreakerPolicy(consecutive_failures=5, break_base=1e4))
    took = []
    for _ in range(100):
        answer, seconds = await timed(router.route("x"))
        assert answer == "b"
        took.append(seconds)
    assert len(silent.calls) == 10
    assert router.snapshot()["a"].breaker == "open"
    assert router.snapshot()["a"].failures == 5
    assert took == [1] * 10 + [0] * 90


async def test_a_provider_that_is_only_late_now_and_then_is_not_ejected():
    late_often = cycling("a", *[Hang()] * 5, "a")
    router, _ = hedging(late_often, mock("b"), breaker=BreakerPolicy(consecutive_failures=5))
    for _ in range(100):
        await router.route("x")
    assert router.snapshot()["a"].breaker == "closed"
    assert router.snapshot()["a"].failures == 0


async def test_a_hedge_that_loses_after_a_short_time_says_nothing_about_its_provider():
    second = mock("b", Hang())
    router, _ = hedging(mock("a", Answer("a", delay=1.2)), second, hedge=SOON, breaker=BreakerPolicy())
    for _ in range(19):
        await router.route("x")
    assert len(second.calls) == 19
    assert (router.snapshot()["b"].failures, router.snapshot()["b"].breaker) == (0, "closed")


async def test_the_time_a_loser_was_waited_for_counts_for_its_pace():
    first = mock("a", *[Answer("a", delay=0.1)] * 20, Hang())
    router, _ = hedging(first, mock("b", Answer("b", delay=0.4)), hedge=HedgePolicy())
    for _ in range(20):
        await router.route("x")
    view = router._pool.get("a").view
    before = view.pace
    assert await router.route("x") == "b"
    assert view.pace == pytest.approx(before * 1.4, rel=0.05), "a tenth of the way to five times as slow"
    assert view.failures == 0


async def test_least_latency_turns_away_from_who_always_loses():
    first, second = mock("a", *[Answer("a", delay=0.1)] * 20, Hang()), mock("b", Answer("b", delay=0.4))
    router = Router("least-latency", [first, second], hedge=HedgePolicy(), breaker=NEVER_OPEN, retry=ENOUGH, seed=1)
    while len(first.calls) < 20:
        await router.route("x")
    asked = len(first.calls)
    for _ in range(40):
        assert await router.route("x") == "b"
    assert len(first.calls) - asked < 15


class TestPlainCallsReadAsStreams:
    async def test_are_hedged_at_the_first_token(self):
        slow = Answer("1 2", delay=0.5, pieces=["1 ", "2"], gap=10)
        second = mock("b")
        router, _ = hedging(mock("a", slow), second, stream_plain_calls=True)
        assert await timed(router.route("x")) == ("1 2", 10.5)
        assert second.calls == []

    async def test_are_read_on_after_the_hedge_has_won(self):
        long = Answer("1 2", delay=0.5, pieces=["1 ", "2"], gap=10)
        router, events = hedging(mock("a", Answer("a", delay=5)), mock("b", long), stream_plain_calls=True)
        assert await timed(router.route("x")) == ("1 2", 11.5)
        assert outcomes(events) == [("a", "cancelled"), ("b", "answer")]
        check_nothing_is_left(router, events)

    async def test_go_back_to_the_loser_when_the_winner_breaks(self):
        broken = BrokenStream(["1 "], ServerError("x"), gap=0.5)
        router, events = hedging(mock("a", Hang(), "a"), mock("b", broken), stream_plain_calls=True)
        assert await timed(router.route("x")) == ("a", 1)
        assert outcomes(events) == [("a", "cancelled"), ("b", "error"), ("a", "answer")]
        assert "Waiting" not in kinds(events)

    async def test_go_back_to_the_hedge_when_the_first_has_won_and_breaks(self):
        class Breaks(BaseProvider):
            streams_usage = True

            async def open_stream(self, request):
                await asyncio.sleep(1.5)
                yield TextDelta("1")
                raise ServerError("x")

        router, events = hedging(Breaks(ProviderConfig(name="a")), mock("b", Hang(), "b"), stream_plain_calls=True)
        assert await timed(router.route("x")) == ("b", 1.5)
        assert outcomes(events) == [("b", "cancelled"), ("a", "error"), ("b", "answer")]
        await settle()
        check_nothing_is_left(router, events)

    async def test_do_not_wait_for_a_hedge_that_was_stopped_when_the_winner_breaks(self):
        class Breaks(BaseProvider):
            streams_usage = True

            async def open_stream(self, request):
                await asyncio.sleep(1.5)
                yield TextDelta("1")
                raise ServerError("x")

        stubborn = Stubborn(ProviderConfig(name="b"))
        stubborn.lag, stubborn.streams_usage = 50, True
        router, _ = hedging(Breaks(ProviderConfig(name="a")), stubborn, mock("c"), stream_plain_calls=True)
        asyncio.get_running_loop().call_at(1.4, router.isolate, "b")
        assert await timed(router.route("x")) == ("c", 1.5)

    async def test_a_caller_who_leaves_while_the_winner_is_read_ends_it(self):
        long = Answer("1 2", delay=0.5, pieces=["1 ", "2"], gap=10)
        router, events = hedging(mock("a", Hang()), mock("b", long), stream_plain_calls=True)
        call = asyncio.create_task(router.route("x"))
        await asyncio.sleep(5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert outcomes(events) == [("a", "cancelled"), ("b", "cancelled")]
        assert [candidate.breaker.counts.calls for candidate in router._pool] == [0, 1], "the first piece is a success"
        await settle()
        check_nothing_is_left(router, events)


async def test_a_hedge_runs_in_the_context_of_its_caller():
    from contextvars import ContextVar

    who = ContextVar("who", default="nobody")
    seen = []

    class Looks(BaseProvider):
        async def generate(self, prompt, params=None):
            seen.append(who.get())
            return "b"

    router, _ = hedging(mock("a", Hang()), Looks(ProviderConfig(name="b")))

    async def caller(name):
        who.set(name)
        await router.route("x")

    await asyncio.gather(caller("first"), caller("second"))
    assert sorted(seen) == ["first", "second"]


async def test_the_bound_on_attempts_holds_with_hedges_and_retries_together():
    flaky = cycling("a", Answer("a", delay=3), Fail(ServerError("x")), Hang())
    second = cycling("b", Answer("b", delay=0.1), Fail(ServerError("y")))
    events = []
    router = Router(
        "round-robin", [flaky, second], hedge=SOON, breaker=NEVER_OPEN, seed=1, timeouts=Timeouts(total=9),
        listeners=[events.append],
    )
    calls = []
    for _ in range(2000):
        calls.append(asyncio.create_task(router.route("x")))
        await asyncio.sleep(0.02)
    await asyncio.gather(*calls, return_exceptions=True)
    extra = sum(state.hedges for state in router.snapshot().values())
    assert extra > 100
    failed_over = kinds(events).count("FailedOver")
    attempts = len(flaky.calls) + len(second.calls)
    # Over each ten seconds, and so over the whole run: a fifth of the calls, and twice the floor.
    assert attempts <= 2000 + failed_over + 0.2 * (2000 + failed_over) + 2 * 10 * (40 / 10 + 1)


async def test_without_hedging_nothing_is_measured_for_it():
    router = first_available(mock("a", Answer("a", delay=3)), mock("b"), retry=NO_RETRY)
    await router.route("x")
    assert [candidate.lateness for candidate in router._pool] == [None, None]
    assert router.snapshot()["a"].hedges == 0


def test_a_policy_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="HedgePolicy"):
        Router(hedge=True)


async def test_telemetry_names_the_provider_that_answered_not_the_one_asked_last():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from orchestrator.telemetry import OpenTelemetryListener

    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    first, second = mock("a", Answer("a", delay=1.5), Hang(), model="mock-a"), mock("b", Hang(), "b", model="mock-b")
    router = first_available(first, second, hedge=SOON, listeners=[OpenTelemetryListener(tracer_provider=tracers)])
    assert [await router.route("x"), await router.route("x")] == ["a", "b"]
    spans = exporter.get_finished_spans()
    requests = [span for span in spans if span.name.startswith("chat")]
    assert [(span.name, span.attributes["orchestrator.provider.name"]) for span in requests] == [
        ("chat mock-a", "a"), ("chat mock-b", "b"),
    ]
    assert [event.name for event in requests[0].events] == ["orchestrator.hedge"]
    attempts = [(s.name, s.attributes["orchestrator.outcome"], s.attributes.get("orchestrator.attempt.hedge"))
                for s in spans if s.name.startswith("attempt")]
    assert attempts == [
        ("attempt b", "cancelled", True), ("attempt a", "answer", None),
        ("attempt a", "cancelled", None), ("attempt b", "answer", True),
    ]


async def test_a_log_line_tells_of_a_hedge_and_of_who_answered(caplog):
    from orchestrator.telemetry import LoggingListener

    caplog.set_level("INFO", logger="orchestrator.telemetry")
    router = first_available(mock("a", Answer("a", delay=1.5)), mock("b", Hang()), hedge=SOON,
                             listeners=[LoggingListener()])
    await router.route("x")
    hedged, ended = (r for r in caplog.records if getattr(r, "llm_event", "") in ("hedged", "request_ended"))
    assert hedged.getMessage() == "request 1: no answer after 1.000 s, b is asked too"
    assert (ended.llm_provider, ended.llm_attempts) == ("a", 2)


async def test_who_was_ruled_out_meanwhile_is_not_asked_when_it_is_its_turn_again():
    long = Fail(ContextWindowExceededError("too long"), delay=2)
    small = mock("b", context_window=1000)
    router, _ = hedging(
        mock("a", long, context_window=4000), small, mock("c"), retry=RetryPolicy(budget_floor=0, budget_ratio=0),
    )
    assert await timed(router.route("x")) == ("c", 2)
    assert small.calls == []


async def test_no_hedge_is_begun_at_the_deadline():
    second = mock("b", Hang())
    router, events = hedging(mock("a", Hang()), second, hedge=HedgePolicy(first_delay=5), timeouts=Timeouts(total=5))
    with pytest.raises(TimeoutError):
        await router.route("x")
    assert "Hedged" not in kinds(events)


async def test_an_attempt_that_waits_when_another_fails_is_not_given_up_for_it():
    flaky = Fail(ServerError("x"), delay=1.5), Answer("a", delay=1)
    retry = RetryPolicy(max_retries=1, base_delay=1e-9, max_delay=1e-9)
    router, events = hedging(mock("a", *flaky), mock("b", Hang()), retry=retry)
    assert await timed(router.route("x")) == ("a", 2.5)
    assert "FailedOver" not in kinds(events)
