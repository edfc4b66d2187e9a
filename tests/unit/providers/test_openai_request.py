"""Requests in Chat Completions' form, and each vendor's names for the same things."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.config import GenerationParams
from orchestrator.core.errors import InvalidRequestError
from orchestrator.core.types import (
    ImagePart,
    Message,
    Request,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from orchestrator.providers._openai_wire import encode_body, encode_request
from orchestrator.providers.catalog import VENDORS

OPENAI, MISTRAL = VENDORS["openai"], VENDORS["mistral"]


def body(request: Request, vendor: str = "openai", *, stream: bool = False, **base: Any) -> dict[str, Any]:
    return encode_request(request, VENDORS[vendor], base, stream=stream)


def messages(*turns: Message, vendor: str = "openai") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = body(Request(messages=turns), vendor)["messages"]
    return sent


def test_a_prompt_is_one_user_message_and_what_is_unset_is_not_sent():
    assert body(Request("hi"), model="m") == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False,
    }


@pytest.mark.parametrize(("vendor", "limit", "seed"), [
    ("openai", "max_completion_tokens", "seed"), ("groq", "max_tokens", "seed"),
    ("mistral", "max_tokens", "random_seed"),
])
def test_every_knob_has_the_vendor_s_name(vendor, limit, seed):
    params = GenerationParams(temperature=0.5, max_tokens=9, top_p=0.9, stop=("a", "b"), seed=0)
    sent = body(Request("hi", params), vendor)
    del sent["messages"], sent["stream"]
    assert sent == {"temperature": 0.5, limit: 9, "top_p": 0.9, "stop": ("a", "b"), seed: 0}
    assert encode_body({"stop": ("a", "b")}) == b'{"stop":["a","b"]}'


@pytest.mark.parametrize(("vendor", "asked"), [("openai", True), ("mistral", False), ("yandex", False), ("vllm", True)])
def test_usage_of_a_stream_is_asked_for_where_that_is_possible(vendor, asked):
    sent = body(Request("hi"), vendor, stream=True)
    assert sent["stream"] is True
    assert ("stream_options" in sent) is asked
    assert sent.get("stream_options", {"include_usage": True}) == {"include_usage": True}


def test_what_the_configuration_adds_is_sent_and_the_request_overrides_it():
    sent = body(
        Request("hi", GenerationParams(temperature=1)), stream=True,
        temperature=0, top_k=5, stream_options={"include_usage": False}, messages=[],
    )
    assert (sent["temperature"], sent["top_k"], len(sent["messages"])) == (1, 5, 1)
    assert sent["stream_options"] == {"include_usage": False}


def test_a_conversation_with_tools_is_sent_turn_by_turn():
    call = ToolCall("call_1", "weather", '{"city": "Omsk"}')
    sent = messages(
        Message("system", "be brief"),
        Message("user", "weather?", name="ann"),
        Message("assistant", "", (call,)),
        Message("tool", "-30", tool_call_id="call_1", name="weather"),
        Message("assistant", "cold", (call,)),
    )
    wire = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Omsk"}'}}
    assert sent == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [wire]},
        {"role": "tool", "content": "-30", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "cold", "tool_calls": [wire]},
    ]


def test_images_make_a_list_of_parts_and_text_alone_stays_a_text():
    parts = (TextPart("what is "), TextPart("this?"), ImagePart("https://x/a.png"), ImagePart("data:,", "low"))
    with_images, text_only = messages(Message("user", parts), Message("user", parts[:2]))
    assert with_images["content"] == [
        {"type": "text", "text": "what is "},
        {"type": "text", "text": "this?"},
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
    ]
    assert text_only["content"] == "what is this?"


def test_ids_of_tool_calls_made_elsewhere_fit_mistral_and_stay_pairs():
    turns = (
        Message("assistant", "", (ToolCall("call_abc-1", "f", "{}"), ToolCall("Ab3456789", "g", "{}"))),
        Message("tool", "x", tool_call_id="call_abc-1"), Message("tool", "y", tool_call_id="Ab3456789"),
    )
    assistant, first, second = messages(*turns, vendor="mistral")
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert [first["tool_call_id"], second["tool_call_id"]] == ids
    assert ids[1] == "Ab3456789"
    assert ids[0] != "call_abc-1"
    assert len(ids[0]) == 9
    assert ids[0].isalnum()


def test_tools_choices_and_formats_have_openai_s_shape():
    schema = {"type": "object"}
    request = Request(
        "hi", tools=[Tool("f", "does f", {"type": "object", "a": 1}, strict=True), Tool("g")],
        tool_choice=ToolChoice("named", "f"), response_format=ResponseFormat(schema, "out", True, "the answer"),
    )
    sent = body(request)
    assert [tool["function"] for tool in sent["tools"]] == [
        {"name": "f", "description": "does f", "parameters": {"type": "object", "a": 1}, "strict": True},
        {"name": "g", "parameters": {"type": "object", "properties": {}}},
    ]
    assert {tool["type"] for tool in sent["tools"]} == {"function"}
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {
        "name": "out", "schema": schema, "strict": True, "description": "the answer"}}


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_choice_that_names_no_tool_is_a_word(mode):
    assert body(Request("hi", tools=[Tool("f")], tool_choice=ToolChoice(mode)))["tool_choice"] == mode


def test_a_format_without_schema_is_any_object_and_unset_details_are_left_out():
    assert body(Request("hi", response_format=ResponseFormat()))["response_format"] == {"type": "json_object"}
    wanted = body(Request("hi", response_format=ResponseFormat({"type": "object"})))["response_format"]
    assert wanted["json_schema"] == {"name": "answer", "schema": {"type": "object"}}


def test_text_is_sent_as_utf_8_without_escapes_or_spaces():
    assert encode_body({"content": "привет 🐘\n", "n": 1}) == '{"content":"привет 🐘\\n","n":1}'.encode()


@pytest.mark.parametrize(("value", "message"), [
    ("\ud83d", "half of a surrogate pair"), ({1, 2}, "extra_body hold what JSON cannot"), (float("nan"), "JSON cannot"),
    (b"x", "JSON cannot"),
])
def test_what_json_cannot_carry_is_the_caller_s_error(value, message):
    with pytest.raises(InvalidRequestError, match=message):
        encode_body({"x": value})


def test_a_schema_that_holds_itself_is_the_caller_s_error():
    schema: dict[str, Any] = {}
    schema["properties"] = schema
    with pytest.raises(InvalidRequestError, match="JSON cannot"):
        encode_body(schema)
