"""The provider without a service: modes, scripts, plain and streamed."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.accumulate import Accumulator
from orchestrator.core.clock import now
from orchestrator.core.config import GenerationParams, ProviderConfig
from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.core.types import (
    Completion,
    Finished,
    Message,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from orchestrator.providers.base import EVERYTHING
from orchestrator.providers.mock import MODES, Answer, BrokenStream, Fail, Hang, MockProvider

HI = Request("Hi")


def mocked(model: str | None = None, **options) -> MockProvider:
    return MockProvider(ProviderConfig(name="m", model=model), **options)


async def stream(provider: MockProvider, request: Request = HI) -> tuple[list[tuple[float, str]], Completion]:
    """The text pieces with their times, and the whole answer."""
    pieces, answer, started = [], Accumulator(), now()
    async for event in provider.open_stream(request):
        answer.add(event)
        if isinstance(event, TextDelta):
            pieces.append((round(now() - started, 3), event.text))
    return pieces, answer.completion("m")


async def read_into(seen: list[tuple[float, str]], provider: MockProvider) -> None:
    async for event in provider.open_stream(HI):
        seen.append((now(), event.text))


class TestModes:
    @pytest.mark.parametrize("model", [None, "mock-normal", "Mock-Normal", "mock-unhealthy", "quite-unhealthy-today"])
    async def test_answers_with_the_prompt(self, model):
        assert await mocked(model).generate("Hi") == "Mock response to: Hi"

    @pytest.mark.parametrize(
        ("model", "error", "status"),
        [
            ("mock-timeout", TimeoutError, None),
            ("mock-ratelimit", RateLimitError, 429),
            ("mock-auth-error", AuthenticationError, 401),
            ("mock-invalid-request", InvalidRequestError, 400),
        ],
    )
    async def test_fails_plain_and_streamed_alike(self, model, error, status):
        provider = mocked(model)
        with pytest.raises(error) as plain:
            await provider.complete(HI)
        with pytest.raises(error) as streamed:
            await stream(provider)
        assert plain.value.status_code == streamed.value.status_code == status
        assert plain.value.provider == "m"
        assert plain.value is not streamed.value

    def test_an_unknown_one_is_refused_with_the_list(self):
        with pytest.raises(ValueError, match="unknown mode 'mock-normla'; modes: mock-normal, mock-timeout") as caught:
            mocked("mock-normla")
        assert all(mode in str(caught.value) for mode in MODES)

    @pytest.mark.parametrize(("model", "healthy"), [(None, True), ("mock-timeout", True), ("MOCK-UNHEALTHY", False)])
    async def test_health_is_in_the_name(self, model, healthy):
        assert await mocked(model).health_check() is healthy

    async def test_can_be_switched_while_in_use(self):
        provider = mocked()
        await provider.complete(HI)
        provider.config.model = "mock-timeout"
        with pytest.raises(TimeoutError):
            await provider.complete(HI)
        provider.config.model = "mock-normal"
        await provider.complete(HI)

    async def test_answers_the_last_user_message_of_a_conversation(self):
        talk = [Message("user", "1"), Message("assistant", "2"), Message("user", "three"), Message("assistant", "")]
        assert (await mocked().complete(Request(messages=talk))).text == "Mock response to: three"
        assert (await mocked().complete(Request(messages=[Message("system", "x")]))).text == "Mock response to: "


class TestScript:
    async def test_is_played_call_by_call_and_its_last_step_repeats(self):
        provider = mocked(script=["one", Completion("two"), Answer("three")])
        assert [await provider.generate("?") for _ in range(5)] == ["one", "two", "three", "three", "three"]

    async def test_begins_again_with_cycle(self):
        provider = mocked(script=("one", "two"), cycle=True)
        assert [await provider.generate("?") for _ in range(5)] == ["one", "two", "one", "two", "one"]

    async def test_is_shared_by_plain_and_streamed_calls(self):
        provider = mocked(script=["one", "two", "three"])
        assert (await provider.complete(HI)).text == "one"
        assert (await stream(provider))[1].text == "two"
        assert (await provider.complete(HI)).text == "three"

    async def test_takes_any_model_name(self):
        assert (await mocked("some-model", script=["x"]).complete(HI)).model == "some-model"

    @pytest.mark.parametrize("error", [ServerError("down", status_code=502), ServerError, KeyError("x"), OSError])
    async def test_raises_exceptions_given_as_instance_or_class(self, error):
        expected = error if isinstance(error, type) else type(error)
        for provider in (mocked(script=[error]), mocked(script=[Fail(error)])):
            for _ in range(2):
                with pytest.raises(expected) as caught:
                    await provider.complete(HI)
            if not isinstance(error, type):
                assert caught.value.args == error.args

    async def test_never_raises_the_same_library_error_twice(self):
        error = RateLimitError("slow down", retry_after=3, provider="upstream")
        provider = mocked(script=[error])
        with pytest.raises(RateLimitError) as first:
            await provider.complete(HI)
        first.value.retry_after = 99
        with pytest.raises(RateLimitError) as second:
            await provider.complete(HI)
        assert (second.value.retry_after, second.value.provider, error.provider) == (3, "upstream", "upstream")

    async def test_tracebacks_of_a_repeated_error_do_not_pile_up(self):
        provider = mocked(script=[KeyError("x")])
        depths = []
        for _ in range(3):
            with pytest.raises(KeyError) as caught:
                await provider.complete(HI)
            depths.append(len(caught.traceback))
        assert len(set(depths)) == 1

    async def test_never_hands_out_the_same_completion_twice(self):
        given = Completion("x", usage=Usage(1, 2))
        provider = mocked(script=[given])
        (await provider.complete(HI)).provider = "changed"
        assert (await provider.complete(HI)).provider is None
        assert given.provider is None

    @pytest.mark.parametrize("item", [3, None, int, BaseException("x"), asyncio.CancelledError])
    def test_refuses_what_it_cannot_play(self, item):
        with pytest.raises(TypeError, match="a script holds str, Completion, exceptions"):
            mocked(script=[item])

    @pytest.mark.parametrize("error", [KeyboardInterrupt, "oops", KeyboardInterrupt()])
    def test_fails_only_with_exceptions(self, error):
        with pytest.raises(TypeError, match="an error is an exception or its class"):
            Fail(error)

    def test_refuses_an_exception_class_that_needs_arguments(self):
        with pytest.raises(TypeError, match="argument"):
            BrokenStream(["a"], UnicodeDecodeError)

    def test_must_not_be_empty(self):
        with pytest.raises(ValueError, match="empty"):
            mocked(script=[])


class TestAnswers:
    async def test_a_stream_brings_the_words_of_the_text(self):
        pieces, whole = await stream(mocked(script=["  two  words\n"]))
        assert [text for _, text in pieces] == ["  ", "two  ", "words\n"]
        assert whole.text == "  two  words\n"
        assert whole.finish_reason == "stop"

    async def test_a_stream_brings_the_pieces_given_at_their_times(self):
        provider = mocked(script=[Answer("Hello", delay=2, pieces=["He", "", "l", "lo"], gap=0.5)], delay=1)
        pieces, whole = await stream(provider)
        assert pieces == [(3.0, "He"), (3.5, "l"), (4.0, "lo")]
        assert whole.text == "Hello"

    async def test_a_plain_call_takes_as_long_as_the_stream(self):
        provider = mocked(script=[Answer("a b c", delay=2, gap=0.5)], delay=1)
        assert (await provider.complete(HI)).text == "a b c"
        assert now() == pytest.approx(4)

    async def test_the_text_may_be_left_to_the_pieces(self):
        assert (await mocked(script=[Answer(pieces=["a", "b"])]).complete(HI)).text == "ab"

    @pytest.mark.parametrize("answer", ["other", Completion("other")])
    def test_pieces_of_another_text_are_refused(self, answer):
        with pytest.raises(ValueError, match="the pieces make 'ab'"):
            Answer(answer, pieces=["a", "b"])

    async def test_usage_is_told_and_never_shared(self):
        usage = Usage(3, 4)
        provider = mocked(script=[Answer("x", usage=usage)])
        first = await provider.complete(HI)
        assert first.usage == usage
        assert first.usage is not usage

    async def test_a_completion_streams_reasoning_text_and_tool_calls(self):
        calls = (ToolCall("1", "weather", '{"city": "Oslo"}'), ToolCall("2", "time", "{}"))
        given = Completion("Let me see", "big-model", reasoning="hm", tool_calls=calls, finish_reason="tool_calls")
        events = [event async for event in mocked("m1", script=[given]).open_stream(HI)]
        assert [type(event) for event in events] == [
            ReasoningDelta, TextDelta, TextDelta, TextDelta, ToolCallDelta, ToolCallDelta, Finished
        ]
        assert events[-1].completion == given

    @pytest.mark.parametrize(
        ("answer", "pieces"), [("one two three", ["one ", "tw"]), (Answer(pieces=["one tw", "o", "x"]), ["one tw"])]
    )
    async def test_max_tokens_cuts_the_text_in_characters(self, answer, pieces):
        provider = mocked(script=[answer])
        request = Request("?", GenerationParams(max_tokens=6))
        plain = await provider.complete(request)
        assert (plain.text, plain.finish_reason) == ("one tw", "length")
        seen, streamed = await stream(provider, request)
        assert [text for _, text in seen] == pieces
        assert (streamed.text, streamed.finish_reason) == ("one tw", "length")

    async def test_a_text_within_max_tokens_is_whole(self):
        answer = await mocked(script=["123"]).complete(Request("?", GenerationParams(max_tokens=3)))
        assert (answer.text, answer.finish_reason) == ("123", "stop")


class TestTrouble:
    async def test_a_failure_can_take_its_time(self):
        provider = mocked(script=[Fail(ServerError("x"), delay=3)])
        with pytest.raises(ServerError):
            await provider.complete(HI)
        with pytest.raises(ServerError):
            await stream(provider)
        assert now() == 6

    async def test_a_broken_stream_brings_its_pieces_then_the_error(self):
        seen = []
        with pytest.raises(ConnectionFailedError):
            await read_into(seen, mocked(script=[BrokenStream(["a", "", "b"], delay=1, gap=2)]))
        assert seen == [(1, "a"), (3, "b")]

    async def test_a_broken_stream_is_an_error_of_a_plain_call(self):
        provider = mocked(script=[BrokenStream(["a", "b"], ServerError, delay=1, gap=2)])
        with pytest.raises(ServerError):
            await provider.complete(HI)
        assert now() == 3

    @pytest.mark.parametrize("pieces", [[], ["a", "b"]])
    async def test_a_hanging_call_waits_until_it_is_cancelled(self, pieces):
        provider = mocked(script=[Hang(pieces)])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(provider.complete(HI), 1000)
        seen = []
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read_into(seen, provider), 1000)
        assert [text for _, text in seen] == pieces
        assert now() == 2000


async def test_every_call_is_recorded():
    provider = mocked("mock-timeout")
    requests = [Request("one"), Request("two", stream=True)]
    for call in (provider.complete, lambda request: anext(provider.open_stream(request))):
        with pytest.raises(TimeoutError):
            await call(requests[len(provider.calls)])
    assert provider.calls == requests


def test_every_request_is_carried():
    assert MockProvider.supports == EVERYTHING
