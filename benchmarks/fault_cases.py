"""The faults that ``benchmarks/faults.py`` tries: each is what the first provider does with every request."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from orchestrator.testing import faults as f
from orchestrator.testing._exchange import Piece, Reply

BOTH = ("plain", "stream")
STREAM = ("stream",)


@dataclass(frozen=True)
class Case:
    """``fault`` None: none. ``heavy``: takes a processor for itself, so no two subjects meet it at the same time."""

    name: str
    fault: f.Fault | Literal["refuse"] | None
    modes: tuple[str, ...] = BOTH
    heavy: bool = False


@dataclass(frozen=True)
class Bytes(f.Fault):
    """Another head, and another form of every piece of the body."""

    form: Callable[[bytes], bytes] = bytes
    before: bytes = b""
    content_type: str | None = None

    async def __call__(self, reply: Reply) -> Reply:
        reply.content_type = self.content_type or reply.content_type
        if isinstance(reply.body, bytes):
            return replace(reply, body=self.before + self.form(reply.body))
        return replace(reply, body=self._stream(reply))

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        if self.before:
            yield Piece("other", self.before)
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield Piece(piece.kind, self.form(piece.data))


class Bomb(f.Fault):
    """A small compressed body that is 400 MB of blanks once it is inflated."""

    async def __call__(self, reply: Reply) -> Reply:
        return replace(reply, body=_bomb(), headers={**reply.headers, "content-encoding": "gzip"})


@cache
def _bomb() -> bytes:
    deflate = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    block = b" " * 2**20
    return b"".join(deflate.compress(block) for _ in range(400)) + deflate.flush()


def _in_cp1251(data: bytes) -> bytes:
    return data.decode().encode("cp1251", errors="replace")


def _in_halves(data: bytes) -> bytes:
    """An event with an emoji as two events, each with one half of its surrogate pair; a whole answer has both."""
    if not data.startswith(b"data:"):
        return data.replace("🌍".encode(), b"\\ud83c\\udf0d")
    halves = [data.replace("🌍".encode(), half) for half in (b"\\ud83c", b"\\udf0d")]
    return b"".join(halves) if halves[0] != data else data


CASES = [
    Case("no fault", None),
    # Refusals.
    Case("500", f.Status(500)),
    Case("503", f.Status(503)),
    Case("503, HTML of a proxy", f.Status(503, body="<html><body>upstream is down</body></html>")),
    Case("529 overloaded", f.Status(529)),
    Case("429, no Retry-After", f.RateLimited(None)),
    Case("429, Retry-After: 1 s", f.RateLimited(1)),
    Case("429, Retry-After: 30 s", f.RateLimited(30)),
    Case("429, Retry-After: a date in 30 s", f.RateLimited(30, "date")),
    Case("429, retry-after-ms: 500", f.RateLimited(0.5, "milliseconds")),
    Case("429, x-ratelimit-reset: 30 s", f.RateLimited(30, "reset")),
    Case("429, quota used up", f.Status(429, code="insufficient_quota")),
    Case("401", f.Status(401)),
    Case("403", f.Status(403)),
    Case("404, no such model", f.Status(404, code="model_not_found")),
    Case("400, the request is wrong", f.Status(400, "Invalid value for 'temperature'", "invalid_value")),
    Case("400, context window exceeded", f.Status(
        400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")),
    Case("400, content filter", f.Status(
        400, "The response was filtered due to the content management policy", "content_filter")),
    Case("307 to itself", f.Status(307, headers={"location": "/v1/chat/completions"})),
    Case("500, a header of 1 MB", f.Status(500, headers={"x-filler": "x" * 1_000_000})),
    # Connections and silence.
    Case("connection refused", "refuse"),
    Case("closed before an answer", f.Disconnect()),
    Case("reset before an answer", f.Disconnect(reset=True)),
    Case("silence before the headers", f.Hang()),
    Case("silence before the first token", f.Hang(after=0)),
    Case("silence after the first token", f.Hang(after=1)),
    Case("keep-alive comments only", f.KeepAliveOnly(interval=0.2)),
    Case("keep-alive comments after the first token", f.KeepAliveOnly(after=1, interval=0.2)),
    Case("begins after 2 s", f.Latency(2)),
    Case("a token every 0.4 s, 4.8 s in all", f.Altered(tokens_per_second=2.5)),
    # Answers cut short.
    Case("closed before the first token", f.Cut(after=0)),
    Case("closed after the first token", f.Cut(after=1)),
    Case("reset after the first token", f.Cut(after=1, how="reset")),
    Case("ends in good order before the first token", f.Cut(after=0, how="end")),
    Case("ends in good order after 3 tokens, no end marker", f.Cut(after=3, how="end")),
    Case("body shorter than announced", f.ShortBody()),
    Case("error in a 200, before the first token", f.ErrorInside(after=0)),
    Case("error in a 200, after the first token", f.ErrorInside(after=1), STREAM),
    # A 200 that is no answer.
    Case("malformed JSON", f.MALFORMED_JSON),
    Case("HTML", f.HTML),
    Case("`null`", f.NULL),
    Case("empty body", f.Body("")),
    Case("`{}`", f.Body("{}")),
    Case("`choices: []`", f.Body('{"object": "chat.completion", "created": 1, "model": "m", "choices": []}')),
    Case("`choices` is a text", f.Body('{"choices": "hello"}')),
    Case("JSON nested 100 000 deep", f.Body("[" * 100_000)),
    Case("empty answer", f.EMPTY_ANSWER),
    Case("finish reason content_filter", f.Altered(finish="content_filter")),
    # More than anybody asked for.
    Case("a line without end, before the first token", f.Endless(after=0), heavy=True),
    Case("a line without end, after the first token", f.Endless(after=1), heavy=True),
    Case("400 MB, compressed to 2 MB", Bomb(), heavy=True),
    Case("every token 50 000 times", f.Repeat("text", times=50_000), STREAM, heavy=True),
    # Oddities that do not harm the answer.
    Case("bytes one by one", f.Split(1)),
    Case("a byte order mark", Bytes(before=b"\xef\xbb\xbf")),
    Case("blank lines before the answer", Bytes(before=b"\n\n\n")),
    Case("another content type", Bytes(content_type="application/octet-stream")),
    Case("a charset it does not tell (cp1251)", Bytes(form=_in_cp1251)),
    Case("an emoji in two halves (escaped surrogates)", Bytes(form=_in_halves)),
    Case("CR LF", f.Crlf(), STREAM),
    Case("finish reason twice", f.Repeat("finish"), STREAM),
    Case("usage twice", f.Repeat("usage"), STREAM),
    Case("no usage", f.NO_USAGE),
    Case("no end marker, but a finish reason", f.Drop("end"), STREAM),
    Case("no finish reason, but an end marker", f.Drop("finish"), STREAM),
    Case("neither finish reason nor end marker", f.Cut(after=99, how="end"), STREAM),
]
