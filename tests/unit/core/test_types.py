"""The vocabulary: what a request needs, what a message says, what is kept out of repr."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import types
from orchestrator.core.config import GenerationParams, Timeouts
from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.types import (
    Completion,
    ImagePart,
    Message,
    Request,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

HI = Message("user", "Hi")
CAT = ImagePart("https://example.com/cat.png")
CALL = ToolCall("c1", "look", "{}")


# Messages


def test_a_message_of_plain_text():
    assert HI.text == "Hi"
    assert HI.images == ()


def test_a_message_of_parts():
    message = Message("user", (TextPart("What "), CAT, TextPart("is it?")))
    assert message.text == "What is it?"
    assert message.images == (CAT,)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.builds(TextPart, st.text()), st.builds(ImagePart, st.text())), max_size=6))
def test_every_part_is_a_text_or_an_image(parts):
    message = Message("user", tuple(parts))
    assert message.text == "".join(part.text for part in parts if isinstance(part, TextPart))
    assert list(message.images) == [part for part in parts if isinstance(part, ImagePart)]


def test_usage_adds_up():
    assert Usage().total_tokens == 0
    assert Usage(3, 5, cached_tokens=2, reasoning_tokens=4).total_tokens == 8


# Requests


def test_a_prompt_needs_nothing():
    request = Request("Hi")
    assert request.needs == frozenset()
    assert request.messages == (HI,)
    assert request.messages is request.messages
    assert (request.stream, request.tools, request.timeouts) == (False, (), Timeouts())


@pytest.mark.parametrize("prompt", ["", None])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        Request(prompt)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"params": GenerationParams()}, set()),
        ({"params": GenerationParams(temperature=0.0, stop="END")}, {"temperature", "stop"}),
        ({"tools": [Tool("look")]}, {"tools"}),
        ({"tool_choice": ToolChoice("auto")}, {"tool_choice"}),
        ({"tools": [Tool("look")], "tool_choice": ToolChoice("named", "look")}, {"tools", "tool_choice"}),
        ({"response_format": ResponseFormat()}, {"json_object"}),
        ({"response_format": ResponseFormat({})}, {"json_schema"}),
        ({"params": GenerationParams(seed=0), "response_format": ResponseFormat({})}, {"seed", "json_schema"}),
    ],
)
def test_what_is_set_is_needed(fields, needs):
    assert Request("Hi", **fields).needs == needs


@pytest.mark.parametrize(
    ("messages", "needs"),
    [
        ([HI], set()),
        ([Message("user", (TextPart("H"), TextPart("i")))], set()),
        ([Message("user", "Hi", name="anna")], {"messages"}),
        ([Message("user", "")], {"messages"}),
        ([Message("system", "Hi")], {"messages"}),
        ([Message("assistant", "Hi")], {"messages"}),
        ([Message("system", "Be brief."), HI], {"messages"}),
        ([Message("user", (TextPart("Hi"), CAT))], {"messages", "images"}),
        ([HI, Message("assistant", "", (CALL,))], {"messages", "tools"}),
        ([HI, Message("tool", "a cat", tool_call_id="c1")], {"messages", "tools"}),
    ],
)
def test_what_a_conversation_holds_is_needed(messages, needs):
    request = Request(messages=messages)
    assert request.needs == needs
    assert request.messages is messages


def test_a_conversation_of_one_user_text_is_a_prompt():
    assert Request(messages=[Message("user", (TextPart("H"), TextPart("i")))]).prompt == "Hi"
    assert Request(messages=[HI, HI]).prompt is None
    assert Request(messages=[Message("user", (TextPart("Hi"), CAT))]).prompt is None


def test_a_prompt_given_with_its_messages_stays_a_prompt():
    request = Request("Hi", messages=[Message("user", (TextPart("Hi"), CAT))])
    assert request.prompt == "Hi"
    assert request.needs == {"images"}


def test_a_request_does_not_show_what_was_asked():
    request = Request("my secret", GenerationParams(seed=1), stream=True)
    assert repr(request) == "Request(messages=1, needs=['seed'], stream=True)"


def test_a_completion_does_not_show_the_providers_json():
    assert "secret" not in repr(Completion("Hi", raw={"echo": "secret"}))


@pytest.mark.parametrize("name", [name for name in types.__all__ if dataclasses.is_dataclass(getattr(types, name))])
def test_records_are_small(name):
    assert "__dict__" not in dir(getattr(types, name)) or "__slots__" in vars(getattr(types, name))


@pytest.mark.parametrize("record", [HI, CAT, CALL, TextPart("x"), Tool("look"), ToolChoice("auto"), ResponseFormat()])
def test_what_a_user_hands_in_cannot_change_under_the_router(record):
    field = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, "other")
