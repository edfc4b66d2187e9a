"""Replies of every vendor of the family, whole and in pieces, and everything that is no reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.accumulate import Accumulator
from orchestrator.core.errors import (
    ContentFilteredError,
    MalformedResponseError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from orchestrator.core.types import Completion, Finished, ReasoningDelta, StreamEvent, TextDelta, ToolCall, Usage
from orchestrator.providers._openai_reply import Reply


def reply() -> Reply:
    return Reply(provider="p", model="asked", request_id="req-1", secrets=("topsecretkey",))


def whole(message: dict[str, Any] | None = None, reason: str | None = "stop", **fields: Any) -> Completion:
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    if message is not None:
        choice["message"] = message
    return reply().completion({"id": "c", "model": "m-1", "choices": [choice], **fields})


def delta(content: object = None, reason: object = None, **fields: Any) -> dict[str, Any]:
    """A choice of a chunk."""
    if content is not None:
        fields["content"] = content
    return {"index": 0, "delta": fields, "finish_reason": reason}


def chunk(*choices: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"object": "chat.completion.chunk", "model": "m-1", "choices": list(choices), **fields})


def events(*data: str) -> list[StreamEvent]:
    decoder = reply()
    return [*decoder.feed(data), decoder.finish()]


def streamed(*data: str) -> Completion:
    answer = Accumulator()
    for event in events(*data):
        answer.add(event)
    return answer.completion("p")


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}

# --- whole replies --------------------------------------------------------------------------------------------------


def test_a_whole_reply_is_read():
    details = {
        **USAGE, "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    found = whole({"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None}, usage=details)
    assert (found.text, found.model, found.provider, found.request_id) == ("Hi", "m-1", "p", "req-1")
    assert (found.finish_reason, found.usage, found.cost) == ("stop", Usage(9, 3, 4, 2), None)
    assert found.raw["id"] == "c"


def test_a_reply_without_model_usage_or_reason_is_still_an_answer():
    found = reply().completion({"choices": [{"message": {"content": "Hi"}}]})
    assert (found.text, found.model, found.usage, found.finish_reason) == ("Hi", "asked", None, "stop")


@pytest.mark.parametrize(("reason", "ours"), [
    ("stop", "stop"), ("eos", "stop"), ("STOP", "stop"), ("length", "length"), ("model_length", "length"),
    ("tool_calls", "tool_calls"), ("function_call", "tool_calls"), ("anything new", "stop"), (7, "stop"),
])
def test_reasons_to_finish_have_our_names(reason, ours):
    assert whole({"content": "x"}, reason).finish_reason == ours
    assert streamed(chunk(delta("x", reason))).finish_reason == ours


def test_the_last_reason_counts():
    assert streamed(chunk(delta("x", "length")), chunk(delta(None, "stop"))).finish_reason == "stop"
    assert streamed(chunk(delta("x", "stop")), chunk(delta(None, "length"))).finish_reason == "length"


@pytest.mark.parametrize(("usage", "ours"), [
    ({**USAGE, "cached_tokens": 5}, Usage(9, 3, 5)),
    ({**USAGE, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, Usage(9, 3, 6)),
    ({"prompt_tokens": 9.0, "completion_tokens": "3"}, Usage(9, 0)),
    ({"prompt_tokens": -1, "completion_tokens": None, "prompt_tokens_details": 5}, Usage()),
    ({"prompt_tokens": 10**30, "completion_tokens": True}, Usage(0, 1)),
])
def test_usage_is_read_in_every_vendor_s_form_and_nonsense_counts_nothing(usage, ours):
    assert whole({"content": "x"}, usage=usage).usage == ours


@pytest.mark.parametrize("usage", [None, {}, [], "many", 0])
def test_usage_that_is_not_told_is_unknown(usage):
    assert whole({"content": "x"}, usage=usage).usage is None


@pytest.mark.parametrize(("cost", "ours"), [(0.25, 0.25), (0, 0.0), (-1, None), ("1", None), (10**400, None)])
def test_a_cost_that_the_provider_bills_is_told(cost, ours):
    assert whole({"content": "x"}, usage={**USAGE, "cost": cost}).cost == ours


def test_reasoning_has_two_names_and_is_taken_once():
    assert whole({"content": "x", "reasoning": "hm"}).reasoning == "hm"
    assert whole({"content": "x", "reasoning_content": "hm", "reasoning": "hm"}).reasoning == "hm"
    assert whole({"content": "x", "reasoning": {"text": "hm"}}).reasoning == ""


def test_content_may_be_a_list_of_parts():
    found = whole({"content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "let me "}, {"type": "text", "text": "see"}]},
        {"type": "text", "text": "It is "}, {"type": "reference", "ids": [1]}, {"type": "text", "text": "so."},
        {"type": "thinking", "thinking": [{"type": "other"}]}, "!", {"type": "thinking", "thinking": "."}, 5,
    ]})
    assert (found.text, found.reasoning) == ("It is so.!", "let me see.")


def test_tool_calls_of_a_whole_reply_are_told_apart_by_their_place():
    found = whole({"content": None, "tool_calls": [
        {"id": "a", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "index": 0, "function": {"name": "g", "arguments": {"y": "ё"}}},
        {"function": {"name": "h", "arguments": None}},
    ]})
    assert found.tool_calls == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", '{"y": "ё"}'), ToolCall("", "h", ""))
    assert found.finish_reason == "tool_calls"
    assert found.text == ""


def test_arguments_nested_too_deeply_are_malformed():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MalformedResponseError, match="nested too deeply"):
        whole({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": deep}}]})


def test_only_the_first_of_several_answers_is_read():
    other = {"index": 1, "message": {"content": "other"}, "finish_reason": "stop"}
    first = {"index": 0, "message": {"content": "first"}, "finish_reason": "stop"}
    assert reply().completion({"choices": [other, first]}).text == "first"
    two = chunk(delta("a"), {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"})
    assert streamed(two, chunk(delta("c", "stop"))).text == "ac"


# --- refusals and failures within a success -------------------------------------------------------------------------


def test_a_refusal_is_a_content_filter():
    with pytest.raises(ContentFilteredError, match="the model refused: I cannot"):
        whole({"content": None, "refusal": "I cannot"})
    with pytest.raises(ContentFilteredError, match="the model refused: I cannot"):
        events(chunk(delta(refusal="I can")), chunk(delta(refusal="not")), chunk(delta(None, "stop")))


def test_a_filtered_answer_is_an_error_and_its_replacement_text_is_not_handed_out():
    with pytest.raises(ContentFilteredError, match="content filter stopped"):
        whole({"content": "I cannot talk about this"}, "content_filter")
    decoder = reply()
    list(decoder.feed([chunk(delta("Once "))]))
    with pytest.raises(ContentFilteredError):
        list(decoder.feed([chunk(delta("I cannot talk about this", "CONTENT_FILTER"))]))


@pytest.mark.parametrize(("reason", "kind"), [
    ("error", ServerError), ("insufficient_system_resource", OverloadedError), ("aborted", OverloadedError),
])
def test_a_reason_that_is_a_failure_is_raised(reason, kind):
    for attempt in (lambda: whole({"content": "half an ans"}, reason), lambda: events(chunk(delta("half", reason)))):
        with pytest.raises(ProviderError, match=reason) as caught:
            attempt()
        assert type(caught.value) is kind


@pytest.mark.parametrize(("payload", "kind"), [
    ({"error": {"message": "Upstream failed", "code": 502}, "user_id": "u"}, ServerError),
    ({"error": {"message": "slow down", "code": 429}, "choices": [delta("", "error")]}, RateLimitError),
    ({"error": "Unexpected endpoint or method. (GET /x)"}, ServerError),
    ({"error": {"message": "engine died"}, "message": "engine died"}, ServerError),
    ({"error": {"error": "text"}}, ServerError),
    ({"object": "error", "message": "old", "type": "InternalServerError", "code": 500}, ServerError),
    ({"choices": [{"index": 0, "error": {"code": 502, "message": "x"}, "finish_reason": "error"}]}, ServerError),
    ({"choices": [delta("x")], "x_groq": {"id": "r", "error": "over capacity"}}, ServerError),
])
def test_an_error_within_a_success_is_raised_whole_and_streamed(payload, kind):
    for attempt in (lambda: reply().completion(payload), lambda: list(reply().feed([json.dumps(payload)]))):
        with pytest.raises(ProviderError) as caught:
            attempt()
        assert type(caught.value) is kind
        assert caught.value.provider == "p"


def test_a_key_in_such_an_error_is_not_shown():
    with pytest.raises(ServerError) as caught:
        reply().completion({"error": "bad key topsecretkey"})
    assert "topsecretkey" not in str(caught.value)


MALFORMED = [
    (None, "reply is null"), ([], "reply is list"), ("x", "reply is str"),
    ({}, "no choices"), ({"choices": []}, "no choices"),
    ({"choices": None, "usage": USAGE}, "no choices"), ({"choices": {"a": 1}}, "choices is dict"),
    ({"choices": 5}, "choices is int"),
    ({"choices": ["x"]}, "a choice is str"), ({"choices": [None]}, "a choice is null"),
    ({"choices": [{"message": "x", "delta": "x"}]}, "is str, not an object"),
    ({"choices": [{"message": {"content": 5}, "delta": {"content": 5}}]}, "content is int"),
    ({"choices": [{"message": {"content": {"a": 1}}, "delta": {"content": {"a": 1}}}]}, "content is dict"),
    ({"choices": [{"message": {"tool_calls": "x"}, "delta": {"tool_calls": "x"}}]}, "tool_calls is str"),
    ({"choices": [{"message": {"tool_calls": ["x"]}, "delta": {"tool_calls": ["x"]}}]}, "tool call is no object"),
    ({"choices": [{"message": {"tool_calls": [{}]}, "delta": {"tool_calls": [{}]}}]}, "tool call is no object"),
    ({"choices": [{"message": {"tool_calls": [{"id": 1, "function": {}}]},
                   "delta": {"tool_calls": [{"id": 1, "function": {}}]}}]}, "id or the name of a tool call"),
]


@pytest.mark.parametrize(("payload", "message"), MALFORMED, ids=[json.dumps(row[0])[:60] for row in MALFORMED])
def test_what_is_no_reply_is_malformed_and_says_why(payload, message):
    with pytest.raises(MalformedResponseError, match=message):
        reply().completion(payload)
    with pytest.raises(MalformedResponseError, match=message):
        events(json.dumps(payload), "[DONE]")


@pytest.mark.parametrize("data", ["{", "<html>", "nope", "1" * 5000, "[" * 100_000])
def test_an_event_that_is_no_json_is_malformed(data):
    with pytest.raises(MalformedResponseError, match=r"an event of the stream is (not JSON|nested deeper)"):
        list(reply().feed([data]))


# --- streams, vendor by vendor --------------------------------------------------------------------------------------

TAIL = {**USAGE, "total_time": 0.02}
STREAMS = {
    "openai": [
        chunk(delta("", role="assistant"), usage=None), chunk(delta("Hi"), usage=None, obfuscation="xx"),
        chunk(delta(None, "stop"), usage=None), chunk(usage=USAGE), "[DONE]",
    ],
    "groq": [
        chunk(delta("", role="assistant"), x_groq={"id": "r"}), chunk(delta("Hi")),
        chunk(delta(None, "stop"), x_groq={"id": "r", "usage": TAIL}), chunk(usage=USAGE), "[DONE]",
    ],
    "together": [
        chunk({**delta("Hi", role="assistant", token_id=11), "text": "Hi"}, usage=None),
        chunk({**delta("", "eos"), "text": ""}, usage=USAGE), "[DONE]",
    ],
    "openrouter": [
        chunk(delta("Hi"), provider="P"), chunk(delta("", "stop"), provider="P"),
        chunk(delta("", "stop", role="assistant"), usage={**USAGE, "cost": 0.25}), "[DONE]",
    ],
    "deepseek": [
        chunk(delta(None, reasoning_content="hm", role="assistant"), usage=None),
        chunk(delta("Hi", reasoning_content=None)), chunk(delta("", "stop"), usage=USAGE), "[DONE]",
    ],
    "vllm, usage in every chunk": [
        chunk(delta("Hi"), usage={"prompt_tokens": 9, "completion_tokens": 1}), chunk(delta("", "stop"), usage=None),
        chunk(usage=USAGE), "[DONE]",
    ],
    "mistral": [
        chunk(delta("")), chunk(delta([{"type": "text", "text": "Hi"}]), p="a"), chunk(delta("", "stop"), usage=USAGE),
    ],
    "azure": [chunk(prompt_filter_results=[]), chunk(delta("Hi", "stop")), chunk(usage=USAGE), "[DONE]"],
    "yandex": [
        chunk(delta(role="assistant")), chunk(delta("Hi")), chunk(delta(None, "stop")), chunk(usage=USAGE), "[DONE]",
    ],
    "a server that sends messages": [
        json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": USAGE}),
    ],
}


@pytest.mark.parametrize("data", STREAMS.values(), ids=list(STREAMS))
def test_every_vendor_s_stream_gives_the_same_answer(data):
    found = streamed(*data)
    assert (found.text, found.finish_reason, found.usage) == ("Hi", "stop", Usage(9, 3))
    assert found.cost == (0.25 if "cost" in data[2 % len(data)] else None)


def test_empty_pieces_are_not_handed_out_and_the_end_comes_once():
    kinds = [type(event) for event in events(*STREAMS["deepseek"])]
    assert kinds == [ReasoningDelta, TextDelta, Finished]


def test_empty_events_and_whatever_follows_the_end_are_skipped():
    data = STREAMS["openai"]
    assert streamed("", *data, chunk(delta("more")), "{", "[DONE]").text == "Hi"


def test_usage_without_any_text_before_the_end_does_not_end_the_reply():
    decoder = reply()
    list(decoder.feed([chunk(usage=USAGE)]))
    assert (decoder.done, decoder.complete) == (False, False)
    list(decoder.feed([chunk(delta("Hi", "stop"))]))
    assert (decoder.done, decoder.complete) == (True, False)
    list(decoder.feed([chunk(usage=USAGE)]))
    assert decoder.complete


def test_a_stream_is_whole_with_a_reason_or_with_its_end_marker_and_cut_with_neither():
    assert streamed(chunk(delta("Hi", "length"))).finish_reason == "length"
    assert streamed(chunk(delta("Hi")), "[DONE]").finish_reason == "stop"
    with pytest.raises(MalformedResponseError, match="the stream was cut"):
        events(chunk(delta("Hi")))
    with pytest.raises(MalformedResponseError, match="no choices"):
        events("[DONE]")
    with pytest.raises(MalformedResponseError, match="no choices"):
        events()


def fragments(*calls: dict[str, Any]) -> tuple[ToolCall, ...]:
    return streamed(*(chunk(delta(tool_calls=[call])) for call in calls), chunk(delta(None, "tool_calls"))).tool_calls


def fragment(index: int | None, call_id: str | None, name: str | None, arguments: object) -> dict[str, Any]:
    told = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in told.items() if value is not None}


TWO = (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))


@pytest.mark.parametrize("calls", [
    [fragment(0, "a", "f", ""), fragment(0, None, None, '{"x":'), fragment(0, None, None, "1}"),
     fragment(1, "b", "g", "{}")],
    [fragment(0, "a", "f", '{"x":1}'), fragment(0, "b", "g", "{}")],
    [fragment(None, "a", "f", '{"x"'), fragment(None, "", None, ":1}"), fragment(None, "b", "g", "{}")],
    [fragment(0, "a", "f", '{"x"'), fragment(0, "a", "f", ":1}"), fragment(1, "b", "g", "{}")],
    [fragment(0, "a", "f", '{"x"'), fragment(0, "zz", None, ":1}"), fragment(1, "b", "g", "{}")],
    [fragment(1, "a", "f", '{"x":1}'), fragment(2, "b", "g", "{}")],
], ids=["openai", "all numbered 0", "no numbers", "id and name repeated", "an id per fragment", "numbered from 1"])
def test_fragments_of_tool_calls_find_together_however_they_are_numbered(calls):
    assert fragments(*calls) == TWO


def test_whole_calls_without_number_and_id_are_kept_apart():
    found = fragments(fragment(None, None, "f", "{}"), fragment(None, None, "g", {"x": 1}))
    assert found == (ToolCall("", "f", "{}"), ToolCall("", "g", '{"x": 1}'))


def test_a_tool_call_makes_the_reason_even_if_the_server_says_stop():
    found = streamed(chunk(delta(tool_calls=[fragment(0, "a", "f", "{}")])), chunk(delta(None, "stop")))
    assert found.finish_reason == "tool_calls"
