"""A stream that broke is begun anew or goes on elsewhere, if a policy says so, and its reader is never misled."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator import (
    BaseProvider,
    Completion,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    Finished,
    GenerationParams,
    InvalidRequestError,
    RateLimitError,
    ReasoningDelta,
    RecoveryPolicy,
    Restarted,
    RetryPolicy,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from orchestrator.core.accumulate import Accumulator
from orchestrator.core.config import ProviderConfig
from orchestrator.core.events import AttemptEnded, Recovering, RequestEnded
from orchestrator.core.types import Message
from orchestrator.providers.base import EVERYTHING
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from orchestrator.sync import Router as BlockingRouter
from orchestrator.testing import Recorder, VirtualTimeLoop
from support import Echo, first_available, mock, pieces_of, settle

SKY = ["The sky ", "is blue ", "because of ", "light."]
WHOLE = "".join(SKY)
BROKEN = BrokenStream(SKY[:2])


def prefilling(name, *script, **config):
    provider = mock(name, *script, **config)
    provider.supports = EVERYTHING | {"prefill"}
    return provider


def asked(provider, number=-1):
    return [(message.role, message.text) for message in provider.calls[number].messages]


async def read(router, **options):
    """The events, the last one's completion, and the text a reader who heeds ``Restarted`` has."""
    events = await pieces_of(router.stream("Why?", **options))
    text = ""
    for event in events:
        if isinstance(event, Restarted):
            assert event.discarded == text
            text = ""
        elif isinstance(event, TextDelta):
            text += event.text
    assert isinstance(events[-1], Finished)
    return events, events[-1].completion, text


async def broken(stream):
    """The pieces of a stream, and the error that ended it."""
    pieces = []
    with pytest.raises(StreamInterruptedError) as caught:
        async for piece in stream:
            pieces.append(piece)
    return pieces, caught.value


def nothing_is_left(router):
    return not any(state.in_flight for state in router.snapshot().values())


# Off


@pytest.mark.parametrize("recovery", [None, "error", RecoveryPolicy()])
async def test_without_a_policy_a_break_is_told_and_nobody_else_is_asked(recovery):
    other = mock("b")
    router = first_available(mock("a", BROKEN), other, recovery=recovery)
    pieces, error = await broken(router.route_stream("Why?"))
    assert (pieces, error.partial, other.calls) == (SKY[:2], "".join(SKY[:2]), [])


def test_a_policy_is_checked():
    with pytest.raises(ValueError, match="'error', 'restart' or 'continue'"):
        first_available(recovery="again")
    with pytest.raises(TypeError, match="expected RecoveryPolicy"):
        first_available(recovery=True)


# Restart


async def test_a_restart_is_announced_and_the_answer_begins_again():
    router = first_available(mock("a", BROKEN), mock("b", "Rayleigh."), recovery="restart")
    events, completion, text = await read(router)
    assert [type(event) for event in events] == [TextDelta, TextDelta, Restarted, TextDelta, Finished]
    assert (events[2].provider, events[2].discarded) == ("b", "The sky is blue ")
    assert isinstance(events[2].error, ConnectionFailedError)
    assert completion.text == text == "Rayleigh."
    assert (completion.provider, completion.recoveries) == ("b", 1)
    assert [type(attempt.error) for attempt in completion.attempts] == [ConnectionFailedError, type(None)]
    assert nothing_is_left(router)


async def test_a_text_only_reader_gets_the_rest_if_the_new_answer_begins_with_what_it_has():
    for pieces in (SKY, ["The", " sky is blue because", " of light."], [WHOLE]):
        router = first_available(mock("a", BROKEN), mock("b", Answer(pieces=pieces)), recovery="restart")
        assert "".join(await pieces_of(router.route_stream("Why?"))) == WHOLE
        assert router.snapshot()["b"].requests == 1


@pytest.mark.parametrize("other", ["The sea is blue too.", "Because.", "The sky"])
async def test_a_text_only_reader_never_gets_two_answers(other):
    late = BrokenStream(["The sky is blue "], gap=5)
    events = []
    router = first_available(mock("a", late), mock("b", Answer(other, gap=1)), mock("c", WHOLE), recovery="restart",
                             listeners=[events.append])
    pieces, error = await broken(router.route_stream("Why?"))
    assert "".join(pieces) == error.partial == "The sky is blue "
    assert isinstance(error.__cause__, ConnectionFailedError)
    assert "does not begin" in error.__notes__[0]
    assert [attempt.provider for attempt in error.attempts] == ["a", "b"]
    assert (events[-1].outcome, events[-1].error) == ("error", error)
    assert nothing_is_left(router)


