"""Whatever bytes and values a provider sends: events or one of our errors, and the same however they are split."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_http import DONE, FakeHttp, frame, streamed
from orchestrator.core.accumulate import check_completion
from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import MalformedResponseError, ProviderError
from orchestrator.core.surrogates import whole
from orchestrator.core.types import Finished, ReasoningDelta, Request, StreamEvent, TextDelta
from orchestrator.providers import _gigachat_wire as gigachat
from orchestrator.providers import _yandex_wire as yandex
from orchestrator.providers._conversation import Source
from orchestrator.providers._errors import error_from_payload, error_from_response
from orchestrator.providers._openai_reply import Reply
from orchestrator.providers._retry_after import MAX_WAIT, retry_after
from orchestrator.providers._sse import NDJSONDecoder, SSEDecoder
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider
from orchestrator.testing.loop import VirtualTimeLoop

quick = settings(max_examples=150, deadline=None)

FRAMES = st.lists(
    st.sampled_from([
        b"data: ", b"data:", b"data", b"event: error", b"event:", b"id: 1", b":", b" ", b"x", "ж".encode(), b"\xff",
        b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"[DONE]", b'{"a":1}',
    ]) | st.binary(max_size=5),
    max_size=40,
).map(b"".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["stop", "length", "error", "content_filter", "f", "{}", "insufficient_quota", "try again in 5s", "\ud83d",
         "\ude00", "ж\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "error", "message", "code", "type", "choices", "delta", "content", "tool_calls", "function", "id", "index",
            "usage", "finish_reason", "text", "metadata", "details", "raw", "headers", "x_groq", "prompt_tokens",
            "cost", "reasoning", "refusal", "name", "arguments", "status", "httpCode"]), inner, max_size=4),
    max_leaves=12,
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def sse(chunks: list[bytes], limit: int = 1000) -> list[str]:
    decoder = SSEDecoder(limit)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def lines(chunks: list[bytes]) -> list[str]:
    decoder = NDJSONDecoder()
    return [line for chunk in chunks for line in decoder.feed(chunk)] + decoder.finish()


def outcome(decode, chunks):
    try:
        return decode(chunks)
    except MalformedResponseError:
        return "not UTF-8"


@quick
@given(FRAMES, CUTS)
def test_however_a_stream_is_split_it_has_the_same_events_and_lines(data, cuts):
    for decode in (sse, lines):
        assert outcome(decode, split(data, cuts)) == outcome(decode, [data])


BLOCKS = st.lists(st.sampled_from([
    b"data: a\n\n", b"data: b\n\n", "data: ж\n\n".encode(), b"data: \n\n", b"data: data: \n\n",  # usual ones
    b": c\n\n", b": \xff\n\n", b"data:a\n\n", b"data: a\ndata: b\n\n", b"data: a\r\n\r\n", b"data: a\r", b"\n",
    b"data: a\n", b"\xef\xbb\xbf", b"event: e\n", b"data: \xff\n\n", b"data: aaaaaaaaaaaaa\n\n", b"dat",
]), max_size=8)


@quick
@given(st.lists(BLOCKS, max_size=6), st.sampled_from([12, 40, 1000]))
def test_chunks_that_end_where_events_end_have_the_same_events_as_single_bytes(chunks, limit):
    def outcome(chunks):
        decoder, told = SSEDecoder(limit, events=12), []
        try:
            for chunk in chunks:
                told += decoder.feed(chunk)
        except MalformedResponseError:
            return "refused"
        return told

    chunks = [b"".join(blocks) for blocks in chunks]
    whole = b"".join(chunks)
    assert outcome(chunks) == outcome([whole[n : n + 1] for n in range(len(whole))])


@quick
@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
                          st.sampled_from(["", ": c|", "event:error|"]))), CUTS, st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_written_are_the_events_read(events, cuts, end):
    text = "".join(f"{before.replace('|', end)}data: {data}{end}{end}" for data, before in events)
    assert sse(split(text.encode(), cuts)) == [data for data, _ in events]


@quick
@given(FRAMES, CUTS)
def test_a_bounded_stream_has_bounded_events_or_is_refused(data, cuts):
    try:
        events = sse(split(data, cuts), limit=12)
    except MalformedResponseError:
        return
    assert all(len(data.encode(errors="surrogatepass")) <= 3 * 12 for data in events)


def answered(chunks: list[object]) -> list[StreamEvent] | None:
    """The events of a reply, None when it was refused with one of our errors."""
    reply = Reply(provider="p", model="m")
    try:
        found = list(reply.feed([*map(json.dumps, chunks)]))
        return [*found, reply.finish()]
    except ProviderError:
        return None


CHUNK: Any = {
    "model": "m", "usage": {"prompt_tokens": 1, "cost": 0.5, "prompt_tokens_details": {"cached_tokens": 1}},
    "choices": [{"index": 0, "finish_reason": "stop", "delta": {
        "content": "x", "reasoning": "y",
        "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}}],
}


def spoilt(value: Any, path: list[int], poison: Any) -> Any:
    """``value`` with the node that ``path`` leads to replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return poison
    if isinstance(value, list):
        at = path[0] % len(value)
        return [*value[:at], spoilt(value[at], path[1:], poison), *value[at + 1 :]]
    key = sorted(value)[path[0] % len(value)]
    return {**value, key: spoilt(value[key], path[1:], poison)}


