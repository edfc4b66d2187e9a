"""Pieces that come together are handed on together: none is lost, none overtakes an error, and each limit holds."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress

import pytest

from fake_http import FakeHttp, frame, streamed
from orchestrator import (
    BaseProvider,
    Completion,
    Finished,
    ProviderConfig,
    ReasoningDelta,
    Request,
    TextDelta,
    Timeouts,
    ToolCallDelta,
    Usage,
)
from orchestrator.core import accumulate
from orchestrator.core.errors import (
    MalformedResponseError,
    ProviderError,
    ServerError,
    StreamInterruptedError,
    TimeoutError,
)
from orchestrator.core.events import AttemptEnded, RequestEnded
from orchestrator.providers import OpenAICompatibleProvider
from orchestrator.providers._batches import MOST, Batches, batches_of, in_batches
from support import first_available, mock, pieces_of

END = Finished(Completion(""))


def texts(words):
    return [TextDelta(word) for word in words]


class Together(BaseProvider):
    """Plays batches of events; a number is a wait in seconds, an exception is raised."""

    def __init__(self, *script, **config):
        super().__init__(ProviderConfig(**({"name": "a"} | config)))
        self.script = script
        self.closed = 0

    @in_batches
    async def open_stream(self, request):
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, list):
                    yield list(step)
                else:
                    await asyncio.sleep(step)
        finally:
            self.closed += 1


class Flood(BaseProvider):
    """Brings one piece after the other without a wait; each takes ``step`` seconds of the processor."""

    def __init__(self, step, together=1, **config):
        super().__init__(ProviderConfig(name="a", **config))
        self.step = step
        self.together = together

    async def open_stream(self, request):
        loop = asyncio.get_running_loop()
        while True:
            loop.advance(self.step)
            yield TextDelta("x")


class FloodOfBatches(Flood):
    @in_batches
    async def open_stream(self, request):
        async for event in super().open_stream(request):
            yield [event] * self.together


async def read_until_it_breaks(stream, act=None):
    given = []
    with pytest.raises(StreamInterruptedError) as caught:
        async with aclosing(stream):
            async for piece in stream:
                given.append(piece)
                if act is not None:
                    await act()
    return given, caught.value


# Limits in time


@pytest.mark.parametrize("kind", [Flood, FloodOfBatches])
async def test_an_endless_flood_of_pieces_ends_at_the_deadline(kind):
    router = first_available(kind(1.0), timeouts=Timeouts(total=10, idle=5))
    given, error = await read_until_it_breaks(router.route_stream("?"))
    assert len(given) == 10
    assert error.partial == "x" * 10
    assert isinstance(error.__cause__, TimeoutError)
    assert error.__cause__.phase == "total"
    assert asyncio.current_task().cancelling() == 0
    assert router.snapshot()["a"].in_flight == 0


async def test_it_ends_at_the_limit_of_the_provider_too():
    router = first_available(Flood(1.0, timeout=4))
    given, error = await read_until_it_breaks(router.route_stream("?"))
    assert len(given) == 4
    assert error.__cause__.phase == "idle"


async def test_within_one_batch_the_deadline_returns_the_lease_and_what_has_come_is_still_handed_out():
    provider = Together(texts("abcdef"), 1000)
    router = first_available(provider, timeouts=Timeouts(total=10))
    in_flight = []

    async def slowly():
        await asyncio.sleep(4)
        in_flight.append(router.snapshot()["a"].in_flight)

    given, error = await read_until_it_breaks(router.route_stream("?"), slowly)
    assert given == list("abcdef")
    assert error.partial == "abcdef"
    assert error.__cause__.phase == "total"
    assert in_flight == [1, 1, 0, 0, 0, 0]
    assert provider.closed == 1


async def test_a_reader_who_takes_the_last_batch_beyond_the_deadline_gets_an_error_and_the_attempt_ends_once():
    told = []
    router = first_available(
        Together([*texts("ab"), END]), timeouts=Timeouts(total=10), listeners=[told.append]
    )
    given, error = await read_until_it_breaks(router.route_stream("?"), lambda: asyncio.sleep(8))
    assert given == ["a", "b"]
    assert error.__cause__.phase == "total"
    assert [event.outcome for event in told if isinstance(event, AttemptEnded | RequestEnded)] == ["error", "error"]


async def test_between_two_batches_the_idle_limit_runs_and_time_of_the_reader_does_not_count():
    router = first_available(Together(texts("ab"), 4, texts("c"), 6, texts("d")), timeouts=Timeouts(idle=5))
    given, error = await read_until_it_breaks(router.route_stream("?"), lambda: asyncio.sleep(10))
    assert given == ["a", "b", "c"]
    assert error.__cause__.phase == "idle"


async def test_who_swallows_its_cancellation_at_the_deadline_is_cut_there_all_the_same():
    class Stubborn(BaseProvider):
        async def open_stream(self, request):
            yield TextDelta("a")
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                yield TextDelta("b")
            await asyncio.sleep(100)

    router = first_available(Stubborn(ProviderConfig(name="a")), timeouts=Timeouts(total=10, idle=50))
    loop, in_flight = asyncio.get_running_loop(), {}

    async def look():
        await asyncio.sleep(0.5)
        in_flight[loop.time()] = router.snapshot()["a"].in_flight

    given, error = await read_until_it_breaks(router.route_stream("?"), look)
    assert given == ["a", "b"]
    assert error.__cause__.phase == "total"
    assert in_flight == {0.5: 1, 10.5: 0}
    assert asyncio.current_task().cancelling() == 0


async def test_a_cancellation_that_the_reader_has_swallowed_is_not_taken_back_by_a_stream_that_lapsed():
    pieces = first_available(Together(texts("a"), texts("b"), [END]), timeouts=Timeouts(total=5)).route_stream("?")
    task = asyncio.current_task()
    assert await anext(pieces) == "a"
    await asyncio.sleep(6)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    with pytest.raises(StreamInterruptedError) as broken:
        await anext(pieces)
    assert (task.cancelling(), broken.value.__cause__.phase) == (1, "total")
    task.uncancel()


# Leaving and errors


async def test_who_leaves_or_is_cancelled_in_the_middle_of_a_batch_gives_everything_back():
    told = []
    provider = Together([*texts("abcdef"), END])
    router = first_available(provider, listeners=[told.append])
    async with aclosing(router.stream("?")) as events:
        assert await anext(events) == TextDelta("a")
        assert await anext(events) == TextDelta("b")

    async def read():
        async for _ in router.route_stream("?"):
            await asyncio.sleep(10)

    task = asyncio.create_task(read())
    await asyncio.sleep(15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # the loop closes what nobody reads any more
    await asyncio.sleep(0)
    assert router.snapshot()["a"].in_flight == 0
    assert provider.closed == 2
    assert [event.outcome for event in told if isinstance(event, AttemptEnded | RequestEnded)] == ["cancelled"] * 4


async def test_an_error_in_the_provider_comes_after_all_pieces_before_it():
    router = first_available(Together(texts("ab"), ServerError("boom")))
    given, error = await read_until_it_breaks(router.route_stream("?"))
    assert (given, error.partial) == (["a", "b"], "ab")
    assert isinstance(error.__cause__, ServerError)


async def test_the_piece_that_is_one_too_many_costs_none_of_those_before_it(monkeypatch):
    monkeypatch.setattr(accumulate, "MAX_TEXT", 100)
    provider = Together(texts(["x" * 20] * 4), 1, [END])
    given, error = await read_until_it_breaks(first_available(provider).route_stream("?"))
    assert [len(piece) for piece in given] == [20, 20]
    assert error.partial == "x" * 40
    assert "longer than 100 characters" in str(error)
    assert error.__cause__.provider == "a"


async def test_what_was_refused_in_a_batch_is_not_forgotten_with_it(monkeypatch):
    monkeypatch.setattr(accumulate, "MAX_CALLS", 1)
    router = first_available(Together([TextDelta("a"), ToolCallDelta(0), ToolCallDelta(1)], [END]))
    given, error = await read_until_it_breaks(router.stream("?"))
    assert given == [TextDelta("a"), ToolCallDelta(0)]
    assert "more than 1 tool calls" in str(error)


async def test_pieces_that_fail_at_once_fail_the_opening(monkeypatch):
    monkeypatch.setattr(accumulate, "MAX_TEXT", 30)
    alone = first_available(Together(texts(["x" * 20]), texts("a")))
    with pytest.raises(MalformedResponseError, match="longer than 30 characters"):
        await pieces_of(alone.route_stream("?"))
    router = first_available(Together(texts(["x" * 20])), mock("b", "b"))
    assert await pieces_of(router.route_stream("?")) == ["b"]


# What comes out


async def test_all_that_came_is_handed_out_in_order_and_the_end_alone():
    script = [[ReasoningDelta("r"), *texts("ab")], texts("c"), [TextDelta("d"), END]]
    router = first_available(Together(*script))
    *events, last = await pieces_of(router.stream("?"))
    assert events == [ReasoningDelta("r"), *texts("abcd")]
    assert (last.completion.text, last.completion.reasoning) == ("abcd", "r")
    assert await pieces_of(router.route_stream("?")) == list("abcd")


async def test_a_reader_of_text_waits_for_the_first_batch_that_has_some():
    router = first_available(
        Together([ReasoningDelta("r")], 1, [ReasoningDelta("r"), *texts("ab")], [END]), mock("b", "b")
    )
    assert await pieces_of(router.route_stream("?")) == ["a", "b"]
    fails_before = Together([ReasoningDelta("r")], ServerError("boom"))
    assert await pieces_of(first_available(fails_before, mock("b", "b")).route_stream("?")) == ["b"]


@pytest.mark.parametrize("before", [[], [[ReasoningDelta("r")]]], ids=["at once", "after a thought"])
async def test_a_reader_of_text_is_told_that_there_was_none(before):
    router = first_available(Together(*before, [Finished(Completion("", finish_reason="length"))]))
    async with asyncio.timeout(5):
        assert await pieces_of(router.route_stream("?")) == []


async def test_a_plain_call_may_be_read_as_a_stream_of_batches():
    provider = Together(texts("ab"), [TextDelta("c"), Finished(Completion("", usage=Usage(1, 3)))])
    provider.streams_usage = True
    router = first_available(provider, stream_plain_calls=True)
    assert await router.route("?") == "abc"


@pytest.mark.parametrize("mode", ["restart", "continue"])
async def test_a_stream_of_batches_that_broke_is_recovered(mode):
    line = "".join(map(chr, range(ord("a"), ord("z"))))
    broken = Together(texts(line), ServerError("boom"))
    whole = Together([*texts(line + "!?"), END], name="b")
    router = first_available(broken, whole, recovery=mode)
    assert "".join(await pieces_of(router.route_stream("?"))) == line + "!?"


async def test_a_new_answer_that_differs_within_a_batch_is_handed_out_up_to_there():
    broken = Together(texts("ab"), ServerError("boom"))
    other = Together([*texts("abcd")[:1], *texts("XYZ"), END], name="b")
    router = first_available(broken, other, recovery="restart")
    given, error = await read_until_it_breaks(router.route_stream("?"))
    assert given == ["a", "b"]
    assert "does not begin with the text" in error.__notes__[0]


# Without a router


async def test_whoever_knows_no_batches_gets_one_event_after_the_other():
    class Shouting(Together):
        async def open_stream(self, request):
            async for event in super().open_stream(request):
                yield TextDelta(event.text.upper()) if isinstance(event, TextDelta) else event

    provider = Shouting(texts("ab"), [TextDelta("c"), END])
    assert await pieces_of(provider.open_stream(Request("?"))) == [*texts("ABC"), END]
    assert await first_available(provider).route("?") == "ABC"


async def test_a_stream_is_closed_before_it_began_in_its_midst_and_when_it_is_forgotten():
    provider = Together(texts("ab"), texts("c"), [END])
    await provider.open_stream(Request("?")).aclose()
    assert provider.closed == 0
    async with aclosing(provider.open_stream(Request("?"))) as events:
        assert await anext(events) == TextDelta("a")
    assert provider.closed == 1
    events = provider.open_stream(Request("?"))
    assert await events.asend(None) == TextDelta("a")
    del events
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert provider.closed == 2
    events = provider.open_stream(Request("?"))
    await anext(events)
    with pytest.raises(ServerError):
        await events.athrow(ServerError("thrown in"))
    assert provider.closed == 3
    events = provider.open_stream(Request("?"))
    await anext(events)
    await events.aclose()
    assert [event async for event in events] == []
    assert isinstance(events, Batches)


def test_events_in_batches_are_all_there_and_an_error_comes_last():
    def source(count):
        yield from range(count)
        raise MalformedResponseError("cut")

    for count in (0, 1, MOST - 1, MOST, MOST + 1, 3 * MOST):
        assert [*map(len, batches_of(iter(range(count))))] == [MOST] * (count // MOST) + [count % MOST] * (
            count % MOST > 0
        )
        found = []
        with pytest.raises(MalformedResponseError):
            found.extend(batch for batch in batches_of(source(count)))
        assert [number for batch in found for number in batch] == list(range(count))


def content(text):
    return frame({"choices": [{"index": 0, "delta": {"content": text}}]})


async def test_an_error_in_the_same_read_as_pieces_comes_after_them():
    body = content("a") + content("b") + frame({"error": {"message": "boom", "code": 500}}) + content("c")
    provider = OpenAICompatibleProvider(
        ProviderConfig(name="a", model="m", max_retries=0), http_client=FakeHttp(streamed(body)).client
    )
    given = []
    with pytest.raises(ProviderError, match="boom"):
        async for event in provider.open_stream(Request("?")):
            given.append(event)
    assert given == texts("ab")


async def test_a_flood_within_one_read_is_handed_on_in_parts_and_ends_at_the_deadline():
    def answer(request):
        return streamed(b"".join(content("x") for _ in range(10 * MOST)), b"data: [DONE]\n\n")

    provider = OpenAICompatibleProvider(ProviderConfig(name="a", model="m"), http_client=FakeHttp(answer).client)
    router = first_available(provider, timeouts=Timeouts(total=100))
    loop = asyncio.get_running_loop()

    async def busy():
        loop.advance(1)

    given, error = await read_until_it_breaks(router.route_stream("?"), busy)
    assert len(given) == 2 * MOST
    assert error.__cause__.phase == "total"
    assert json.dumps(error.partial) == json.dumps("x" * len(given))
