"""With the extra and without it, each event of a stream means the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import ProviderError
from orchestrator.providers import _openai_reply
from orchestrator.providers._openai_reply import Reply

pytest.importorskip("msgspec")

from orchestrator.providers._pieces import usual_piece

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


def outcome(events, decode, monkeypatch):
    monkeypatch.setattr(_openai_reply, "usual_piece", decode)
    reply = Reply(provider="p", model="m")
    told = []
    try:
        told.extend(reply.feed(events))
        told.append(reply.finish())
    except ProviderError as error:
        told.append((type(error), str(error)))
    return told, reply._model, reply.done, reply.complete


@given(st.lists(event | st.just(USUAL), max_size=4))
def test_every_event_means_the_same(events):
    lines = [json.dumps(one) for one in events] + ["[DONE]"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert outcome(lines, usual_piece, monkeypatch) == outcome(lines, None, monkeypatch)


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