@quick
@given(st.lists(JSON, max_size=4))
def test_any_values_as_events_give_pieces_or_one_of_our_errors(chunks):
    for event in answered(chunks) or []:
        assert not isinstance(event, TextDelta) or event.text
        assert not isinstance(event, TextDelta | ReasoningDelta) or event.text.encode()


@quick
@given(st.lists(st.integers(0, 9), max_size=7), JSON, st.booleans())
def test_a_reply_with_one_wrong_value_gives_pieces_or_one_of_our_errors(path, poison, plain):
    chunk = spoilt(CHUNK, path, poison)
    found = answered([chunk, CHUNK])
    assert found is None or isinstance(found[-1], Finished)
    if plain:
        with suppress(ProviderError):
            completion = check_completion(Reply(provider="p", model="m").completion(chunk), "p")
            assert f"{completion}".encode()


UNITS = st.lists(st.sampled_from(["a", "ж", "😀", "\ud83d", "\ude00", "\udbff", "\n"]), min_size=1, max_size=8)


def openai_stream(pieces):
    return b"".join(frame({"choices": [{"delta": {"content": piece}}]}) for piece in pieces) + DONE


def gigachat_stream(pieces):
    end = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
    return b"".join(frame({"choices": [{"delta": {"content": piece}}]}) for piece in pieces) + frame(end) + DONE


def yandex_stream(pieces):
    lines = [("".join(pieces[: n + 1]), "PARTIAL") for n in range(len(pieces))] + [("".join(pieces), "FINAL")]
    return b"".join(
        json.dumps({"alternatives": [{"message": {"text": text}, "status": f"ALTERNATIVE_STATUS_{status}"}]}).encode()
        + b"\n" for text, status in lines)


def decoded(decoder, data, cuts):
    events = [event for chunk in split(data, cuts) for event in decoder.feed(chunk)]
    return [*events, *decoder.finish()]


class ReplyDecoder:
    def __init__(self):
        self.frames, self.reply = SSEDecoder(), Reply(provider="p", model="m")

    def feed(self, chunk):
        return list(self.reply.feed(self.frames.feed(chunk)))

    def finish(self):
        return [self.reply.finish()]


@quick
@given(UNITS, CUTS)
def test_a_text_cut_between_any_two_units_is_the_same_text_in_every_wire_format(pieces, cuts):
    source = Source("p", "m")
    for decoder, data in (
        (ReplyDecoder(), openai_stream(pieces)), (gigachat.StreamDecoder(source), gigachat_stream(pieces)),
        (yandex.StreamDecoder(source), yandex_stream(pieces)),
    ):
        texts = [event.text for event in decoded(decoder, data, cuts) if isinstance(event, TextDelta)]
        assert "".join(texts) == whole("".join(pieces))
        assert all(texts)
        assert all(text.encode() for text in texts)


@quick
@given(st.integers(300, 599), st.binary(max_size=50) | JSON.map(lambda v: json.dumps(v).encode()), st.text(max_size=20))
def test_any_error_body_becomes_one_bounded_error(status, body, header):
    headers = {"retry-after": header, "x-request-id": header, "date": header, "x-ratelimit-reset": header}
    error = error_from_response(status, headers, body, provider="p")
    assert isinstance(error, ProviderError)
    assert len(str(error)) < 900
    assert error.retry_after is None or 0 <= error.retry_after <= MAX_WAIT


@quick
@given(JSON)
def test_any_value_told_as_an_error_becomes_one(payload):
    assert isinstance(error_from_payload({"error": payload}, provider="p"), ProviderError)
    assert isinstance(error_from_payload(payload, provider="p"), ProviderError)


@quick
@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens"]),
                       st.text(max_size=30) | st.floats().map(str) | st.integers().map(str)),
       st.dictionaries(st.sampled_from(["metadata", "details"]), JSON), st.text(max_size=40))
def test_any_hint_is_a_sane_wait_or_none(headers, error, message):
    wait = retry_after(headers, error, f"try again in {message}", limited=True)
    assert wait is None or 0 <= wait <= MAX_WAIT


PIECES = [("Однажды ", "null"), ("в студёную ", "null"), ("пору", "null"), ("", '"stop"')]
STREAM = "".join(
    f'data: {{"choices": [{{"delta": {{"content": "{text}"}}, "finish_reason": {reason}}}]}}\n\n'
    for text, reason in PIECES
).encode()


async def read(chunks: list[bytes], failure: bool) -> list[StreamEvent]:
    steps = [*chunks, httpx.ReadError("reset")] if failure else chunks
    provider = OpenAICompatibleProvider(
        ProviderConfig(name="p", model="m", max_retries=0), http_client=FakeHttp(streamed(*steps)).client
    )
    return [event async for event in provider.open_stream(Request("hi"))]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(STREAM)), CUTS, st.booleans())
def test_a_cut_stream_is_never_a_whole_answer_and_a_whole_one_always_is(length, cuts, failure):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        try:
            events = runner.run(read(split(STREAM[:length], cuts), failure))
        except MalformedResponseError:
            assert length < len(STREAM)
            return
    assert length == len(STREAM)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Однажды в студёную пору"
