"""YandexGPT's native dialect: every field there and back, and streams that repeat, rewrite or lose their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.config import GenerationParams
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedResponseError,
    OverloadedError,
    ProviderError,
)
from orchestrator.core.messages import parse_messages
from orchestrator.core.types import (
    Finished,
    Message,
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
from orchestrator.providers._yandex_wire import SUPPORTS, StreamDecoder, decode, encode, model_uri, refused_field

URI = "gpt://b1gfolder/yandexgpt-lite/latest"
WEATHER = Tool("weather", "The weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
SOURCE = Source("yandex", "yandexgpt-lite", "req-7")


def body(request: Request, *, stream: bool = False, **extra: Any) -> dict[str, Any]:
    return encode(request, uri=URI, stream=stream, extra=extra)


def sent(*messages: dict[str, Any] | Message) -> list[dict[str, Any]]:
    messages_sent: list[dict[str, Any]] = body(Request(messages=parse_messages(messages)))["messages"]
    return messages_sent


def result(text: object, status: str = "FINAL", **message: Any) -> dict[str, Any]:
    content: dict[str, Any] = message if text is None else {"text": text, **message}
    return {
        "alternatives": [{"message": {"role": "assistant", **content}, "status": f"ALTERNATIVE_STATUS_{status}"}],
        "usage": {"inputTextTokens": "19", "completionTokens": "4", "totalTokens": "23",
                  "completionTokensDetails": {"reasoningTokens": "2"}},
        "modelVersion": "18.02.2026",
    }


def line(text: str | None, status: str = "PARTIAL", **message: Any) -> str:
    return json.dumps({"result": result(text, status, **message)})


def streamed(*lines: str) -> list[StreamEvent]:
    decoder = StreamDecoder(SOURCE)
    events = [event for text in lines for event in decoder.feed(f"{text}\n".encode())]
    return [*events, *decoder.finish()]


def calls(*named: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"toolCalls": [{"functionCall": {"name": name, "arguments": arguments}} for name, arguments in named]}


class TestRequest:
    def test_a_prompt_is_one_user_message_and_nothing_unset_is_sent(self):
        assert body(Request("Hi")) == {
            "modelUri": URI, "completionOptions": {"stream": False}, "messages": [{"role": "user", "text": "Hi"}],
        }

    @pytest.mark.parametrize(("model", "uri"), [
        ("yandexgpt-lite", URI),
        ("yandexgpt-lite/rc", "gpt://b1gfolder/yandexgpt-lite/rc"),
        ("gpt://other/aliceai-llm/latest@tuned", "gpt://other/aliceai-llm/latest@tuned"),
    ])
    def test_the_uri_of_a_model(self, model: str, uri: str):
        assert model_uri("b1gfolder", model) == uri

    def test_the_knobs_are_options_and_a_count_is_a_text(self):
        params = GenerationParams(temperature=0.5, max_tokens=900)
        options = body(Request("Hi", params), stream=True)["completionOptions"]
        assert options == {"stream": True, "temperature": 0.5, "maxTokens": "900"}

    def test_fields_of_the_configuration_are_sent_and_those_of_the_request_override_them(self):
        encoded = body(
            Request("Hi", GenerationParams(temperature=0.0)), parallelToolCalls=False,
            completionOptions={"temperature": 0.9, "reasoningOptions": {"mode": "DISABLED"}, "stream": True},
        )
        assert encoded["parallelToolCalls"] is False
        assert encoded["completionOptions"] == {
            "stream": False, "temperature": 0.0, "reasoningOptions": {"mode": "DISABLED"},
        }

    def test_roles_and_text_parts(self):
        assert sent(
            {"role": "system", "content": "Be short."}, Message("user", (TextPart("a"), TextPart("b"))),
            {"role": "assistant", "content": "c"},
        ) == [
            {"role": "system", "text": "Be short."}, {"role": "user", "text": "ab"}, {"role": "assistant", "text": "c"},
        ]

    def test_calls_and_their_results_belong_together_by_name_and_order(self):
        two = (ToolCall("a", "weather", '{"city": "Томск"}'), ToolCall("b", "weather", '{"city": "Омск"}'))
        assert sent(
            Message("assistant", "", two), Message("tool", "-19", (), "b"), Message("tool", "-20", (), "a"),
            {"role": "user", "content": "And?"},
        ) == [
            {"role": "assistant", "toolCallList": calls(("weather", {"city": "Томск"}), ("weather", {"city": "Омск"}))},
            {"role": "user", "toolResultList": {"toolResults": [
                {"functionResult": {"name": "weather", "content": "-20"}},
                {"functionResult": {"name": "weather", "content": "-19"}},
            ]}},
            {"role": "user", "text": "And?"},
        ]

    def test_ids_may_repeat_from_turn_to_turn(self):
        first = (ToolCall("call_0", "weather", ""), ToolCall("call_1", "clock", ""))
        second = (ToolCall("call_1", "weather", ""), ToolCall("call_0", "clock", ""))
        turns = sent(
            Message("assistant", "", first), Message("tool", "1", (), "call_0"), Message("tool", "2", (), "call_1"),
            Message("assistant", "", second), Message("tool", "3", (), "call_0"), Message("tool", "4", (), "call_1"),
        )
        named = [[tuple(r["functionResult"].values()) for r in turn["toolResultList"]["toolResults"]]
                 for turn in turns if "toolResultList" in turn]
        assert named == [[("weather", "1"), ("clock", "2")], [("weather", "4"), ("clock", "3")]]

    def test_a_text_beside_calls_is_a_message_of_its_own(self):
        assert sent(Message("assistant", "Let me see.", (ToolCall("a", "clock", ""),))) == [
            {"role": "assistant", "text": "Let me see."}, {"role": "assistant", "toolCallList": calls(("clock", {}))},
        ]

    def test_a_result_whose_call_is_not_there_needs_a_name(self):
        assert sent(Message("tool", "1", (), "c", "weather"))[0]["toolResultList"]["toolResults"] == [
            {"functionResult": {"name": "weather", "content": "1"}},
        ]
        with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.tool_call_id"):
            sent({"role": "user", "content": "Hi"}, Message("tool", "1", (), "c"))

    def test_arguments_that_are_no_object_are_refused_by_their_place(self):
        with pytest.raises(InvalidRequestError, match=r"messages\[0\]\.tool_calls\[1\]: the arguments"):
            sent(Message("assistant", "", (ToolCall("a", "weather", "{}"), ToolCall("b", "weather", "{"))))

    def test_tools(self):
        assert body(Request("Hi", tools=(WEATHER, Tool("clock", strict=True))))["tools"] == [
            {"function": {"name": "weather", "description": "The weather of a city", "parameters": WEATHER.parameters}},
            {"function": {"name": "clock", "parameters": {"type": "object", "properties": {}}, "strict": True}},
        ]

    @pytest.mark.parametrize(("choice", "expected"), [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "REQUIRED"}),
        (ToolChoice("named", "weather"), {"functionName": "weather"}),
    ])
    def test_tool_choice(self, choice: ToolChoice, expected: dict[str, str]):
        assert body(Request("Hi", tools=(WEATHER,), tool_choice=choice))["toolChoice"] == expected

    def test_response_formats(self):
        assert body(Request("Hi", response_format=ResponseFormat()))["jsonObject"] is True
        schema = {"type": "object"}
        encoded = body(Request("Hi", response_format=ResponseFormat(schema, description="A number")))
        assert encoded["jsonSchema"] == {"schema": {"type": "object", "description": "A number"}}
        assert "jsonObject" not in encoded

    def test_what_it_supports(self):
        assert {
            "temperature", "max_tokens", "messages", "tools", "tool_choice", "json_object", "json_schema",
        } == SUPPORTS

    @pytest.mark.parametrize(("request_", "field"), [
        (Request("Hi", GenerationParams(temperature=1.01)), "temperature"),
        (Request("Hi", GenerationParams(temperature=1.0)), None),
        (Request(messages=(Message("user", "Hi", name="ann"),)), "messages[0].name"),
    ])
    def test_fields_it_cannot_carry_although_it_has_their_kind(self, request_: Request, field: str | None):
        assert refused_field(request_) == field


class TestReply:
    @pytest.mark.parametrize("wrapped", [True, False], ids=["result", "bare"])
    def test_text_usage_and_request_id(self, wrapped: bool):
        payload = {"result": result("Привет")} if wrapped else result("Привет")
        completion = decode(payload, SOURCE)
        assert (completion.text, completion.finish_reason) == ("Привет", "stop")
        assert completion.usage == Usage(19, 4, reasoning_tokens=2)
        assert (completion.provider, completion.model, completion.request_id) == ("yandex", "yandexgpt-lite", "req-7")
        assert completion.raw is payload

    @pytest.mark.parametrize(("usage", "expected"), [
        ({"inputTextTokens": 7, "completionTokens": 3}, Usage(7, 3)),
        ({"inputTextTokens": "x", "completionTokens": "9" * 5000}, Usage(0, 0)),
        ({"inputTextTokens": -1, "completionTokens": None, "completionTokensDetails": []}, Usage(0, 0)),
        (None, None),
    ])
    def test_counts_in_any_form(self, usage: object, expected: Usage | None):
        assert decode({**result("a"), "usage": usage}, SOURCE).usage == expected

    @pytest.mark.parametrize(("status", "ours"), [
        ("FINAL", "stop"), ("TRUNCATED_FINAL", "length"), ("CONTENT_FILTER", "content_filter"),
    ])
    def test_statuses(self, status: str, ours: str):
        assert decode(result("a", status), SOURCE).finish_reason == ours

    @pytest.mark.parametrize("status", ["PARTIAL", "UNSPECIFIED", "NEW"])
    def test_an_answer_that_did_not_end_well_is_none(self, status: str):
        with pytest.raises(MalformedResponseError, match=f"ALTERNATIVE_STATUS_{status}"):
            decode(result("a", status), SOURCE)

    @pytest.mark.parametrize("status", ["TOOL_CALLS", "FINAL"])
    def test_calls_get_ids(self, status: str):
        listed = calls(("weather", {"city": "Томск"}), ("clock", {}))
        completion = decode(result(None, status, toolCallList=listed), SOURCE)
        assert completion.tool_calls == (
            ToolCall("call_0", "weather", '{"city": "Томск"}'), ToolCall("call_1", "clock", "{}"),
        )
        assert (completion.text, completion.finish_reason) == ("", "tool_calls")
        assert sent(Message("assistant", "", completion.tool_calls))[0]["toolCallList"] == listed

    @pytest.mark.parametrize("payload", [
        None, [], {}, {"result": None}, {"result": {}}, {"alternatives": []}, {"alternatives": None},
        {"alternatives": [{}]}, {"alternatives": [{"message": "a", "status": "ALTERNATIVE_STATUS_FINAL"}]},
        {"alternatives": [{"message": {"text": "a"}}]},
        result(["a"]),
        result(None, "TOOL_CALLS", toolCallList={"toolCalls": [{}]}),
        result(None, "TOOL_CALLS", toolCallList={"toolCalls": [None]}),
    ])
    def test_what_is_no_answer_is_malformed(self, payload: object):
        with pytest.raises(MalformedResponseError) as caught:
            decode(payload, SOURCE)
        assert (caught.value.provider, caught.value.request_id) == ("yandex", "req-7")


ERROR_LINES = [
    ({"error": {"grpcCode": 14, "httpCode": 503, "message": "unavailable", "httpStatus": "Unavailable", "details": []}},
     OverloadedError),
    ({"code": 16, "message": "token expired", "details": []}, AuthenticationError),
]


class TestStream:
    def test_whole_texts_become_pieces(self):
        events = streamed(line("При"), line("Привет, мир"), line("Привет, мир!", "FINAL"))
        assert events[:3] == [TextDelta("При"), TextDelta("вет, мир"), TextDelta("!")]
        assert isinstance(events[3], Finished)
        completion = events[3].completion
        assert (completion.text, completion.finish_reason) == ("", "stop")
        assert completion.usage == Usage(19, 4, reasoning_tokens=2)
        assert (completion.model, completion.request_id) == ("yandexgpt-lite", "req-7")

    def test_lines_without_the_wrapper(self):
        assert streamed(json.dumps(result("a", "PARTIAL")), json.dumps(result("ab", "TRUNCATED_FINAL")))[:2] == [
            TextDelta("a"), TextDelta("b"),
        ]

    def test_a_line_that_adds_nothing_is_no_piece(self):
        assert streamed(line(""), line("a"), line("a"), line("a", "FINAL"))[:-1] == [TextDelta("a")]

    def test_a_rewrite_that_the_last_line_takes_back_is_not_seen(self):
        events = streamed(line("Привет"), line("Прив"), line("Здравствуй"), line("Привет!", "FINAL"))
        assert events[:-1] == [TextDelta("Привет"), TextDelta("!")]

    @pytest.mark.parametrize("last", ["Здравствуй", "При", ""])
    @pytest.mark.parametrize("status", ["FINAL", "TRUNCATED_FINAL"])
    def test_a_last_line_that_rewrites_the_text_is_no_end_of_it(self, last: str, status: str):
        with pytest.raises(MalformedResponseError, match="rewrites"):
            streamed(line("Привет"), line(last, status))

    @pytest.mark.parametrize("lines", [[], [line("Как")]], ids=["at once", "later"])
    def test_the_filters_text_is_not_the_models(self, lines: list[str]):
        events = streamed(*lines, line("I'd rather not", "CONTENT_FILTER"))
        assert len(events) == len(lines) + 1
        assert isinstance(events[-1], Finished)
        assert events[-1].completion.finish_reason == "content_filter"

    def test_calls_come_with_the_last_line(self):
        listed = calls(("weather", {"n": 1}), ("clock", {}))
        events = streamed(line(""), line(None, "TOOL_CALLS", toolCallList=listed))
        assert events[:2] == [
            ToolCallDelta(0, "call_0", "weather", '{"n": 1}'), ToolCallDelta(1, "call_1", "clock", "{}"),
        ]
        assert isinstance(events[2], Finished)
        assert events[2].completion.finish_reason == "tool_calls"

    @pytest.mark.parametrize("lines", [[], [line("a")], [line("a"), line("ab")]])
    def test_a_stream_without_a_last_line_was_cut(self, lines: list[str]):
        with pytest.raises(MalformedResponseError, match="cut"):
            streamed(*lines)

    def test_the_last_usage_counts(self):
        last = json.loads(line("ab", "FINAL"))["result"]
        del last["usage"]
        events = streamed(line("a"), json.dumps(last))
        assert isinstance(events[-1], Finished)
        assert events[-1].completion.usage == Usage(19, 4, reasoning_tokens=2)

    def test_what_follows_the_last_line_is_not_read(self):
        events = streamed(line("a", "FINAL"), line("ab", "FINAL"), '{"error": {"httpCode": 500}}')
        assert events[:-1] == [TextDelta("a")]

    def test_an_unknown_status_ends_no_answer(self):
        with pytest.raises(MalformedResponseError, match="UNSPECIFIED"):
            streamed(line("a"), line("ab", "UNSPECIFIED"))

    @pytest.mark.parametrize(("payload", "kind"), ERROR_LINES)
    def test_an_error_in_the_middle(self, payload: dict[str, Any], kind: type[ProviderError]):
        with pytest.raises(kind):
            streamed(line("a"), json.dumps(payload))

    @pytest.mark.parametrize("text", ["{", "[]", "null", "<html>", "{}", '{"result":1}'])
    def test_what_is_no_line_is_malformed(self, text: str):
        with pytest.raises(MalformedResponseError):
            streamed(text)

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=8))
    def test_the_pieces_of_any_growing_text_are_that_text(self, text: str, cuts: list[int]):
        lines = [line(text[:cut]) for cut in sorted(cuts)]
        events = streamed(*lines, line(text, "FINAL"))
        pieces = [event.text for event in events if isinstance(event, TextDelta)]
        assert "".join(pieces) == text
        assert "" not in pieces
