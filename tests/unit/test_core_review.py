"""Rare interleavings and odd providers: what must hold when a provider, a strategy or a caller does not play fair."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import traceback

import httpx
import pytest

from orchestrator import (
    AllProvidersFailedError,
    BreakerPolicy,
    CapacityError,
    Completion,
    ConnectionFailedError,
    ContentFilteredError,
    Finished,
    MalformedResponseError,
    OverloadedError,
    ProviderConfig,
    ProviderError,
    RateLimitError,
    RetryPolicy,
    Router,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    TimeoutError,
    Timeouts,
    ToolCallDelta,
)
from orchestrator.core.events import AttemptEnded, AttemptStarted, BreakerChanged, RetryScheduled
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.mock import Answer, Fail, Hang
from orchestrator.strategies.base import RoutingStrategy
from support import NEVER_OPEN, NO_RETRY, Echo, first_available, mock, pieces_of, settle

TIMES = Timeouts(connect=1, first_token=4, idle=3, total=100, attempt=20)


def provider(name: str = "a", **methods: object) -> BaseProvider:
    """A custom provider of these methods."""
    return type("Custom", (BaseProvider,), {"supports": EVERYTHING, **methods})(ProviderConfig(name=name))


async def seconds_of(awaitable) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with contextlib.suppress(Exception):
        await awaitable
    return loop.time() - begun


# ---------------------------------------------------------------------------------------------- what providers raise


async def test_a_cancellation_nobody_asked_for_is_the_providers_failure():
    async def complete(self, request):
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()  # as a token shared with a call that was cancelled
        await shared

    router = first_available(provider(complete=complete), mock("b"))
    assert await router.route("x") == "b"
    assert router.snapshot()["a"].failures == 1


async def test_a_stream_cancelled_by_its_own_provider_is_interrupted():
    async def open_stream(self, request):
        yield TextDelta("one")
        raise asyncio.CancelledError

    with pytest.raises(StreamInterruptedError) as caught:
        await pieces_of(first_available(provider(open_stream=open_stream)).route_stream("x"))
    assert caught.value.partial == "one"


async def test_a_cancelled_call_ends_although_its_provider_turns_that_into_an_error():
    async def complete(self, request):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise RuntimeError("lost my connection") from None

    second = mock("b")
    router = first_available(provider(complete=complete), second)
    task = asyncio.create_task(router.route("x"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert second.calls == []
    assert router.snapshot()["a"].failures == router.snapshot()["a"].in_flight == 0


async def test_a_key_quoted_by_a_client_library_is_in_no_traceback():
    async def complete(self, request):
        raise httpx.LocalProtocolError("Illegal header value b'Bearer sk-thesecretkey'")

    with pytest.raises(ProviderError) as caught:
        await first_available(provider(complete=complete)).route("x")
    assert "thesecretkey" not in "".join(traceback.format_exception(caught.value))


class Unprintable(Exception):
    def __str__(self):
        raise AttributeError("no text")

    @property
    def response(self):
        raise RuntimeError("no response")


@pytest.mark.parametrize(
    "error",
    [Unprintable(), RateLimitError("x", retry_after="5"), RateLimitError("x", retry_after=float("nan")),
     ServerError("x", retry_after=float("inf")), ServerError("x", retry_after=-5)],
    ids=["unprintable", "text", "nan", "inf", "negative"],
)
async def test_an_odd_error_costs_neither_the_answer_nor_the_lease(error):
    async def complete(self, request):
        raise error

    router = first_available(provider(complete=complete), mock("b"))
    for _ in range(3):
        assert await router.route("x") == "b"
    assert router.snapshot()["a"].in_flight == 0
    assert 0 <= router.snapshot()["a"].retry_after <= 300


@pytest.mark.parametrize(
    "answer",
    [Completion("x", usage={"prompt_tokens": 1}), Completion("x", usage=5), Completion("x", cost="0.1")],
    ids=["dict as usage", "number as usage", "text as cost"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_completion_with_unusable_numbers_is_malformed_and_costs_no_lease(answer, streamed):
    async def complete(self, request):
        return answer

    async def open_stream(self, request):
        yield Finished(answer)

    odd = provider(open_stream=open_stream) if streamed else provider(complete=complete)
    router = first_available(odd, mock("b"), retry=NO_RETRY)
    assert ("".join(await pieces_of(router.route_stream("x"))) if streamed else await router.route("x")) == "b"
    assert router.snapshot()["a"].in_flight == 0


async def test_tool_calls_numbered_by_something_else_are_malformed():
    async def open_stream(self, request):
        yield ToolCallDelta(0, "a", "f", "{}")
        yield ToolCallDelta("1", "b", "g", "{}")
        yield Finished(Completion(""))

    with pytest.raises(StreamInterruptedError) as caught:
        await pieces_of(first_available(provider(open_stream=open_stream)).stream("x"))
    assert isinstance(caught.value.__cause__, MalformedResponseError)


@pytest.mark.parametrize("finish_reason", ["content_filter"])
async def test_a_filtered_stream_is_not_its_own_cause(finish_reason):
    async def open_stream(self, request):
        yield TextDelta("half")
        yield Finished(Completion("", finish_reason=finish_reason))

    async def raises(self, request):
        yield TextDelta("half")
        raise ContentFilteredError("filtered")

    for stream in (open_stream, raises):
        with pytest.raises(ContentFilteredError) as caught:
            await pieces_of(first_available(provider(open_stream=stream)).route_stream("x"))
        assert caught.value.__cause__ is not caught.value


async def test_a_router_as_provider_that_fails_is_failed_over():
    inner = Router("first-available", [mock("x", Fail(ServerError("x"))), mock("y", Fail(RateLimitError("y")))],
                   retry=NO_RETRY, timeouts=Timeouts(total=1))

    async def complete(self, request):
        return await inner.complete(request.prompt)

    outer = first_available(provider(complete=complete), mock("b"))
    assert await outer.route("x") == "b"
    await inner.aclose()
    assert await outer.route("x") == "b"
    assert await first_available(provider(complete=lambda self, request: Router().complete("x")),
                                 mock("b")).route("x") == "b"


async def test_a_provider_with_a_deadline_of_its_own_is_failed_over():
    inner = Router("first-available", [mock("x", Hang())], timeouts=Timeouts(total=1))

    async def complete(self, request):
        return await inner.complete(request.prompt)

    assert await first_available(provider(complete=complete), mock("b")).route("x") == "b"


async def test_an_error_raised_again_and_again_does_not_grow():
    shared = ServerError("always the same")

    async def complete(self, request):
        raise shared

    router = first_available(provider(complete=complete), mock("b"), breaker=NEVER_OPEN, retry=NO_RETRY)
    for _ in range(50):
        await router.route("x")
    assert len(list(traceback.walk_tb(shared.__traceback__))) < 20
    alone = first_available(provider(complete=complete), breaker=NEVER_OPEN, retry=NO_RETRY)
    for _ in range(50):
        with pytest.raises(ServerError) as caught:
            await alone.route("x")
    assert len(list(traceback.walk_tb(caught.value.__traceback__))) < 20


async def test_a_shared_error_tells_each_caller_of_his_own_attempts():
    shared = ServerError("always the same")

    async def complete(self, request):
        raise shared

    router = first_available(provider(complete=complete), breaker=NEVER_OPEN, retry=NO_RETRY)
    first, second = await asyncio.gather(router.route("x"), router.route("y"), return_exceptions=True)
    assert first.attempts[0] is not second.attempts[0]


# ----------------------------------------------------------------------------------------------------- limits in time


async def test_a_provider_that_answers_although_its_first_token_limit_has_cancelled_it_leaves_no_cancellation():
    async def open_stream(self, request):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        yield TextDelta("late")
        yield Finished(Completion(""))

    router = first_available(provider(open_stream=open_stream), timeouts=TIMES)
    assert await pieces_of(router.route_stream("x")) == ["late"]
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("turns", [False, True], ids=["swallows", "turns into an error"])
async def test_a_provider_that_swallows_the_cancellation_of_its_closing_leaves_none_behind(turns):
    async def open_stream(self, request):
        try:
            yield TextDelta("one")
            yield TextDelta("two")
        finally:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                if turns:
                    raise RuntimeError("cannot close") from None

    stream = first_available(provider(open_stream=open_stream)).route_stream("x")
    await anext(stream)
    await stream.aclose()
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_provider_that_is_slow_to_clean_up_holds_nobody_beyond_the_limit_for_long(streamed):
    async def sticky():
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1000)

    async def complete(self, request):
        await sticky()

    async def open_stream(self, request):
        await sticky()
        yield

    slow = provider(open_stream=open_stream) if streamed else provider(complete=complete)
    router = first_available(slow, mock("b"), timeouts=TIMES)
    call = pieces_of(router.route_stream("x")) if streamed else router.route("x")
    assert await seconds_of(call) < (4 if streamed else 20) + 3
    assert asyncio.current_task().cancelling() == 0


async def test_a_malformed_first_piece_fails_over_although_the_stream_is_slow_to_close():
    async def open_stream(self, request):
        try:
            yield "no event"
        finally:
            await asyncio.sleep(1000)

    router = first_available(provider(open_stream=open_stream), mock("b"), retry=NO_RETRY, timeouts=TIMES)
    stream = router.stream("x")
    assert await seconds_of(anext(stream)) < 3
    events = await pieces_of(stream)
    assert isinstance(events[-1].completion.attempts[0].error, MalformedResponseError)


async def test_no_attempt_starts_after_a_wait_that_ended_too_late():
    calls = mock("a", Fail(RateLimitError("x", retry_after=2)), "a")
    events: list[object] = []
    router = first_available(calls, timeouts=Timeouts(total=3), listeners=[events.append])
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + 1, lambda: loop.advance(10))  # somebody blocks the loop
    with pytest.raises(ProviderError):
        await router.route("x")
    assert len([e for e in events if isinstance(e, AttemptStarted)]) == 1


async def test_no_attempt_starts_after_a_wait_for_room_that_ended_too_late():
    busy = mock("a", Answer("a", delay=2), max_concurrency=1)
    router = first_available(busy)
    first = asyncio.create_task(router.route("x"))
    await settle()
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + 1, lambda: loop.advance(10))
    with pytest.raises(CapacityError):
        await router.route("x", timeout=5)
    await first
    assert len(busy.calls) == 1


async def test_a_whole_answer_stays_one_when_its_stream_is_never_closed():
    router = first_available(mock("a"), timeouts=Timeouts(total=10))
    stream = router.stream("x")
    async for event in stream:
        if isinstance(event, Finished):
            break
    await asyncio.sleep(30)
    assert event.completion.attempts[0].error is None


# ------------------------------------------------------------------------------------------------------ retry, waiting


async def test_alone_means_that_nobody_else_is_back_sooner():
    limited = mock("a", Fail(OverloadedError("x", retry_after=60)))
    paused = mock("b", Fail(RateLimitError("x", retry_after=2)), "b")
    router = Router("first-available", [paused, limited])
    begun = asyncio.get_running_loop().time()
    assert await router.route("x") == "b"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(2, abs=0.01)


async def test_the_providers_own_max_retries_counts_for_a_429_too():
    limited = mock("a", Fail(RateLimitError("x")), max_retries=0)
    with pytest.raises(RateLimitError):
        await first_available(limited).route("x")
    assert len(limited.calls) == 1
    often = mock("a", Fail(RateLimitError("x")), max_retries=4)
    with pytest.raises(RateLimitError):
        await first_available(often).route("x")
    assert len(often.calls) == 5


async def test_retries_end_when_the_breaker_opens():
    events: list[object] = []
    policy = RetryPolicy(max_retries=8)
    router = first_available(
        mock("a", Fail(ServerError("x"))), mock("b"), retry=policy, listeners=[events.append],
        breaker=BreakerPolicy(consecutive_failures=2, break_base=100),
    )
    assert await router.route("x") == "b"
    opened = next(n for n, e in enumerate(events) if isinstance(e, BreakerChanged))
    assert [e for e in events[opened:] if isinstance(e, RetryScheduled)] == [
        e for e in events[opened:] if isinstance(e, RetryScheduled)
    ][:1]


async def test_an_error_keeps_its_cause_when_the_breaker_opens_meanwhile():
    cause = OSError("the wire was cut")

    async def complete(self, request):
        raise ServerError("x") from cause

    router = first_available(
        provider(complete=complete), breaker=BreakerPolicy(consecutive_failures=2, break_base=1000),
    )
    with pytest.raises(ServerError) as caught:
        await router.route("x")
    assert caught.value.__cause__ is cause


async def test_a_provider_that_left_between_two_retries_is_not_called_again():
    calls: list[str] = []

    class Leaving(Echo):
        closed = False

        async def generate(self, prompt, params=None):
            calls.append("closed" if self.closed else "open")
            raise ServerError("x")

        async def aclose(self):
            self.closed = True

    router = first_available(Leaving(ProviderConfig(name="a")), retry=RetryPolicy(base_delay=10, max_delay=10))
    task = asyncio.create_task(router.route("x"))
    await settle()
    await router.update_providers([mock("new")])
    assert await task == "new"
    assert calls == ["open"]


async def test_a_long_row_of_429s_without_a_hint_stays_a_pause():
    router = first_available(mock("a", Fail(RateLimitError("x"))), mock("b"))
    router._pool.get("a")._limited_in_a_row = 5000
    assert await router.route("x") == "b"
    assert 15 <= router.snapshot()["a"].retry_after <= 30


async def test_a_burst_of_429s_pauses_as_one_does():
    router = first_available(mock("a", Fail(RateLimitError("x"), delay=1)), mock("b"))
    await asyncio.gather(*(router.route("x") for _ in range(6)))
    assert router.snapshot()["a"].retry_after <= 1


async def test_a_raised_limit_lets_waiters_in_at_once():
    full = mock("a", Answer("a", delay=50), max_concurrency=1)
    router = first_available(full)
    tasks = [asyncio.create_task(router.route("x")) for _ in range(2)]
    await asyncio.sleep(1)
    full.config.max_concurrency = 2
    await settle()
    assert len(full.calls) == 2
    await asyncio.gather(*tasks)


async def test_waiters_are_not_woken_by_calls_of_providers_they_do_not_wait_for():
    router = first_available(mock("a", rpm_limit=1), Echo(ProviderConfig(name="b")))
    conversation = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
    await router.complete(conversation)
    waiting = asyncio.create_task(router.complete(conversation))
    await settle()
    looked = 0
    plain = router._pool.ready

    def ready(at):
        nonlocal looked
        looked += 1
        return plain(at)

    router._pool.ready = ready
    for _ in range(20):
        await router.route("x")
        await settle()
    assert looked == 20
    assert (await waiting).provider == "a"


async def test_one_place_that_gets_free_wakes_one_waiter_not_all():
    router = first_available(mock("a", Answer("a", delay=1), max_concurrency=1), timeouts=Timeouts(total=1000))
    looked = 0
    plain = router._pool.ready

    def ready(at):
        nonlocal looked
        looked += 1
        return plain(at)

    router._pool.ready = ready
    assert await asyncio.gather(*(router.route("x") for _ in range(100))) == ["a"] * 100
    assert looked <= 300


async def test_a_free_place_is_passed_on_by_a_waiter_that_is_cancelled_as_it_wakes():
    def cancel_the_woken_one(event):
        if isinstance(event, AttemptEnded):
            tasks[1].cancel()

    router = first_available(
        mock("a", Answer("a", delay=1), max_concurrency=1), timeouts=Timeouts(total=1000),
        listeners=[cancel_the_woken_one],
    )
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(router.route("x")) for _ in range(3)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [False, True, False]
    assert loop.time() == pytest.approx(2)


async def test_places_of_calls_that_end_together_wake_as_many_waiters():
    router = first_available(mock("a", Answer("a", delay=1), max_concurrency=5), timeouts=Timeouts(total=1000))
    await asyncio.gather(*(router.route("x") for _ in range(25)))
    assert asyncio.get_running_loop().time() == pytest.approx(5)


async def test_a_returning_provider_gets_its_share_under_round_robin_too():
    flaky = mock("a", Fail(ServerError("x")), "a")
    policy = BreakerPolicy(consecutive_failures=1, break_base=1, break_jitter=0, ramp=1000)
    router = Router("round-robin", [flaky, mock("b")], seed=1, breaker=policy, retry=NO_RETRY)
    await router.route("x")
    await asyncio.sleep(1.1)
    while router.snapshot()["a"].breaker != "ramp":
        await router.route("x")
    before = len(flaky.calls)
    for _ in range(400):
        await router.route("x")
    assert len(flaky.calls) - before < 60


async def test_refused_without_an_attempt_is_not_called_a_failed_attempt():
    router = first_available(mock("a", rpm_limit=1), mock("b"), timeouts=Timeouts(total=5))
    assert await router.route("x") == "a"
    router.isolate("b")
    with pytest.raises(AllProvidersFailedError) as caught:
        await router.route("x")
    assert "attempts failed" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- strategies, swaps


class Order(RoutingStrategy):
    def __init__(self, function):
        self.function = function

    def order(self, candidates, request):
        return self.function(candidates)


async def test_a_strategy_that_yields_names_or_never_ends_costs_no_answer():
    def names(candidates):
        return [candidate.name for candidate in candidates]

    def endless(candidates):
        while True:
            yield candidates[0]

    for order in (names, endless):
        assert await Router(Order(order), [mock("a", Fail(ProviderError("x"))), mock("b")]).route("x") == "b"


async def test_a_swap_with_something_that_is_no_provider_changes_nothing():
    router = first_available(mock("a"))
    for wrong in (object(), Echo):
        with pytest.raises(TypeError, match="BaseProvider"):
            await router.update_providers([mock("b"), wrong])
        assert list(router.snapshot()) == ["a"]


async def test_providers_left_to_close_are_closed_after_a_cancelled_close():
    closed: list[str] = []

    class Slow(Echo):
        async def aclose(self):
            if self.name == "a":
                await asyncio.sleep(100)
            closed.append(self.name)

    router = Router(providers=[Slow(ProviderConfig(name=name)) for name in "abc"])
    task = asyncio.create_task(router.update_providers([]))
    await asyncio.sleep(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await router.aclose()
    assert closed == ["b", "c"]


# ------------------------------------------------------------------------------------------------- shapes of providers


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_an_answered_request_leaves_nothing_to_the_garbage_collector(streamed):
    async def complete(self, request):
        raise ServerError("x")

    async def foreign(self, request):
        raise KeyError("x")

    router = first_available(
        provider(complete=complete), provider("f", complete=foreign), mock("b"), retry=NO_RETRY, breaker=NEVER_OPEN,
    )

    async def ask():
        return await (pieces_of(router.route_stream("x")) if streamed else router.route("x"))

    await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await ask()
        assert gc.collect() < 100  # what a provider's own frames may hold
    finally:
        gc.enable()


async def test_a_plain_call_needs_no_more_of_a_stream_than_a_streamed_one():
    class Iterator:
        def __init__(self):
            self.events = iter([TextDelta("whole"), Finished(Completion(""))])

        def __aiter__(self):
            return self

        async def __anext__(self):
            try:
                return next(self.events)
            except StopIteration:
                raise StopAsyncIteration from None

    async def fragile(self, request):
        try:
            yield TextDelta("whole")
            yield Finished(Completion(""))
        finally:
            raise RuntimeError("cannot close")

    async def lingering(self, request):
        yield TextDelta("whole")
        yield Finished(Completion(""))
        await asyncio.sleep(1000)

    for stream in (lambda self, request: Iterator(), fragile, lingering):
        router = first_available(provider(open_stream=stream), timeouts=TIMES, retry=NO_RETRY)
        assert await pieces_of(router.route_stream("x")) == ["whole"]
        assert await router.route("x") == "whole"
        assert asyncio.get_running_loop().time() < 1


async def test_a_timeout_that_is_no_number_is_refused_by_name():
    from orchestrator import InvalidRequestError

    with pytest.raises(InvalidRequestError, match="timeout"):
        await first_available(mock("a")).route("x", timeout="5")


async def test_a_group_of_one_error_is_that_error():
    async def complete(self, request):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            raise ConnectionFailedError("cut")

    with pytest.raises(ConnectionFailedError):
        await first_available(provider(complete=complete), retry=NO_RETRY).route("x")


async def test_a_final_timeout_is_told_as_such():
    with pytest.raises(TimeoutError):
        await first_available(mock("a", Hang())).route("x", timeout=1)
