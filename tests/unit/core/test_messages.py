"""What users write becomes typed messages; what is wrong is named, with its place and what is allowed."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.messages import parse_messages, parse_response_format, parse_tool_choice, parse_tools
from orchestrator.core.types import (
    ImagePart,
    Message,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "cat"}'}}


def one(**message):
    return parse_messages([message])[0]


# Messages


def test_a_conversation_in_openais_shape():
    assert parse_messages([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is in the box?", "name": "anna"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ]) == (
        Message("system", "Be brief."),
        Message("user", "What is in the box?", name="anna"),
        Message("assistant", "", (ToolCall("c1", "look", '{"at": "cat"}'),)),
        Message("tool", "a cat", tool_call_id="c1"),
    )


def test_our_own_messages_pass_as_they_are_also_among_dicts():
    ready = Message("user", "Hi")
    messages = parse_messages((ready, {"role": "assistant", "content": "Hello"}))
    assert messages[0] is ready
    assert messages[1] == Message("assistant", "Hello")


def test_developer_is_openais_newer_word_for_system():
    assert one(role="developer", content="Be brief.").role == "system"


def test_parts_of_text_and_images():
    message = one(role="user", content=[
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}},
        {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
        TextPart("And this?"),
        ImagePart("https://example.com/dog.png"),
    ])
    assert message.content == (
        TextPart("What is this?"), ImagePart("https://example.com/cat.png", "low"),
        ImagePart("data:image/png;base64,AAAA"), TextPart("And this?"), ImagePart("https://example.com/dog.png"),
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (CALL, ToolCall("c1", "look", '{"at": "cat"}')),
        (ToolCall("c2", "look", "{}"), ToolCall("c2", "look", "{}")),
        ({"function": {"name": "look"}}, ToolCall("", "look", "")),
        ({"id": "c3", "function": {"name": "look", "arguments": {"at": "кот"}}},
         ToolCall("c3", "look", '{"at": "кот"}')),
        ({"id": "c4", "function": {"name": "look", "arguments": "{not json"}}, ToolCall("c4", "look", "{not json")),
    ],
)
def test_tool_calls_may_be_given_in_several_forms(call, expected):
    assert one(role="assistant", tool_calls=[call]).tool_calls == (expected,)


@pytest.mark.parametrize("calls", [None, []])
def test_no_tool_calls_may_be_written_out(calls):
    assert one(role="assistant", content="Hi", tool_calls=calls).tool_calls == ()


PARTS = r"expected {'type': 'text', 'text': …} or {'type': 'image_url', 'image_url': {'url': …}}"
CALLS = r"expected {'id': …, 'type': 'function', 'function': {'name': …, 'arguments': …}}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "prompt is missing; expected a text or a list of messages"),
        (17, "prompt is int; expected a text or a list of messages"),
        ("Hi", "prompt is 'Hi'; expected a text or a list of messages"),
        (b"Hi", "prompt is bytes; expected a text or a list of messages"),
        ({"role": "user"}, "prompt is dict; expected a text or a list of messages"),
        ([], "messages is empty"),
        ([17], "messages[0] is int; expected a dict or a Message"),
        ([Message("user", "Hi"), "Hi"], "messages[1] is 'Hi'; expected a dict or a Message"),
        ([{"role": "user", "text": "Hi"}],
         "messages[0] has an unknown key 'text'; known: role, content, name, tool_calls, tool_call_id"),
        ([{"content": "Hi"}], "messages[0].role is missing; expected one of system, user, assistant, tool"),
        ([{"role": "robot", "content": "Hi"}],
         "messages[0].role is 'robot'; expected one of system, user, assistant, tool"),
        ([{"role": "user"}], "messages[0].content is missing; expected a text or a list of parts"),
        ([{"role": "user", "content": 17}], "messages[0].content is int; expected a text or a list of parts"),
        ([{"role": "user", "content": b"Hi"}], "messages[0].content is bytes; expected a text or a list of parts"),
        ([{"role": "user", "content": [17]}], f"messages[0].content[0] is int; {PARTS}"),
        ([{"role": "user", "content": ["Hi"]}], f"messages[0].content[0] is 'Hi'; {PARTS}"),
        ([{"role": "user", "content": [TextPart("Hi"), {"type": "text"}]}],
         f"messages[0].content[1] is dict; {PARTS}"),
        ([{"role": "user", "content": [{"type": "audio", "text": "Hi"}]}], f"messages[0].content[0] is dict; {PARTS}"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}],
         f"messages[0].content[0] is dict; {PARTS}"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"href": "x"}}]}],
         f"messages[0].content[0] is dict; {PARTS}"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}],
         "messages[0].content[0] has an unknown key 'cache_control'; known: type, text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x", "alt": "y"}]}],
         "messages[0].content[0] has an unknown key 'alt'; known: type, image_url"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "alt": "y"}}]}],
         "messages[0].content[0].image_url has an unknown key 'alt'; known: url, detail"),
        ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls is int; expected a list"),
        ([{"role": "assistant", "tool_calls": "look"}], "messages[0].tool_calls is 'look'; expected a list"),
        ([{"role": "assistant", "tool_calls": [5]}], f"messages[0].tool_calls[0] is int; {CALLS}"),
        ([{"role": "assistant", "tool_calls": [CALL, {"name": "look"}]}],
         f"messages[0].tool_calls[1] is dict; {CALLS}"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}],
         f"messages[0].tool_calls[0] is dict; {CALLS}"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"on": date(2026, 1, 1)}}}]}],
         "messages[0].tool_calls[0].function.arguments is dict; expected JSON, as a text or as plain values"),
        ([{"role": "tool", "content": "a cat"}],
         "messages[0].tool_call_id is missing; expected the id of the call this answers"),
        ([{"role": "tool", "content": "a cat", "tool_call_id": 5}],
         "messages[0].tool_call_id is int; expected the id of the call this answers"),
        ([{"role": "user", "content": "Hi", "name": 5}], "messages[0].name is int; expected a text"),
    ],
)
def test_a_malformed_message_is_named_with_its_place_and_what_is_allowed(value, message):
    with pytest.raises(InvalidRequestError) as caught:
        parse_messages(value)
    assert caught.value.message == message


def test_a_long_text_in_the_wrong_place_is_not_repeated():
    with pytest.raises(InvalidRequestError) as caught:
        parse_messages("my deepest secret, in more than thirty-two characters")
    assert "secret" not in str(caught.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "image_url", "url", "tool_calls", "function", "name",
                         "arguments", "tool_call_id", "parameters", "json_schema", "schema"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_whatever_comes_in_the_only_error_is_ours(value):
    for parse in parse_messages, parse_tools, parse_tool_choice, parse_response_format:
        with suppress(InvalidRequestError):
            parse(value)


texts = st.text(max_size=20)
roles = st.sampled_from(["system", "user", "assistant"])
messages = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, roles, texts),
    st.builds(lambda text, call: {"role": "tool", "content": text, "tool_call_id": call}, texts, texts),
    st.builds(lambda parts: {"role": "user", "content": [{"type": "text", "text": part} for part in parts]},
              st.lists(texts, min_size=1, max_size=3)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, min_size=1, max_size=5))
def test_no_text_is_lost_or_moved(dicts):
    parsed = parse_messages(dicts)
    assert [message.role for message in parsed] == [item["role"] for item in dicts]
    for message, item in zip(parsed, dicts, strict=True):
        content = item["content"]
        assert message.text == (content if isinstance(content, str) else "".join(part["text"] for part in content))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(texts, st.none() | st.integers() | texts, max_size=4))
def test_arguments_given_as_values_become_json_text(arguments):
    message = one(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": arguments}}])
    assert json.loads(message.tool_calls[0].arguments) == arguments


# Tools


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Tool("weather"), Tool("weather")),
        ({"type": "function",
          "function": {"name": "weather", "parameters": SCHEMA, "description": "d", "strict": True}},
         Tool("weather", "d", SCHEMA, True)),
        ({"name": "weather", "parameters": SCHEMA}, Tool("weather", None, SCHEMA)),
        ({"type": "function", "name": "weather"}, Tool("weather")),
        ({"function": {"name": "weather", "parameters": None}}, Tool("weather")),
    ],
)
def test_a_tool_may_be_given_in_several_forms(item, expected):
    assert parse_tools([item]) == (expected,)


@pytest.mark.parametrize("value", [None, [], ()])
def test_no_tools_is_no_error(value):
    assert parse_tools(value) == ()


TOOL = "expected {'type': 'function', 'function': {'name': …, 'parameters': {…}}}"
TOOL_KEYS = "known: type, name, description, parameters, strict"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("weather", "tools is 'weather'; expected a list"),
        ({"name": "weather"}, "tools is dict; expected a list"),
        ([5], "tools[0] is int; expected a dict or a Tool"),
        ([{"function": "weather"}], f"tools[0] is dict; {TOOL}"),
        ([Tool("a"), {"type": "function"}], f"tools[1] is dict; {TOOL}"),
        ([{"function": {"name": 5}}], f"tools[0] is dict; {TOOL}"),
        ([{"name": "a", "parameters": ["city"]}], "tools[0].parameters is list; expected a JSON schema, as a dict"),
        ([{"name": "a", "input_schema": {}}], f"tools[0] has an unknown key 'input_schema'; {TOOL_KEYS}"),
        ([{"function": {"name": "a", "input_schema": {}}}], f"tools[0] has an unknown key 'input_schema'; {TOOL_KEYS}"),
        ([{"function": {"name": "a"}, "cache_control": {}}],
         "tools[0] has an unknown key 'cache_control'; known: type, function"),
    ],
)
def test_a_malformed_tool_is_named_with_its_place_and_what_is_allowed(value, message):
    with pytest.raises(InvalidRequestError) as caught:
        parse_tools(value)
    assert caught.value.message == message


# Choice and format


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (ToolChoice("auto"), ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("named", "weather")),
        ({"name": "weather"}, ToolChoice("named", "weather")),
    ],
)
def test_a_tool_choice_may_be_given_in_several_forms(value, expected):
    assert parse_tool_choice(value) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("any", "'any'"), (5, "int"), ({}, "dict"), ({"function": "weather"}, "dict"),
        ({"function": {"name": ""}}, "dict"),
    ],
)
def test_a_malformed_tool_choice_is_told_what_is_allowed(value, shown):
    with pytest.raises(InvalidRequestError) as caught:
        parse_tool_choice(value)
    assert caught.value.message == (
        f"tool_choice is {shown}; "
        "expected 'auto', 'none', 'required' or {'type': 'function', 'function': {'name': …}}"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (ResponseFormat(), ResponseFormat()),
        ({"type": "text"}, None),
        ({"type": "json_object"}, ResponseFormat()),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, ResponseFormat(SCHEMA)),
        ({"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True, "description": "d"}},
         ResponseFormat(SCHEMA, "city", True, "d")),
    ],
)
def test_a_response_format_may_be_given_in_several_forms(value, expected):
    assert parse_response_format(value) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("json", "'json'"),
        ({}, "dict"),
        ({"type": "xml"}, "dict"),
        ({"type": "json_schema"}, "dict"),
        ({"type": "json_schema", "json_schema": SCHEMA}, "dict"),
    ],
)
def test_a_malformed_response_format_is_told_what_is_allowed(value, shown):
    with pytest.raises(InvalidRequestError) as caught:
        parse_response_format(value)
    assert caught.value.message == (
        f"response_format is {shown}; expected {{'type': 'json_object'}} or "
        "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}"
    )