async def test_a_text_only_reader_survives_a_break_while_the_text_comes_again():
    router = first_available(
        mock("a", BROKEN), mock("b", BrokenStream(SKY[:1])), mock("c", BrokenStream(SKY[:3])), mock("d", WHOLE),
        recovery="restart",
    )
    assert "".join(await pieces_of(router.route_stream("Why?"))) == WHOLE


def test_the_blocking_router_recovers_too():
    with BlockingRouter("first-available", [mock("a", BROKEN), mock("b", WHOLE)], recovery="restart") as router:
        assert "".join(router.route_stream("Why?")) == WHOLE
        assert any(isinstance(event, Restarted) for event in router.stream("Why?"))


# Continue


async def test_a_provider_that_can_goes_on_right_after_the_text():
    other = prefilling("b", "because of light.")
    router = first_available(mock("a", BROKEN), other, recovery="continue")
    events, completion, text = await read(router)
    assert not any(isinstance(event, Restarted) for event in events)
    assert completion.text == text == WHOLE
    assert (completion.provider, completion.recoveries) == ("b", 1)
    assert asked(other) == [("user", "Why?"), ("assistant", "The sky is blue ")]
    assert other.calls[0].prefill


async def test_a_provider_that_cannot_is_told_to_go_on():
    other = mock("b", "because of light.")
    policy = RecoveryPolicy(mode="continue", instruction="Дальше!")
    router = first_available(mock("a", BROKEN), other, recovery=policy)
    assert "".join(await pieces_of(router.route_stream("Why?"))) == WHOLE
    assert asked(other) == [("user", "Why?"), ("assistant", "The sky is blue "), ("user", "Дальше!")]
    assert not other.calls[0].prefill


async def test_without_an_instruction_a_provider_that_cannot_go_on_begins_anew():
    other = mock("b", WHOLE)
    policy = RecoveryPolicy(mode="continue", instruction=None)
    router = first_available(mock("a", BROKEN), other, recovery=policy)
    events, completion, text = await read(router)
    assert any(isinstance(event, Restarted) for event in events)
    assert (asked(other), completion.text, text) == ([("user", "Why?")], WHOLE, WHOLE)


async def test_a_provider_without_conversations_begins_anew():
    router = first_available(mock("a", BROKEN), Echo(ProviderConfig(name="b")), recovery="continue")
    _, completion, text = await read(router)
    assert completion.text == text == "b: Why?"


async def test_half_a_json_text_is_continued_by_its_writer_only():
    half = BrokenStream(['{"sky": '])
    told, can = mock("b", '{"sea": "red"}'), prefilling("b", '"blue"}')
    for other, whole in ((told, '{"sea": "red"}'), (can, '{"sky": "blue"}')):
        router = first_available(mock("a", half), other, recovery="continue")
        _, completion, text = await read(router, response_format={"type": "json_object"})
        assert completion.text == text == whole
        assert other.calls[0].response_format is not None


@pytest.mark.parametrize("again", [
    "is blue because of light.", "The sky is blue because of light.", "because of light.",
])
async def test_what_a_continuation_repeats_is_cut_off(again):
    for pieces in ([again], list(again)):
        for other in (mock("b", Answer(pieces=pieces)), prefilling("b", Answer(pieces=pieces))):
            router = first_available(mock("a", BROKEN), other, recovery="continue")
            _, completion, text = await read(router)
            assert completion.text == text == WHOLE


async def test_a_continuation_is_held_back_no_longer_than_it_may_be_a_repetition():
    other = mock("b", Answer(pieces=["is b", "elow.", " And"], gap=10))
    router = first_available(mock("a", BROKEN), other, recovery="continue")
    loop = asyncio.get_running_loop()
    stream = router.route_stream("Why?")
    came = [(piece, loop.time()) async for piece in stream]
    start = came[0][1]
    assert [(piece, at - start) for piece, at in came[2:]] == [("is below.", 10.0), (" And", 20.0)]


async def test_what_is_held_back_at_the_end_is_given():
    router = first_available(mock("a", BROKEN), mock("b", "is bl"), recovery="continue")
    _, completion, text = await read(router)
    assert completion.text == text == "The sky is blue is bl"


