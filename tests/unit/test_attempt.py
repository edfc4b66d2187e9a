"""One attempt and its guards: limits in time, whose fault a timeout is, cancellation, entering, what is recorded."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from orchestrator import (
    BreakerPolicy,
    Completion,
    ContentFilteredError,
    Finished,
    MalformedResponseError,
    ProviderConfig,
    ProviderError,
    ReasoningDelta,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    TimeoutError,
    Timeouts,
    ToolCallDelta,
    Usage,
)
from orchestrator.core.events import AttemptEnded, AttemptOpened
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from support import NEVER_OPEN, NO_RETRY, Echo, first_available, mock, pieces_of, settle

TIMES = Timeouts(connect=1, first_token=4, idle=3, total=100, attempt=20)


class Stream(BaseProvider):
    """Plays events: seconds to wait, texts, errors to raise, events."""

    supports = EVERYTHING

    def __init__(self, name, *steps, finish=None):
        super().__init__(ProviderConfig(name=name))
        self.steps = steps
        self.finish = finish or Finished(Completion(""))
        self.closed = 0

    async def open_stream(self, request):
        try:
            for step in self.steps:
                if isinstance(step, int | float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield TextDelta(step) if isinstance(step, str) else step
            yield self.finish
        finally:
            self.closed += 1


async def elapsed(awaitable) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(ProviderError):
        await awaitable
    return loop.time() - begun


async def test_a_plain_call_has_the_attempt_limit_and_then_fails_over():
    loop = asyncio.get_running_loop()
    router = first_available(mock("a", Hang()), mock("b"), timeouts=TIMES)
    answer = await router.complete("x")
    assert answer.text == "b"
    assert loop.time() == pytest.approx(20, abs=0.01)
    assert answer.attempts[0].error.phase == "attempt"
    assert answer.latency == pytest.approx(20, abs=0.01)


async def test_the_providers_own_timeout_caps_its_attempts():
    router = first_available(mock("a", Hang(), timeout=7), timeouts=TIMES)
    assert await elapsed(router.route("x")) == pytest.approx(7, abs=0.01)
    stream = first_available(mock("a", Hang(), timeout=2), timeouts=TIMES).route_stream("x")
    assert await elapsed(anext(stream)) == pytest.approx(2, abs=0.01)


async def test_a_plain_call_read_as_a_stream_notices_silence_early_and_fails_over():
    loop = asyncio.get_running_loop()
    silent = mock("a", Hang())
    router = first_available(silent, mock("b"), timeouts=TIMES, stream_plain_calls=True)
    answer = await router.complete("x")
    assert (answer.text, answer.attempts[0].error.phase) == ("b", "first_token")
    assert loop.time() == pytest.approx(4, abs=0.01)
    stalls = mock("a", Hang(pieces=["half "]))
    router = first_available(stalls, mock("b"), timeouts=TIMES, stream_plain_calls=True)
    answer = await router.complete("x")
    assert (answer.text, answer.attempts[0].error.phase) == ("b", "idle")
    assert loop.time() == pytest.approx(7, abs=0.01)
    assert router.snapshot()["a"].in_flight == 0


async def test_a_plain_call_read_as_a_stream_gives_the_same_answer_and_more():
    step = Answer("Hello there", delay=1, pieces=["Hello ", "there"], gap=2, usage=Usage(3, 2))
    answer = await first_available(mock("a", step), stream_plain_calls=True).complete("x")
    assert (answer.text, answer.usage, answer.provider) == ("Hello there", Usage(3, 2), "a")
    assert answer.time_to_first_token == pytest.approx(1, abs=0.01)
    assert answer.latency == pytest.approx(3, abs=0.01)


async def test_a_plain_call_read_as_a_stream_retries_what_a_plain_call_would():
    broken = [BrokenStream(["half"], ServerError("x")), "whole"]
    answer = await first_available(mock("a", *broken), stream_plain_calls=True).complete("x")
    assert answer.text == "whole"
    assert [type(attempt.error) for attempt in answer.attempts] == [ServerError, type(None)]


async def test_a_provider_that_tells_no_usage_in_streams_is_asked_plainly():
    provider = mock("a")
    provider.streams_usage = False
    answer = await first_available(provider, stream_plain_calls=True).complete("x")
    assert answer.time_to_first_token is None


async def test_cancelling_a_plain_call_read_as_a_stream_leaves_nothing():
    router = first_available(mock("a", Hang(pieces=["half "])), timeouts=TIMES, stream_plain_calls=True)
    task = asyncio.create_task(router.route("x"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert router.snapshot()["a"].in_flight == 0
    assert router.snapshot()["a"].failures == 0
    assert len(router._watch) == 0


async def test_a_stream_has_a_first_token_limit_and_then_fails_over():
    loop = asyncio.get_running_loop()
    router = first_available(Stream("a", 50, "late"), Stream("b", "in time"), timeouts=TIMES)
    assert await pieces_of(router.route_stream("x")) == ["in time"]
    assert loop.time() == pytest.approx(4, abs=0.01)


async def test_a_silence_between_two_pieces_interrupts():
    provider = Stream("a", "one", 2.9, "two", 3.1, "three")
    router = first_available(provider, timeouts=TIMES)
    seen = []
    with pytest.raises(StreamInterruptedError) as caught:
        async for piece in router.route_stream("x"):
            seen.append(piece)  # what was seen before the error is the point
    assert seen == ["one", "two"]
    assert caught.value.__cause__.phase == "idle"
    assert provider.closed == 1
    assert router.snapshot()["a"].failures == 1


async def test_the_readers_own_slowness_is_not_the_providers_silence():
    router = first_available(Stream("a", "one", "two", "three"), timeouts=TIMES)
    seen = []
    async for piece in router.route_stream("x"):
        seen.append(piece)
        await asyncio.sleep(20)
    assert seen == ["one", "two", "three"]
    assert router.snapshot()["a"].latency_p99 < 1


async def test_the_time_a_stream_took_is_what_its_provider_was_waited_for():
    router = first_available(Stream("a", 1, "one", 2, "two", 1), timeouts=TIMES)
    async for _ in router.route_stream("x"):
        await asyncio.sleep(10)
    assert router.snapshot()["a"].latency_p50 == pytest.approx(4, rel=0.1)


async def test_a_slow_stream_is_judged_by_its_first_piece_not_by_its_reader():
    policy = BreakerPolicy(slow_call=2, min_calls=2, slow_ratio=1)
    for first_piece, state in ((1, "closed"), (3, "open")):
        router = first_available(Stream("a", first_piece, "one"), timeouts=TIMES, breaker=policy)
        for _ in range(2):
            async for _ in router.route_stream("x"):
                await asyncio.sleep(10)
        assert router.snapshot()["a"].breaker == state


async def test_a_providers_own_timeout_caps_a_whole_stream():
    provider = Stream("a", *["x", 2] * 20)
    provider.config.timeout = 9
    with pytest.raises(StreamInterruptedError):
        await pieces_of(first_available(provider, timeouts=TIMES).route_stream("x"))
    assert asyncio.get_running_loop().time() == pytest.approx(9, abs=0.1)


async def test_the_deadline_interrupts_a_stream_that_is_still_writing():
    router = first_available(Stream("a", *["x", 2] * 100), timeouts=TIMES)
    with pytest.raises(StreamInterruptedError) as caught:
        await pieces_of(router.route_stream("x", timeout=9))
    assert caught.value.__cause__.phase == "total"
    assert caught.value.partial == "xxxxx"


@pytest.mark.parametrize(
    ("timeout", "total", "blamed"),
    [(2, 100, False), (9.9, 100, False), (10.1, 100, True), (None, 12, True)],
    ids=["the caller was in a hurry", "less than half of the time", "a fair chance", "the configured deadline"],
)
async def test_whose_fault_the_deadline_is(timeout, total, blamed):
    times = Timeouts(total=total, attempt=20)
    router = first_available(mock("a", Hang()), timeouts=times)
    with pytest.raises(TimeoutError) as caught:
        await router.route("x", timeout=timeout)
    assert caught.value.phase == "total"
    assert router.snapshot()["a"].failures == int(blamed)


async def test_short_timeouts_of_callers_never_open_the_breaker():
    policy = BreakerPolicy(consecutive_failures=3)
    router = first_available(mock("a", Hang()), breaker=policy, timeouts=TIMES)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await router.route("x", timeout=0.5)
    assert router.snapshot()["a"].breaker == "closed"


async def test_a_provider_that_answers_although_it_was_cancelled_has_answered():
    class Stubborn(BaseProvider):
        async def generate(self, prompt, params=None):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                return "after all"

    assert await first_available(Stubborn(ProviderConfig(name="a")), timeouts=TIMES).route("x") == "after all"
    assert asyncio.current_task().cancelling() == 0


async def test_a_provider_that_turns_its_cancellation_into_an_error_still_timed_out():
    class Turns(BaseProvider):
        async def generate(self, prompt, params=None):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                raise RuntimeError("lost my connection") from None

    with pytest.raises(TimeoutError):
        await first_available(Turns(ProviderConfig(name="a")), timeouts=TIMES).route("x")
    assert asyncio.current_task().cancelling() == 0


async def test_cancelling_a_call_is_nobodys_fault():
    events: list[object] = []
    router = first_available(mock("a", Hang()), mock("b"), listeners=[events.append])
    task = asyncio.create_task(router.route("x"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    snapshot = router.snapshot()
    assert (snapshot["a"].in_flight, snapshot["a"].failures, snapshot["b"].requests) == (0, 0, 0)
    assert [event.outcome for event in events if isinstance(event, AttemptEnded)] == ["cancelled"]


@pytest.mark.parametrize("value", [None, 5, b"bytes", "", Completion(""), Completion(None), [1]], ids=repr)
async def test_what_is_no_text_is_no_answer(value):
    class Odd(BaseProvider):
        async def complete(self, request):
            return value if not isinstance(value, str | bytes) else Completion(value)

    with pytest.raises(MalformedResponseError):
        await first_available(Odd(ProviderConfig(name="odd")), retry=NO_RETRY).route("x")


async def test_an_empty_text_at_the_token_limit_is_an_answer():
    router = first_available(mock("a", Completion("", finish_reason="length")))
    assert (await router.complete("x")).finish_reason == "length"


async def test_a_filtered_answer_is_an_error_plain_and_streamed():
    filtered = Finished(Completion("", finish_reason="content_filter"))
    with pytest.raises(ContentFilteredError):
        await first_available(Stream("a", finish=filtered)).route("x")
    with pytest.raises(ContentFilteredError) as caught:
        await pieces_of(first_available(Stream("a", "half of", finish=filtered)).route_stream("x"))
    assert caught.value.partial == "half of"


@pytest.mark.parametrize("steps", [(), (ServerError("x"),), (5, RuntimeError("x"))], ids=["empty", "error", "bug"])
async def test_a_stream_that_breaks_before_its_first_piece_fails_over_unnoticed(steps):
    broken = Stream("a", *steps)
    router = first_available(broken, Stream("b", "b"), retry=NO_RETRY, timeouts=Timeouts(first_token=10))
    assert await pieces_of(router.route_stream("x")) == ["b"]
    assert broken.closed == 1


async def test_the_events_of_a_stream_end_with_the_whole_answer():
    events = [ReasoningDelta("hm"), "Hel", "lo", ToolCallDelta(0, "id", "f", '{"a":'), ToolCallDelta(0, arguments="1}")]
    finish = Finished(Completion("", finish_reason="tool_calls", usage=Usage(3, 2)))
    router = first_available(Stream("a", 1, *events, 1, finish=finish))
    seen = await pieces_of(router.stream("x"))
    answer = seen[-1].completion
    assert len(seen) == 6
    assert (answer.text, answer.reasoning, answer.provider) == ("Hello", "hm", "a")
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("id", "f", '{"a":1}')]
    assert answer.time_to_first_token == pytest.approx(1, abs=0.01)
    assert answer.latency == pytest.approx(2, abs=0.01)
    assert answer.attempts[0].usage == Usage(3, 2)


async def test_time_to_first_token_counts_from_the_callers_call():
    router = first_available(mock("a", Fail(ServerError("x"), delay=2)), Stream("b", 1, "b"), retry=NO_RETRY)
    answer = (await pieces_of(router.stream("x")))[-1].completion
    assert answer.time_to_first_token == pytest.approx(3, abs=0.01)
    assert answer.attempts[1].time_to_first_token == pytest.approx(1, abs=0.01)


async def test_a_reader_who_leaves_closes_the_stream_and_blames_nobody():
    provider = Stream("a", "one", 1, "two")
    events: list[object] = []
    router = first_available(provider, listeners=[events.append])
    stream = router.route_stream("x")
    await anext(stream)
    await stream.aclose()
    assert provider.closed == 1
    assert router.snapshot()["a"].failures == router.snapshot()["a"].in_flight == 0
    assert [type(event).__name__ for event in events][-3:] == ["AttemptOpened", "AttemptEnded", "RequestEnded"]
    assert events[-1].outcome == "cancelled"


async def test_cancelling_a_reader_closes_the_stream():
    provider = Stream("a", "one", 100, "two")
    router = first_available(provider, timeouts=Timeouts(idle=1000, total=1000))
    task = asyncio.create_task(pieces_of(router.route_stream("x")))
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (provider.closed, router.snapshot()["a"].in_flight) == (1, 0)
    assert len(router._watch) == 0


async def test_a_provider_that_hangs_while_closing_does_not_hold_the_reader_for_ever():
    class Sticky(BaseProvider):
        async def open_stream(self, request):
            try:
                yield TextDelta("x")
                yield TextDelta("y")
            finally:
                await asyncio.sleep(1000)

    stream = first_available(Sticky(ProviderConfig(name="a"))).route_stream("x")
    await anext(stream)
    begun = asyncio.get_running_loop().time()
    await stream.aclose()
    assert asyncio.get_running_loop().time() - begun < 5
    assert asyncio.current_task().cancelling() == 0


async def test_a_provider_that_fails_while_closing_changes_nothing():
    class Fragile(BaseProvider):
        async def open_stream(self, request):
            try:
                yield TextDelta("x")
                yield Finished(Completion(""))
            finally:
                raise RuntimeError("cannot close")

    router = first_available(Fragile(ProviderConfig(name="a")))
    assert await pieces_of(router.route_stream("x")) == ["x"]


async def test_a_stream_may_be_read_by_one_task_after_the_other():
    stream = first_available(Stream("a", "one", 1, "two", 50, "three"), timeouts=TIMES).route_stream("x")
    assert await asyncio.create_task(anext(stream)) == "one"
    assert await asyncio.create_task(anext(stream)) == "two"
    with pytest.raises(StreamInterruptedError):
        await asyncio.create_task(anext(stream))


async def test_a_stream_that_goes_on_although_it_was_cancelled_is_guarded_as_before():
    class Stubborn(BaseProvider):
        async def open_stream(self, request):
            yield TextDelta("one")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
            yield TextDelta("two")
            yield TextDelta("three")
            await asyncio.sleep(1000)

    seen = []

    async def read():
        async for piece in first_available(Stubborn(ProviderConfig(name="a")), timeouts=TIMES).route_stream("x"):
            seen.append(piece)

    with pytest.raises(StreamInterruptedError) as caught:
        await read()
    assert seen == ["one", "two", "three"]
    assert caught.value.__cause__.phase == "idle"
    assert asyncio.current_task().cancelling() == 0
    assert asyncio.get_running_loop().time() == pytest.approx(6, abs=0.1)


async def test_an_answer_a_provider_keeps_and_returns_again_is_not_written_over():
    kept = Completion("kept")

    class Caching(BaseProvider):
        async def complete(self, request):
            return kept

    router = first_available(Caching(ProviderConfig(name="a")))
    first = await router.complete("x")
    second = await router.complete("y")
    assert first is not second
    assert first.attempts[0] is not second.attempts[0]


async def test_what_is_no_stream_event_is_the_providers_failure():
    router = first_available(Stream("a", "one", object()))
    with pytest.raises(StreamInterruptedError, match="no stream event"):
        await pieces_of(router.route_stream("x"))


async def test_a_provider_is_entered_once_before_its_first_call_and_again_after_it_failed():
    class Entering(Echo):
        entered = 0
        fails = 1

        async def __aenter__(self):
            await asyncio.sleep(1)
            if self.fails:
                self.fails -= 1
                raise RuntimeError("not yet")
            self.entered += 1
            return self

    provider = Entering(ProviderConfig(name="a"))
    router = first_available(provider, mock("b"), retry=NO_RETRY)
    assert await router.route("x") == "b"
    assert await asyncio.gather(*(router.route("x") for _ in range(5))) == ["a: x"] * 5
    assert provider.entered == 1


async def test_first_piece_and_end_are_told_to_listeners_with_their_times():
    events: list[object] = []
    router = first_available(Stream("a", 2, "one", 1), listeners=[events.append], breaker=NEVER_OPEN)
    await pieces_of(router.route_stream("x"))
    await settle()
    opened = [event for event in events if isinstance(event, AttemptOpened)]
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert [event.time_to_first_token for event in opened] == [pytest.approx(2)]
    assert [event.attempt.duration for event in ended] == [pytest.approx(3)]
    assert ended[0].completion.text == "one"


async def test_two_calls_do_not_share_a_limit():
    router = first_available(mock("a", Answer("slow", delay=15), Answer("fast", delay=1)), timeouts=TIMES)
    assert await asyncio.gather(router.route("x"), router.route("y")) == ["slow", "fast"]
