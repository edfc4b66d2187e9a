"""With the extra and without it, each event of a stream means the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import ProviderError
from orchestrator.core.types import TextDelta
from orchestrator.providers import _json, _openai_reply
from orchestrator.providers._batches import MOST
from orchestrator.providers._openai_reply import Reply

pytest.importorskip("msgspec")

from orchestrator.providers._pieces import json_value, usual_piece

USUAL = {
    "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "service_tier": None, "usage": None,
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Да"}, "logprobs": None, "finish_reason": None}],
}
odd = st.sampled_from([None, "", 0, 1, -1, 1.0, True, [], {}, ["x"], {"a": 1}, "stop", "error", "x\ud83c", "🌍", [[]]])
text = st.text(st.characters(), max_size=4)
delta = st.fixed_dictionaries({}, optional={
    "content": text | odd, "role": text, "reasoning_content": odd, "reasoning": odd, "refusal": odd, "tool_calls": odd,
})
choice = st.fixed_dictionaries({"delta": delta | odd}, optional={
    "index": odd, "finish_reason": odd, "error": odd, "message": delta | odd, "logprobs": odd,
})
event = st.fixed_dictionaries({"choices": st.lists(choice | odd, max_size=2) | odd}, optional={
    "model": text | odd, "usage": odd, "error": odd, "x_groq": odd, "object": odd, "other": odd,
})


def outcome(events, patch, **decoders):
    patch.setattr(_openai_reply, "usual_piece", decoders.get("piece", lambda data: None))
    patch.setattr(_json, "_quick", decoders.get("value"))
    reply = Reply(provider="p", model="m")
    told = []
    try:
        told.extend(reply.feed(events))
        told.append(reply.finish())
    except ProviderError as error:
        told.append((type(error), str(error)))
    return told, reply._model, reply.done, reply.complete


def test_what_follows_the_end_is_no_piece():
    reply = Reply(provider="p", model="m")
    assert [*reply.feed([json.dumps(USUAL), "[DONE]", json.dumps(USUAL)])] == [TextDelta("Да")]
    assert [*reply.feed([json.dumps(USUAL)])] == []


@given(st.lists(event | st.just(USUAL) | st.just("[DONE]"), max_size=4))
def test_every_event_means_the_same(events):
    lines = [one if one == "[DONE]" else json.dumps(one) for one in events] + ["[DONE]"]
    with pytest.MonkeyPatch.context() as patch:
        slowly = outcome(lines, patch)
        assert outcome(lines, patch, piece=usual_piece) == slowly
        assert outcome(lines, patch, piece=usual_piece, value=json_value) == slowly


@given(st.lists(st.integers(0, 3 * MOST), max_size=3), st.booleans())
def test_the_events_of_a_read_come_in_batches_and_an_error_after_all_that_was_there_before_it(counts, unusual):
    pieces = [json.dumps(USUAL), json.dumps(USUAL | {"object": ""})][unusual:]
    reply, told = Reply(provider="p", model="m"), []
    for count in counts:
        batches = [*reply.batches([pieces[n % len(pieces)] for n in range(count)])]
        assert [*map(len, batches)] == [MOST] * (count // MOST) + [count % MOST] * (count % MOST > 0)
    with pytest.raises(ProviderError, match="not JSON"):
        told.extend(reply.batches([pieces[0]] * (MOST + 1) + ["{"] + pieces))
    assert [len(batch) for batch in told] == [MOST, 1]


@pytest.mark.parametrize("value", [None, 0, "", [], {}, {"a": [1, 2.5, "ж", None]}, 10**40])
def test_a_value_is_decoded_whatever_it_is(value):
    assert json_value(json.dumps(value)) == json_value(json.dumps(value).encode()) == value


@pytest.mark.parametrize("data", [
    b"", b"{", b"NaN", b'"\\ud83d"', b'"\xff"', b"\xef\xbb\xbf{}", b"1e400", b"[" * 100_000, "\ud83d",
])
def test_what_it_refuses_is_left_to_json(data):
    assert json_value(data) is None


def test_what_is_usual_is_decoded_fast_and_what_matters_is_not_lost():
    assert usual_piece(json.dumps(USUAL)).choices[0].delta.content == "Да"
    for name, value in [("usage", {"a": 1}), ("error", "x"), ("x_groq", {"a": 1}), ("object", "error"), ("model", 1)]:
        assert usual_piece(json.dumps(USUAL | {name: value})) is None
    usual = USUAL["choices"][0]
    for name, value in [("index", 1), ("finish_reason", "stop"), ("error", "x"), ("delta", None)]:
        assert usual_piece(json.dumps(USUAL | {"choices": [usual | {name: value}]})) is None
    for name in ("reasoning", "reasoning_content", "refusal", "tool_calls"):
        odd = usual | {"delta": {"content": "x", name: "y"}}
        assert usual_piece(json.dumps(USUAL | {"choices": [odd]})) is None
    assert usual_piece(json.dumps(USUAL | {"choices": [usual, usual]})) is None


@pytest.mark.parametrize("data", ["", "{", "[DONE]", "null", '{"choices": ' + "[" * 100_000, '{"a": "\ud83c"}'])
def test_what_is_no_piece_is_none(data):
    assert usual_piece(data) is None