async def test_a_break_within_a_repetition_adds_nothing():
    repeats = BrokenStream(["is bl"])
    last = mock("c", "is blue because of light.")
    router = first_available(mock("a", BROKEN), mock("b", repeats), last, recovery="continue")
    _, completion, text = await read(router)
    assert completion.text == text == WHOLE
    assert asked(last)[1] == ("assistant", "The sky is blue ")
    assert completion.recoveries == 2


async def test_what_was_held_back_of_a_broken_continuation_is_no_part_of_a_new_answer():
    repeats = BrokenStream(["is bl"])
    router = first_available(mock("a", BROKEN), mock("b", repeats), Echo(ProviderConfig(name="c")), recovery="continue")
    _, completion, text = await read(router)
    assert completion.text == text == "c: Why?"


async def test_the_model_may_find_that_nothing_is_missing():
    cut = BrokenStream(SKY)
    nothing = Completion("")
    router = first_available(mock("a", cut), prefilling("b", nothing), recovery="continue")
    _, completion, text = await read(router)
    assert completion.text == text == WHOLE
    router = first_available(mock("a", cut), mock("b", nothing, max_retries=0), recovery="continue")
    assert (await broken(router.stream("Why?")))[1].partial == WHOLE  # no prefill: an empty answer is none


async def test_a_text_the_caller_began_is_continued_in_one_message():
    other = prefilling("b", "is blue.")
    router = first_available(mock("a", BrokenStream(["sky "])), other, recovery="continue")
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "The "}]
    assert (await pieces_of(router.stream(messages)))[-1].completion.text == "sky is blue."
    assert asked(other) == [("user", "Why?"), ("assistant", "The sky ")]


