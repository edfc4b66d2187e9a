"""Any async callable as a provider, in each of the forms it may have."""

from __future__ import annotations

from functools import partial

import pytest

from orchestrator.core.config import GenerationParams, ProviderConfig
from orchestrator.core.errors import InvalidRequestError, MalformedResponseError
from orchestrator.core.types import Completion, Finished, Message, Request, TextDelta
from orchestrator.providers.base import CONVERSATION, EVERYTHING, PARAMS
from orchestrator.providers.function import FunctionProvider

PARAMETERS = GenerationParams(temperature=0.5)


async def upper(prompt):
    return prompt.upper()


async def with_params(prompt, params):
    return f"{prompt} at {params.temperature}"


async def with_request(request):
    return Completion(request.messages[-1].text[::-1], finish_reason="length")


async def letters(prompt):
    for letter in ("", *prompt):
        yield letter


async def letters_of_request(request):
    for letter in request.prompt:
        yield letter


async def letters_with_params(prompt, params):
    yield f"{prompt} {params.temperature}"


class Callable:
    async def __call__(self, prompt):
        return f"object: {prompt}"

    async def method(self, prompt):
        return f"method: {prompt}"


class Streaming:
    async def __call__(self, prompt):
        yield "object "
        yield prompt


FORMS = [
    (upper, "prompt", "ABC", ["ABC"]),
    (with_params, "prompt, params", "abc at 0.5", ["abc at 0.5"]),
    (with_request, "request", "cba", ["cba"]),
    (letters, "prompt", "abc", ["a", "b", "c"]),
    (letters_of_request, "request", "abc", ["a", "b", "c"]),
    (letters_with_params, "prompt, params", "abc 0.5", ["abc 0.5"]),
    (Callable(), "prompt", "object: abc", ["object: abc"]),
    (Callable().method, "prompt", "method: abc", ["method: abc"]),
    (partial(with_params, params=PARAMETERS), "prompt", "abc at 0.5", ["abc at 0.5"]),
    (Streaming(), "prompt", "object abc", ["object ", "abc"]),
]


@pytest.mark.parametrize(("func", "takes", "text", "pieces"), FORMS)
async def test_every_form_answers_plain_and_streamed(func, takes, text, pieces):
    provider = FunctionProvider("f", func, takes=takes)
    params = None if takes == "prompt" else PARAMETERS
    assert (await provider.complete(Request("abc", params))).text == text
    assert await provider.generate("abc", params) == text
    events = [event async for event in provider.open_stream(Request("abc", params))]
    assert [event.text for event in events if isinstance(event, TextDelta)] == pieces
    assert isinstance(events[-1], Finished)
    assert [piece async for piece in provider.generate_stream("abc", params)] == pieces


async def test_a_function_of_the_prompt_alone_refuses_params_instead_of_dropping_them():
    async def answer(prompt):
        return prompt

    with pytest.raises(InvalidRequestError, match="temperature"):
        await FunctionProvider("f", answer).generate("abc", PARAMETERS)


async def test_a_completion_is_handed_on_as_it_is():
    provider = FunctionProvider("f", with_request, takes="request")
    assert (await provider.complete(Request(messages=[Message("user", "abc")]))).finish_reason == "length"
    *_, last = [event async for event in provider.open_stream(Request("abc"))]
    assert last.completion.finish_reason == "length"


async def test_a_completion_without_text_has_no_text_piece():
    async def cut(prompt):
        return Completion("", finish_reason="length")

    events = [event async for event in FunctionProvider("f", cut).open_stream(Request("?"))]
    assert [type(event) for event in events] == [Finished]


def test_a_name_or_a_whole_configuration_is_taken():
    config = ProviderConfig(name="f", weight=3)
    assert FunctionProvider(config, upper).config is config
    assert FunctionProvider("g", upper).name == "g"


@pytest.mark.parametrize(
    ("takes", "supports"), [("prompt", frozenset()), ("prompt, params", PARAMS), ("request", CONVERSATION)]
)
def test_it_carries_what_its_form_can_see(takes, supports):
    provider = FunctionProvider("f", upper, takes=takes)
    assert provider.supports == supports
    expected = None if takes != "prompt" else "temperature"
    assert provider.unsupported(Request("x", PARAMETERS)) == expected


def test_what_it_carries_can_be_said():
    provider = FunctionProvider("f", with_request, takes="request", supports=EVERYTHING)
    assert provider.supports == EVERYTHING
    assert FunctionProvider("g", with_request, takes="request").supports == CONVERSATION


@pytest.mark.parametrize("func", [lambda prompt: prompt, print, str.upper, partial(str.upper), "text", Callable])
def test_what_is_not_async_is_refused_with_a_way_out(func):
    with pytest.raises(TypeError, match=r"is not async.*'async def'.*asyncio\.to_thread"):
        FunctionProvider("f", func)


def test_an_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="takes is 'text'; one of: 'prompt', 'prompt, params', 'request'"):
        FunctionProvider("f", upper, takes="text")


async def test_a_result_that_is_no_answer_is_a_malformed_response():
    async def number(prompt):
        return 42

    async def numbers(prompt):
        yield 42

    with pytest.raises(MalformedResponseError, match="gave int, expected a str or a Completion"):
        await FunctionProvider("f", number).complete(Request("?"))
    with pytest.raises(MalformedResponseError, match="gave int, expected str pieces"):
        await FunctionProvider("f", numbers).complete(Request("?"))


async def test_a_stream_that_is_left_closes_the_generator():
    closed = []

    async def endless(prompt):
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    events = FunctionProvider("f", endless).open_stream(Request("?"))
    await anext(events)
    await events.aclose()
    assert closed == [True]
