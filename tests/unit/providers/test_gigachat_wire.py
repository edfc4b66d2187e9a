"""GigaChat's dialect: every field there and back, what is refused, and streams that are whole, broken or filtered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.config import GenerationParams
from orchestrator.core.errors import InvalidRequestError, MalformedResponseError, OverloadedError, ServerError
from orchestrator.core.messages import parse_messages
from orchestrator.core.types import (
    Finished,
    Message,
    ReasoningDelta,
    Request,
    ResponseFormat,
    StreamEvent,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from orchestrator.providers._conversation import Source
from orchestrator.providers._gigachat_wire import SUPPORTS, StreamDecoder, decode, encode, refused_field

STATE = "0b9c4b3e-6a55-4d0e-9c2f-3f1d7a2b4c5d"
WEATHER = Tool("weather", "The weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
SOURCE = Source("giga", "GigaChat-2", "req-7")


def body(request: Request, *, stream: bool = False, **extra: Any) -> dict[str, Any]:
    return encode(request, model="GigaChat-2", stream=stream, extra=extra)


def conversation(*messages: dict[str, Any] | Message, **fields: Any) -> Request:
    return Request(messages=parse_messages(messages), **fields)


def sent(*messages: dict[str, Any] | Message) -> list[dict[str, Any]]:
    messages_sent: list[dict[str, Any]] = body(conversation(*messages))["messages"]
    return messages_sent


def reply(message: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"message": message or {"role": "assistant", "content": "Да"}, "index": 0, "finish_reason": "stop"}
    choice |= {key: fields.pop(key) for key in ("finish_reason",) if key in fields}
    return {"choices": [choice], "created": 1790000000, "model": "GigaChat-2:2.0.28.2", **fields}


def chunk(delta: dict[str, Any], **fields: Any) -> str:
    choice = {"delta": delta, "index": 0}
    choice |= {key: fields.pop(key) for key in ("finish_reason",) if key in fields}
    return json.dumps({"choices": [choice], "model": "GigaChat-2:2.0.28.2", "object": "chat.completion"} | fields)


def streamed(*data: str) -> list[StreamEvent]:
    decoder = StreamDecoder(SOURCE)
    events = [event for text in data for event in decoder.feed(f"data: {text}\n\n".encode())]
    return [*events, *decoder.finish()]


class TestRequest:
    def test_a_prompt_is_one_user_message_and_nothing_unset_is_sent(self):
        assert body(Request("Hi")) == {"model": "GigaChat-2", "messages": [{"role": "user", "content": "Hi"}]}

    def test_a_stream_is_asked_for(self):
        assert body(Request("Hi"), stream=True)["stream"] is True

    def test_the_knobs_have_the_names_they_have_with_us(self):
        params = GenerationParams(temperature=0.5, max_tokens=9, top_p=0.25)
        assert body(Request("Hi", params)).items() >= {"temperature": 0.5, "max_tokens": 9, "top_p": 0.25}.items()

    def test_temperature_zero_becomes_a_nucleus_of_one_token(self):
        encoded = body(Request("Hi", GenerationParams(temperature=0.0, top_p=0.9)))
        assert "temperature" not in encoded
        assert encoded["top_p"] == 0

    def test_fields_of_the_configuration_are_sent_and_those_of_the_request_override_them(self):
        encoded = body(Request("Hi", GenerationParams(top_p=0.5)), profanity_check=False, top_p=0.1, messages=[])
        assert encoded["profanity_check"] is False
        assert encoded["top_p"] == 0.5
        assert encoded["messages"] == [{"role": "user", "content": "Hi"}]

    def test_text_parts_are_joined(self):
        assert sent(Message("user", (TextPart("a"), TextPart("b")))) == [{"role": "user", "content": "ab"}]

    def test_the_system_messages_at_the_beginning_become_one(self):
        assert sent(
            {"role": "system", "content": "Be short."}, {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
        ) == [{"role": "system", "content": "Be short.\n\nBe kind."}, {"role": "user", "content": "Hi"}]

    def test_an_answer_of_before(self):
        assert sent(Message("user", "Hi"), Message("assistant", "Hello"))[1] == {
            "role": "assistant", "content": "Hello",
        }

    def test_a_later_system_message_is_refused_by_its_place(self):
        request = conversation({"role": "user", "content": "Hi"}, {"role": "system", "content": "Be short."})
        assert refused_field(request) == "messages[1].role"
        with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.role"):
            body(request)

    def test_a_call_and_its_result(self):
        assert sent(
            {"role": "user", "content": "Weather?"},
            Message("assistant", "", (ToolCall(STATE, "weather", '{"city": "Томск"}'),)),
            {"role": "tool", "tool_call_id": STATE, "content": '{"degrees": -20}'},
        )[1:] == [
            {"role": "assistant", "content": "", "functions_state_id": STATE,
             "function_call": {"name": "weather", "arguments": {"city": "Томск"}}},
            {"role": "function", "name": "weather", "content": '{"degrees": -20}'},
        ]

    def test_the_id_of_a_call_that_another_provider_made_is_no_state(self):
        first = sent(Message("assistant", "", (ToolCall("call_abc", "weather", ""),)))[0]
        assert first == {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": {}}}

    def test_a_result_in_plain_text_becomes_a_json_text(self):
        call = Message("assistant", "", (ToolCall("c", "weather", "{}"),))
        result = sent(call, {"role": "tool", "tool_call_id": "c", "content": 'снег "1"'})[1]
        assert result["content"] == '"снег \\"1\\""'

    def test_ids_may_repeat_from_turn_to_turn(self):
        names = [message.get("name") for message in sent(
            Message("assistant", "", (ToolCall("c", "weather", "{}"),)), Message("tool", "1", (), "c"),
            Message("assistant", "", (ToolCall("c", "clock", "{}"),)), Message("tool", "2", (), "c"),
        )]
        assert names == [None, "weather", None, "clock"]

    def test_a_result_whose_call_is_not_there_needs_a_name(self):
        assert sent(Message("tool", "1", (), "c", "weather"))[0]["name"] == "weather"
        with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.tool_call_id"):
            sent(Message("tool", "1", (), "c"))

    @pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "[" * 100_000])
    def test_arguments_that_are_no_object_are_refused_by_their_place(self, arguments: str):
        with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.tool_calls\[0\]: the arguments .* 'weather'"):
            sent(Message("assistant", "", (ToolCall("c", "weather", arguments),)))

    def test_two_calls_in_one_message_are_refused(self):
        calls = (ToolCall("a", "weather", "{}"), ToolCall("b", "weather", "{}"))
        request = conversation({"role": "user", "content": "Hi"}, Message("assistant", "", calls))
        assert refused_field(request) == "messages[1].tool_calls"
        with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.tool_calls"):
            body(request)

    def test_tools_become_functions_the_model_may_call(self):
        encoded = body(Request("Hi", tools=(WEATHER, Tool("clock"))))
        assert encoded["function_call"] == "auto"
        assert encoded["functions"] == [
            {"name": "weather", "description": "The weather of a city", "parameters": WEATHER.parameters},
            {"name": "clock", "parameters": {"type": "object", "properties": {}}},
        ]

    @pytest.mark.parametrize(("choice", "expected"), [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("named", "weather"), {"name": "weather"}),
    ])
    def test_tool_choice(self, choice: ToolChoice, expected: object):
        assert body(Request("Hi", tools=(WEATHER,), tool_choice=choice))["function_call"] == expected

    def test_without_tools_the_model_gets_no_leave_to_call_its_own_functions(self):
        assert "function_call" not in body(Request("Hi", tool_choice=ToolChoice("auto")))

    def test_a_json_schema(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        assert body(Request("Hi", response_format=ResponseFormat(schema)))["response_format"] == {
            "type": "json_schema", "schema": schema,
        }
        described = ResponseFormat(schema, strict=True, description="A number")
        assert body(Request("Hi", response_format=described))["response_format"] == {
            "type": "json_schema", "schema": {**schema, "description": "A number"}, "strict": True,
        }
        assert "description" not in schema

    def test_what_it_supports(self):
        assert {"temperature", "max_tokens", "top_p", "messages", "tools", "tool_choice", "json_schema"} == SUPPORTS

    @pytest.mark.parametrize(("request_", "field"), [
        (Request("Hi", tools=(WEATHER,), tool_choice=ToolChoice("required")), "tool_choice"),
        (Request("Hi", tools=(Tool("clock"), Tool("x", strict=True))), "tools[1].strict"),
        (conversation({"role": "user", "content": "Hi", "name": "ann"}), "messages[0].name"),
        (conversation({"role": "system", "content": "a"}, {"role": "system", "content": "b"}), None),
        (Request("Hi", tools=(Tool("x", strict=False),), tool_choice=ToolChoice("auto")), None),
    ])
    def test_fields_it_cannot_carry_although_it_has_their_kind(self, request_: Request, field: str | None):
        assert refused_field(request_) == field


class TestReply:
    def test_text_model_usage_and_request_id(self):
        payload = reply(usage={"prompt_tokens": 17, "completion_tokens": 2, "total_tokens": 19,
                               "precached_prompt_tokens": 0})
        completion = decode(payload, SOURCE)
        assert (completion.text, completion.finish_reason) == ("Да", "stop")
        assert completion.model == "GigaChat-2:2.0.28.2"
        assert completion.usage == Usage(17, 2)
        assert (completion.provider, completion.request_id) == ("giga", "req-7")
        assert completion.raw is payload

    def test_cached_tokens_are_counted_beside_the_prompt(self):
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5, "precached_prompt_tokens": 37}
        assert decode(reply(usage=usage), SOURCE).usage == Usage(38, 4, cached_tokens=37)

    @pytest.mark.parametrize("usage", [None, [], "many"])
    def test_a_missing_usage_is_unknown(self, usage: object):
        assert decode(reply(usage=usage), SOURCE).usage is None

    def test_a_function_call(self):
        message = {"role": "assistant", "content": "", "functions_state_id": STATE,
                   "function_call": {"name": "weather", "arguments": {"city": "Томск"}}}
        completion = decode(reply(message, finish_reason="function_call"), SOURCE)
        assert completion.tool_calls == (ToolCall(STATE, "weather", '{"city": "Томск"}'),)
        assert (completion.text, completion.finish_reason) == ("", "tool_calls")

    def test_a_function_call_without_state_and_with_the_reason_stop(self):
        message = {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}}
        completion = decode(reply(message), SOURCE)
        assert completion.tool_calls == (ToolCall("call_0", "clock", "{}"),)
        assert completion.finish_reason == "tool_calls"

    def test_its_own_calls_can_be_sent_back(self):
        message = {"role": "assistant", "content": "", "functions_state_id": STATE,
                   "function_call": {"name": "weather", "arguments": {"city": "Томск"}}}
        calls = decode(reply(message), SOURCE).tool_calls
        assert sent(Message("assistant", "", calls)) == [message]

    @pytest.mark.parametrize(("reason", "ours"), [
        ("stop", "stop"), ("length", "length"), ("blacklist", "content_filter"), (None, "stop"),
    ])
    def test_finish_reasons(self, reason: str | None, ours: str):
        assert decode(reply(finish_reason=reason), SOURCE).finish_reason == ours

    @pytest.mark.parametrize("reason", ["error", "something new", 7])
    def test_an_answer_that_did_not_end_well_is_none(self, reason: object):
        with pytest.raises(MalformedResponseError, match=repr(reason)):
            decode(reply(finish_reason=reason), SOURCE)

    def test_reasoning(self):
        message = {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}
        assert decode(reply(message), SOURCE).reasoning == "2 + 2"

    @pytest.mark.parametrize("payload", [
        None, [], "text", {}, {"choices": []}, {"choices": [None]}, {"choices": {}}, {"choices": [{}]},
        {"choices": [{"message": "Да"}]},
        reply({"content": ["Да"]}),
        reply({"content": "", "function_call": {"arguments": {}}}),
        reply({"content": "", "function_call": "weather"}),
        reply(model=7),
    ])
    def test_what_is_no_answer_is_malformed(self, payload: object):
        with pytest.raises(MalformedResponseError) as caught:
            decode(payload, SOURCE)
        assert (caught.value.provider, caught.value.request_id) == ("giga", "req-7")

    def test_an_error_inside_a_success(self):
        with pytest.raises(ServerError, match="Internal Server Error") as caught:
            decode({"status": 500, "message": "Internal Server Error"}, SOURCE)
        assert (caught.value.status_code, caught.value.request_id) == (500, "req-7")


class TestStream:
    def test_pieces_then_the_end_with_usage(self):
        events = streamed(
            chunk({"content": "1, ", "role": "assistant"}),
            chunk({"content": "2"}),
            chunk({"content": ""}, finish_reason="stop", usage={
                "prompt_tokens": 17, "completion_tokens": 4, "total_tokens": 21, "precached_prompt_tokens": 3}),
            "[DONE]",
        )
        assert events[:2] == [TextDelta("1, "), TextDelta("2")]
        assert isinstance(events[2], Finished)
        completion = events[2].completion
        assert (completion.text, completion.finish_reason) == ("", "stop")
        assert completion.model == "GigaChat-2:2.0.28.2"
        assert completion.usage == Usage(20, 4, 3)
        assert (completion.provider, completion.request_id) == ("giga", "req-7")

    def test_a_function_call_comes_whole(self):
        events = streamed(
            chunk({"content": "", "function_call": {"name": "weather", "arguments": {"city": "Томск"}},
                   "functions_state_id": STATE}),
            chunk({"content": ""}, finish_reason="function_call"),
        )
        assert events[0] == ToolCallDelta(0, STATE, "weather", '{"city": "Томск"}')
        assert isinstance(events[1], Finished)
        assert events[1].completion.finish_reason == "tool_calls"

    def test_reasoning_comes_before_the_text(self):
        assert streamed(
            chunk({"reasoning_content": "2 + 2"}), chunk({"content": "4", "reasoning_content": "!"}),
            chunk({}, finish_reason="stop"),
        )[:3] == [ReasoningDelta("2 + 2"), ReasoningDelta("!"), TextDelta("4")]

    def test_the_filters_text_is_not_the_models(self):
        events = streamed(chunk({"content": "I'd rather not"}, finish_reason="blacklist"), "[DONE]")
        assert len(events) == 1
        assert isinstance(events[0], Finished)
        assert events[0].completion.finish_reason == "content_filter"

    def test_with_the_finish_reason_and_the_usage_it_is_done(self):
        decoder = StreamDecoder(SOURCE)
        for text, done in [
            (chunk({"content": "a"}), False),
            (chunk({}, finish_reason="stop"), False),
            (chunk({}, finish_reason="stop", usage={"completion_tokens": 1}), True),
            (chunk({"content": "b"}), True),
        ]:
            pieces = list(decoder.feed(f"data: {text}\n\n".encode()))
            assert decoder.done is done
        assert pieces == []

    def test_what_follows_done_is_not_read(self):
        assert streamed(chunk({"content": "a"}, finish_reason="stop"), "[DONE]", "{")[:-1] == [TextDelta("a")]

    def test_events_without_data_are_skipped(self):
        assert streamed("", chunk({"content": "a"}), "", chunk({}, finish_reason="stop"), "")[:-1] == [TextDelta("a")]

    def test_without_done_a_finish_reason_ends_it_too(self):
        assert isinstance(streamed(chunk({"content": "a"}, finish_reason="length"))[-1], Finished)

    @pytest.mark.parametrize("end", [[], ["[DONE]"]], ids=["closed", "done"])
    def test_a_stream_without_a_finish_reason_was_cut(self, end: list[str]):
        with pytest.raises(MalformedResponseError, match="cut"):
            streamed(chunk({"content": "a"}), *end)

    def test_the_reason_error_is_an_error(self):
        with pytest.raises(MalformedResponseError, match="'error'"):
            streamed(chunk({"content": "a"}), chunk({}, finish_reason="error"))

    @pytest.mark.parametrize(("payload", "kind"), [
        ({"status": 500, "message": "Internal Server Error"}, ServerError),
        ({"code": 503, "message": "busy"}, OverloadedError),
        ({"error": {"message": "broken"}}, ServerError),
    ])
    def test_an_error_in_the_middle(self, payload: dict[str, Any], kind: type[ServerError]):
        with pytest.raises(kind):
            streamed(chunk({"content": "a"}), json.dumps(payload))

    @pytest.mark.parametrize("data", ["{", "[]", "1", "<html>", "[" * 100_000, '{"choices":[{"delta":{"content":1}}]}'])
    def test_what_is_no_event_is_malformed(self, data: str):
        with pytest.raises(MalformedResponseError):
            streamed(data)

    def test_events_without_a_choice_or_a_delta_add_nothing(self):
        events = streamed(
            '{"choices":[]}', '{"choices":[{"index":0}]}', '{"choices":[],"usage":{"completion_tokens":4}}',
            chunk({"content": "a"}, finish_reason="stop", usage=None),
        )
        assert events[0] == TextDelta("a")
        assert isinstance(events[1], Finished)
        assert events[1].completion.usage == Usage(0, 4)