async def test_the_rest_of_a_continuation_is_within_the_callers_limit_of_tokens():
    told = ConnectionFailedError("cut")
    told.usage = Usage(5, 30)
    cut = ConnectionFailedError("cut")
    for error, limit, left in ((cut, 100, 100 - 16 // 4), (told, 100, 70), (cut, 3, 1)):
        other = prefilling("b", "light.")
        router = first_available(mock("a", BrokenStream(SKY[:2], error)), other, recovery="continue")
        await read(router, params=GenerationParams(max_tokens=limit, temperature=0))
        assert other.calls[0].params == GenerationParams(max_tokens=left, temperature=0)


# A continuation that is refused


@pytest.mark.parametrize("refusal", [
    InvalidRequestError("prefill is not supported"), ContextWindowExceededError("too long"),
    ContentFilteredError("no"),
])
async def test_a_provider_that_refuses_a_continuation_is_asked_from_the_beginning(refusal):
    other = prefilling("b", Fail(refusal), WHOLE)
    router = first_available(mock("a", BROKEN), other, recovery="continue")
    events, completion, text = await read(router)
    assert any(isinstance(event, Restarted) for event in events)
    assert completion.text == text == WHOLE
    assert asked(other, 0) == [("user", "Why?"), ("assistant", "The sky is blue ")]
    assert asked(other, 1) == [("user", "Why?")]
    router = first_available(mock("a", BROKEN), prefilling("b", Fail(refusal), WHOLE), recovery="continue")
    assert "".join(await pieces_of(router.route_stream("Why?"))) == WHOLE


async def test_whoever_can_go_on_is_asked_before_one_who_refused():
    refuses = prefilling("b", Fail(InvalidRequestError("no")), "never asked")
    router = first_available(mock("a", BROKEN), refuses, prefilling("c", "because of light."), recovery="continue")
    _, completion, _ = await read(router)
    assert (completion.text, completion.provider, len(refuses.calls)) == (WHOLE, "c", 1)


async def test_a_refusal_is_never_the_final_error():
    events = []
    no = Fail(InvalidRequestError("prefill is not supported", status_code=400))
    router = first_available(mock("a", BROKEN, max_retries=0), prefilling("b", no), recovery="continue",
                             listeners=[events.append])
    pieces, error = await broken(router.route_stream("Why?"))
    assert ("".join(pieces), error.partial) == ("The sky is blue ", "The sky is blue ")
    assert (error.provider, error.status_code) == ("a", None)
    assert isinstance(error.__cause__, ConnectionFailedError)
    assert [attempt.provider for attempt in error.attempts] == ["a", "b", "b"]
    assert "recovery failed" in error.__notes__[0]
    assert events[-1].error is error
    assert nothing_is_left(router)


# Tool calls and reasoning


class Stream(BaseProvider):
    """Streams events, then an error."""

    supports = EVERYTHING

    def __init__(self, name, *events, error=None):
        super().__init__(ProviderConfig(name=name))
        self.events = events
        self.error = error

    async def open_stream(self, request):
        for event in self.events:
            yield event
        if self.error is not None:
            raise self.error
        yield Finished(Completion(""))


async def test_a_tool_call_in_flight_is_never_continued():
    half = Stream("a", TextDelta("Let me see. "), ToolCallDelta(0, "1", "look", '{"a": '), error=ServerError("x"))
    call = ToolCallDelta(0, "2", "look", '{"b": 1}')
    other = Stream("b", call)
    other.supports = EVERYTHING | {"prefill"}
    router = first_available(half, other, recovery="continue")
    events, completion, text = await read(router)
    assert [type(event) for event in events[:3]] == [TextDelta, ToolCallDelta, Restarted]
    assert [(one.id, one.arguments) for one in completion.tool_calls] == [("2", '{"b": 1}')]
    assert (completion.text, text) == ("", "")
    pieces, error = await broken(first_available(half, other, recovery="continue").route_stream("Why?"))
    assert (pieces, [attempt.provider for attempt in error.attempts]) == (["Let me see. "], ["a"])


async def test_a_continuation_may_end_in_a_tool_call():
    other = Stream("b", TextDelta("is bl"), ToolCallDelta(0, "1", "look", "{}"))
    router = first_available(mock("a", BROKEN), other, recovery="continue")
    events, completion, text = await read(router)
    assert isinstance(events[-2], ToolCallDelta)
    assert completion.text == text == "The sky is blue is bl"
    assert [one.id for one in completion.tool_calls] == ["1"]


async def test_reasoning_is_kept_and_no_part_of_what_is_continued():
    first = Stream("a", ReasoningDelta("Hm. "), TextDelta("The sky "), error=ServerError("x"))
    other = Stream("b", ReasoningDelta("So. "), TextDelta("is blue."))
    calls = []
    other.unsupported = lambda request: calls.append(request) or BaseProvider.unsupported(other, request)
    _, completion, text = await read(first_available(first, other, recovery="continue"))
    assert completion.text == text == "The sky is blue."
    assert completion.reasoning == "Hm. So. "
    assert Message("assistant", "The sky ") in calls[-1].messages
    _, completion, text = await read(first_available(first, other, recovery="restart"))
    assert (completion.text, completion.reasoning) == ("is blue.", "So. ")


async def test_without_any_text_there_is_nothing_to_continue():
    first = Stream("a", ReasoningDelta("Hm. "), error=ServerError("x"))
    other = prefilling("b", WHOLE)
    events, completion, text = await read(first_available(first, other, recovery="continue"))
    assert isinstance(events[1], Restarted)
    assert (asked(other), completion.text, text) == ([("user", "Why?")], WHOLE, WHOLE)


# What can be recovered, and from whom


@pytest.mark.parametrize("error", [
    InvalidRequestError("x"), ContentFilteredError("x"), StreamInterruptedError("the provider's own"),
])
@pytest.mark.parametrize("recovery", ["restart", "continue"])
async def test_the_callers_fault_is_not_recovered(error, recovery):
    other = mock("b", WHOLE)
    router = first_available(mock("a", BrokenStream(SKY[:2], error)), other, recovery=recovery)
    with pytest.raises((StreamInterruptedError, ContentFilteredError)) as caught:
        await pieces_of(router.stream("Why?"))
    assert (caught.value.partial, other.calls) == ("The sky is blue ", [])


@pytest.mark.parametrize("recovery", ["restart", "continue"])
async def test_silence_is_recovered_and_the_deadline_is_not(recovery):
    router = first_available(mock("a", Hang(SKY[:1])), mock("b", "The sky is."), recovery=recovery)
    assert (await read(router))[1].provider == "b"
    other = mock("b", WHOLE)
    router = first_available(mock("a", Hang(SKY[:1])), other, recovery=recovery)
    _, error = await broken(router.stream("Why?", timeout=15))
    assert (error.__cause__.phase, other.calls) == ("total", [])


async def test_the_deadline_holds_while_a_stream_is_recovered():
    loop = asyncio.get_running_loop()
    router = first_available(mock("a", BROKEN), mock("b", Hang()), mock("c", Hang()), recovery="restart")
    began = loop.time()
    _, error = await broken(router.stream("Why?", timeout=30))
    assert loop.time() - began == pytest.approx(30)
    assert isinstance(error.__cause__, ConnectionFailedError)
    assert [attempt.provider for attempt in error.attempts] == ["a", "b", "c"]
    assert nothing_is_left(router)


async def test_the_same_provider_is_asked_again_only_when_nobody_else_can_be():
    again = mock("a", BROKEN, WHOLE)
    other = mock("b", Fail(ServerError("x")), max_retries=0)
    router = first_available(again, other, recovery="restart")
    _, completion, _ = await read(router)
    assert [attempt.provider for attempt in completion.attempts] == ["a", "b", "a"]
    assert completion.text == WHOLE


async def test_a_provider_is_asked_again_within_its_retries():
    for retries in (0, 1, 3):
        alone = mock("a", BROKEN, max_retries=retries)
        _, error = await broken(first_available(alone, recovery="restart").stream("Why?"))
        assert len(alone.calls) == len(error.attempts) == 1 + retries


async def test_a_provider_is_asked_again_within_its_budget():
    alone = mock("a", BROKEN)
    router = first_available(alone, recovery="restart", retry=RetryPolicy(budget_ratio=0, budget_floor=0))
    await broken(router.stream("Why?"))
    assert len(alone.calls) == 1


async def test_a_provider_that_asked_for_time_while_it_answered_is_waited_for():
    loop = asyncio.get_running_loop()
    began = loop.time()
    limited = BrokenStream(SKY[:2], RateLimitError("slow down", retry_after=7))
    _, completion, _ = await read(first_available(mock("a", limited, WHOLE), recovery="restart"))
    assert (completion.text, loop.time() - began) == (WHOLE, pytest.approx(7, abs=0.01))


@pytest.mark.parametrize("recovery", ["restart", "continue"])
async def test_recoveries_are_bounded(recovery):
    providers = [mock(str(number), BrokenStream([f"{number} "])) for number in range(9)]
    policy = RecoveryPolicy(mode=recovery, max_recoveries=3)
    _, error = await broken(first_available(*providers, recovery=policy).stream("Why?"))
    assert [attempt.provider for attempt in error.attempts] == ["0", "1", "2", "3"]
    assert error.partial == ("3 " if recovery == "restart" else "0 1 2 3 ")
    assert f"after {len(error.partial)} characters" in str(error)


async def test_a_provider_that_is_gone_meanwhile_is_not_asked():
    first, gone = mock("a", BrokenStream(SKY[:2]), max_retries=0), mock("b", WHOLE)
    router = first_available(first, gone, recovery="restart")
    stream = router.route_stream("Why?")
    await anext(stream)
    await router.remove_provider("b")
    await router.remove_provider("a")
    _, error = await broken(stream)
    assert (error.partial, gone.calls) == ("The sky is blue ", [])


async def test_a_router_that_is_closed_meanwhile_ends_the_recovery():
    other = mock("b", WHOLE)
    router = first_available(mock("a", BROKEN), other, recovery="restart")
    stream = router.route_stream("Why?")
    await anext(stream)
    await router.aclose()
    _, error = await broken(stream)
    assert (error.partial, other.calls) == ("The sky is blue ", [])


# Usage, times, events


async def test_the_usage_of_all_parts_is_added_up():
    cut = ConnectionFailedError("cut")
    cut.usage = Usage(10, 4, 8, 1)
    last = Completion("because of light.", usage=Usage(14, 3), cost=0.5)
    events = []
    router = first_available(
        mock("a", BrokenStream(SKY[:2], cut)), prefilling("b", last), recovery="continue", listeners=[events.append]
    )
    _, completion, _ = await read(router)
    assert (completion.usage, completion.cost) == (Usage(24, 7, 8, 1), 0.5)
    assert [attempt.usage for attempt in completion.attempts] == [Usage(10, 4, 8, 1), Usage(14, 3)]
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert ended[1].completion.usage == Usage(14, 3)
    assert ended[1].completion.text == "because of light."
    assert events[-1].completion is completion


@pytest.mark.parametrize("recovery", ["error", "restart"])
async def test_a_stream_that_stays_broken_tells_the_usage_that_is_known(recovery):
    cut = ConnectionFailedError("cut")
    cut.usage = Usage(10, 4)
    router = first_available(mock("a", BrokenStream(SKY[:2], cut), max_retries=1), recovery=recovery)
    _, error = await broken(router.stream("Why?"))
    assert error.usage == (Usage(10, 4) if recovery == "error" else Usage(20, 8))
    assert [attempt.usage for attempt in error.attempts] == [Usage(10, 4)] * len(error.attempts)
    router = first_available(mock("a", BROKEN, max_retries=0), recovery=recovery)
    assert (await broken(router.stream("Why?")))[1].usage is None


async def test_the_first_token_is_the_one_the_reader_saw_first():
    for recovery in ("restart", "continue"):
        router = first_available(
            mock("a", BrokenStream(SKY[:2], delay=2, gap=3)), mock("b", Answer("x y", delay=4, gap=1)),
            recovery=recovery,
        )
        _, completion, _ = await read(router)
        assert (completion.time_to_first_token, completion.latency) == (2.0, 10.0)


async def test_the_events_tell_the_story_once():
    recorder = Recorder()
    router = first_available(mock("a", BROKEN), mock("b", "x"), recovery="continue", listeners=[recorder])
    await read(router)
    (recovering,) = recorder.of(Recovering)
    assert (recovering.provider, recovering.mode, recovering.received) == ("a", "continue", 16)
    assert isinstance(recovering.error, ConnectionFailedError)
    assert len(recorder.of(RequestEnded)) == 1
    recorder.check_invariants()
    assert "request 1 recovers (continue) from a after 16 characters: ConnectionFailedError" in recorder.text()


async def test_plain_calls_read_as_streams_need_no_recovery():
    router = first_available(mock("a", BROKEN), mock("b", WHOLE), recovery="continue", stream_plain_calls=True)
    completion = await router.complete("Why?")
    assert (completion.text, completion.recoveries) == (WHOLE, 0)


# Nested routers


class Nested(BaseProvider):
    """A router as a provider."""

    supports = EVERYTHING

    def __init__(self, router):
        super().__init__(ProviderConfig(name="nested"))
        self.router = router

    async def open_stream(self, request):
        async for event in self.router.stream(request.messages):
            yield event


@pytest.mark.parametrize("recovery", ["error", "restart"])
async def test_a_router_within_a_router_may_begin_anew(recovery):
    def nested(answer):
        inner = first_available(mock("a", BROKEN), mock("b", answer), recovery="restart")
        return first_available(Nested(inner), recovery=recovery)

    _, completion, text = await read(nested("Rayleigh."))
    assert completion.text == text == "Rayleigh."
    pieces, error = await broken(nested("Rayleigh.").route_stream("Why?"))
    assert "".join(pieces) == error.partial == "The sky is blue "
    if recovery == "restart":
        assert "".join(await pieces_of(nested(WHOLE).route_stream("Why?"))) == WHOLE


# Nothing is left behind


@pytest.mark.parametrize("recovery", ["restart", "continue"])
@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_reader_may_leave_at_any_piece(recovery, steps):
    recorder = Recorder()
    router = first_available(
        mock("a", BrokenStream(SKY[:2]), max_concurrency=1), mock("b", Answer(pieces=SKY[2:]), max_concurrency=1),
        recovery=recovery, listeners=[recorder],
    )
    stream = router.stream("Why?")
    for _ in range(steps):
        if await anext(stream, None) is None:
            break
    await stream.aclose()
    await settle()
    assert nothing_is_left(router)
    recorder.check_invariants()


@pytest.mark.parametrize("recovery", ["restart", "continue"])
@pytest.mark.parametrize("when", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
async def test_a_reader_may_be_cancelled_at_any_moment(recovery, when):
    recorder = Recorder()
    router = first_available(
        mock("a", BrokenStream(SKY[:2], delay=1, gap=1)), mock("b", Fail(ServerError("x"), delay=1), max_retries=0),
        mock("c", Answer(pieces=SKY[2:], delay=1, gap=1)), recovery=recovery, listeners=[recorder],
    )
    reading = asyncio.create_task(read(router))
    await asyncio.sleep(when)
    reading.cancel()
    if when < 5:
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert recorder.requests[0].outcome == "cancelled"
    else:
        await reading
    await settle()
    assert nothing_is_left(router)
    recorder.check_invariants()


async def test_a_restarted_stream_that_nobody_reads_returns_its_lease_at_the_deadline():
    router = first_available(mock("a", BROKEN), mock("b", Hang(["x"])), recovery="restart")
    stream = router.stream("Why?", timeout=10)
    while not isinstance(await anext(stream), Restarted):
        pass
    await asyncio.sleep(11)
    assert nothing_is_left(router)
    await stream.aclose()


async def test_a_stream_that_was_recovered_leaves_no_cycle_behind():
    class Mark(BaseProvider):
        async def generate_stream(self, prompt, params=None):
            marked = Marked()
            marks.append(weakref.ref(marked))
            yield "The sky "
            raise ServerError("x")

    class Marked:
        pass

    marks = []
    gc.collect()
    gc.disable()
    try:
        router = first_available(Mark(ProviderConfig(name="a")), mock("b", WHOLE), recovery="restart")
        assert "".join(await pieces_of(router.route_stream("Why?"))) == WHOLE
        await settle()
        assert [mark() for mark in marks] == [None]
    finally:
        gc.enable()


# Any number of interruptions

WORDS = "".join(f"word{number}, " for number in range(60))  # no eight characters of it come twice in a row


class Ideal(BaseProvider):
    """Knows the answer; breaks where it is told, and repeats some characters when it goes on."""

    supports = EVERYTHING | {"prefill"}

    def __init__(self, name, plans):
        super().__init__(ProviderConfig(name=name, max_retries=10))
        self.plans = plans

    async def open_stream(self, request):
        had = request.messages[1].text if len(request.messages) > 1 else ""
        assert WORDS.startswith(had)
        length, repeated, size = self.plans.pop(0) if self.plans else (len(WORDS), 0, 7)
        repeated = min(repeated, len(had))
        start = len(had) - (repeated if repeated >= 8 else 0)
        text = WORDS[start : start + length]
        for at in range(0, len(text), size):
            yield TextDelta(text[at : at + size])
        if start + length < len(WORDS):
            raise ConnectionFailedError("cut")
        yield Finished(Completion(""))


def run(work):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


PLANS = st.lists(
    st.tuples(st.integers(1, 300), st.just(0) | st.integers(8, 2000), st.integers(1, 40)), max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(PLANS, PLANS, st.booleans(), st.booleans())
def test_the_whole_answer_comes_in_spite_of_any_breaks(first, second, prefill, text_only):
    async def work():
        providers = [Ideal("a", list(first)), Ideal("b", list(second))]
        for provider in providers:
            provider.supports = EVERYTHING | ({"prefill"} if prefill else set())
        policy = RecoveryPolicy(mode="continue", max_recoveries=100)
        router = first_available(*providers, recovery=policy)
        if text_only:
            assert "".join(await pieces_of(router.route_stream("Why?"))) == WORDS
        else:
            _, completion, text = await read(router)
            assert completion.text == text == WORDS
        assert nothing_is_left(router)

    run(work())


TEXT = st.text("ab", min_size=1, max_size=6)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(TEXT, st.booleans(), st.integers(1, 4)), min_size=1, max_size=5))
def test_a_text_only_reader_has_the_beginning_of_one_answer_whatever_breaks(plan):
    assume(not plan[0][1])

    async def work():
        providers = [
            mock(str(number), (Answer if whole else BrokenStream)(
                pieces=[text[at : at + size] for at in range(0, len(text), size)]
            ))
            for number, (text, whole, size) in enumerate(plan)
        ]
        router = first_available(*providers, recovery="restart", retry=None)
        got, partial = "", None
        try:
            async for piece in router.route_stream("Why?"):
                got += piece
        except StreamInterruptedError as error:
            partial = error.partial
        assert partial in (None, got)
        texts = [(text, whole) for text, whole, _ in plan]
        assert any(text.startswith(got) for text, _ in texts)
        if partial is None:
            assert (got, True) in texts
        assert nothing_is_left(router)

    run(work())


def test_an_accumulator_forgets_what_is_void():
    answer = Accumulator()
    for event in (
        TextDelta("a"), ReasoningDelta("b"), ToolCallDelta(0, "1", "c", "{}"), Restarted("p", "a", ServerError()),
        TextDelta("d"), Finished(Completion("")),
    ):
        answer.add(event)
    completion = answer.completion("p")
    assert (completion.text, completion.reasoning, completion.tool_calls) == ("d", "", ())
