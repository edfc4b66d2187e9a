"""Misbehaviour of a simulated provider, one small class each: what it does to an answer, or to the reply on the wire.

``after`` counts pieces of text or of a tool call, not events; a plain answer has one piece, which is cut in its middle.
Times are in seconds.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import cache
from typing import Literal, NoReturn

from orchestrator.core.clock import wall_clock
from orchestrator.core.types import FinishReason
from orchestrator.testing._exchange import Answer, Dialect, HangUp, Kind, Piece, Reply, dump, status_text
from orchestrator.testing._fault import AfterFault, BodyFault, Fault

__all__ = [
    "EMPTY_ANSWER",
    "HTML",
    "MALFORMED_JSON",
    "NO_USAGE",
    "NULL",
    "Altered",
    "Before",
    "Body",
    "Bomb",
    "Comments",
    "Crlf",
    "Cut",
    "Disconnect",
    "Drop",
    "Endless",
    "ErrorInside",
    "Fault",
    "Hang",
    "Headers",
    "KeepAliveOnly",
    "Latency",
    "NoHttp",
    "RateLimited",
    "Repeat",
    "ShortBody",
    "Split",
    "Status",
    "TokensExpire",
]

@dataclass(frozen=True)
class Status(Fault):
    """An error status. The body is the vendor's own kind of error, unless one is given."""

    status: int = 500
    message: str = ""
    code: str | int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None

    async def _disturb(self, reply: Reply) -> Reply:
        if self.body is not None:
            kind = "text/html" if self.body.startswith("<") else "application/json"
            return _instead(reply, self.body.encode(), self.status, kind, self.headers)
        error = reply.dialect.error(self.status, self.message or status_text(self.status), self.code)
        return _instead(reply, dump(error), self.status, headers=self.headers)


@dataclass(frozen=True)
class RateLimited(Fault):
    """429 with the wait in one of the forms vendors use; ``retry_after=None`` sends no hint.

    ``seconds``, ``date`` and ``milliseconds`` are forms of Retry-After, ``reset`` and ``epoch`` of ``x-ratelimit-*``;
    ``details`` (google.rpc.RetryInfo) and ``prose`` stand in the body.
    """

    retry_after: float | None = 1.0
    form: Literal["seconds", "date", "milliseconds", "reset", "epoch", "details", "prose"] = "seconds"

    async def _disturb(self, reply: Reply) -> Reply:
        wait = self.retry_after
        if wait is None:
            return await Status(429)(reply)
        if self.form == "prose":
            return await Status(429, f"Rate limit reached. Please try again in {wait:g}s.")(reply)
        if self.form == "details":
            error = dict(reply.dialect.error(429, status_text(429), None))
            info = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait:g}s"}]
            error |= {"error": {**error["error"], "details": info}} if "error" in error else {"details": info}
            return _instead(reply, dump(error), 429)
        return await Status(429, headers=self._hint(wait))(reply)

    def _hint(self, wait: float) -> dict[str, str]:
        if self.form == "date":
            return {"retry-after": formatdate(wall_clock() + wait, usegmt=True)}
        if self.form == "milliseconds":
            return {"retry-after-ms": f"{wait * 1000:g}"}
        if self.form == "reset":
            return {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{wait:g}s"}
        if self.form == "epoch":
            return {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{wall_clock() + wait:.3f}"}
        return {"retry-after": f"{wait:g}"}


@dataclass(frozen=True)
class Headers(Fault):
    """Further headers, or others, on a good answer, such as its rate limits or another content type."""

    headers: Mapping[str, str] = field(default_factory=dict)

    async def _disturb(self, reply: Reply) -> Reply:
        reply.headers.update(self.headers)
        return reply


@dataclass(frozen=True)
class Body(Fault):
    """Any body instead of the answer, with a success status."""

    content: str = ""
    content_type: str = "application/json"

    async def _disturb(self, reply: Reply) -> Reply:
        return _instead(reply, self.content.encode(), 200, self.content_type)


@dataclass(frozen=True)
class Altered(Fault):
    """A well-formed answer with another text, finish reason (``length``, ``content_filter``), pace, or no usage.

    ``last``: where each line of a stream has the whole text (Yandex), the last line has this one instead.
    """

    text: str | None = None
    finish: FinishReason | None = None
    tokens_per_second: float | None = None
    usage: bool = True
    last: str | None = None

    def change(self, answer: Answer) -> Answer:
        """The altered answer."""
        return replace(
            answer,
            text=answer.text if self.text is None else self.text,
            tool=answer.tool if self.text is None else None,
            finish=self.finish or answer.finish,
            rate=self.tokens_per_second or answer.rate,
            usage=answer.usage and self.usage,
            last=answer.last if self.last is None else self.last,
        )


@dataclass(frozen=True)
class Latency(Fault):
    """So much more time until the reply begins."""

    seconds: float

    async def _disturb(self, reply: Reply) -> Reply:
        await asyncio.sleep(self.seconds)
        return reply


@dataclass(frozen=True)
class Hang(AfterFault):
    """Silence on an open connection: before the headers (``after=None``), or after so many pieces."""

    after: int | None = None

    async def _disturb(self, reply: Reply) -> Reply:
        return await super()._disturb(reply) if self.after is not None else await _silence()

    async def _then(self, _: Reply) -> Piece | None:
        await _silence()


@dataclass(frozen=True)
class Disconnect(Fault):
    """The connection is closed, or reset, before an answer."""

    reset: bool = False

    async def _disturb(self, _: Reply) -> Reply:
        raise HangUp(reset=self.reset)


@dataclass(frozen=True)
class NoHttp(AfterFault):
    """Bytes that are no HTTP, then the end: before the headers (``after=None``), or as a chunk of a body."""

    after: int | None = None
    data: bytes = b"\x16\x03\x01 this is no HTTP\r\n\r\n"

    async def _disturb(self, reply: Reply) -> Reply:
        return await (self._then(reply) if self.after is None else super()._disturb(reply))

    async def _then(self, _: Reply) -> NoReturn:
        raise HangUp(after=self.data)


@dataclass(frozen=True)
class Cut(AfterFault):
    """The answer breaks off after so many pieces.

    ``close``: the connection is closed; ``reset``: it is reset; ``end``: the HTTP body ends in good order, and only the
    missing end marker tells.
    """

    how: Literal["close", "reset", "end"] = "close"

    async def _then(self, _: Reply) -> Piece | None:
        if self.how != "end":
            raise HangUp(reset=self.how == "reset")
        return None


@dataclass(frozen=True)
class ShortBody(BodyFault):
    """A body shorter than its Content-Length says; a stream, which has none, is closed before its last chunk."""

    missing: int = 16

    async def _disturb(self, reply: Reply) -> Reply:
        if isinstance(reply.body, bytes):
            reply.headers["content-length"] = str(len(reply.body) + self.missing)
        return await super()._disturb(reply)

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield piece
        raise HangUp


@dataclass(frozen=True)
class ErrorInside(AfterFault):
    """An error under a success status: as the whole body, or in a stream after so many pieces."""

    status: int = 500
    message: str = "something failed while the answer was written"
    code: str | int | None = None

    async def _disturb(self, reply: Reply) -> Reply:
        if isinstance(reply.body, bytes):
            return _instead(reply, dump(self._error(reply.dialect)), 200)
        return await super()._disturb(reply)

    async def _then(self, reply: Reply) -> Piece | None:
        return Piece("other", reply.dialect.event(self._error(reply.dialect)))

    def _error(self, dialect: Dialect) -> Mapping[str, object]:
        return dialect.error(self.status, self.message, self.code)


@dataclass(frozen=True)
class Endless(AfterFault):
    """After so many pieces a line without an end, as fast as it is read."""

    for_ever = True
    chunk: int = 65536

    async def _then(self, _: Reply) -> Piece | None:
        await asyncio.sleep(0)
        return Piece("other", b"x" * self.chunk)


@dataclass(frozen=True)
class KeepAliveOnly(AfterFault):
    """After so many pieces nothing but keep-alive comments (blank lines where there are no comments), for ever."""

    for_ever = True
    after: int | None = 0
    interval: float = 1.0

    async def _then(self, reply: Reply) -> Piece | None:
        await asyncio.sleep(self.interval)
        return Piece("other", reply.dialect.keep_alive)


@dataclass(frozen=True)
class Split(BodyFault):
    """The bytes come in chunks of this size, ``delay`` apart: events, lines and UTF-8 characters are torn apart."""

    size: int = 1
    delay: float = 0.0

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece.data), self.size):
                    yield Piece(piece.kind, piece.data[start:start + self.size])
                    await asyncio.sleep(self.delay)


@dataclass(frozen=True)
class Crlf(BodyFault):
    """Lines end in CR LF."""

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield Piece(piece.kind, piece.data.replace(b"\n", b"\r\n"))


@dataclass(frozen=True)
class Before(BodyFault):
    """These bytes come before the body: a byte order mark, blank lines."""

    data: bytes = b"\xef\xbb\xbf"

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        yield Piece("other", self.data)
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield piece


@dataclass(frozen=True)
class Comments(BodyFault):
    """These bytes come before each event of a stream; by default a keep-alive comment, or a blank line."""

    data: bytes | None = None

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                if piece.kind != "whole":
                    yield Piece("other", reply.dialect.keep_alive if self.data is None else self.data)
                yield piece


@dataclass(frozen=True)
class Bomb(Fault):
    """A small compressed body that is ``size`` bytes of blanks once it is inflated."""

    size: int = 400 * 2**20

    async def _disturb(self, reply: Reply) -> Reply:
        headers = {**reply.headers, "content-encoding": "gzip"}
        return Reply(reply.dialect, 200, _compressed_blanks(self.size), headers, reply.content_type)


class TokensExpire(Fault):
    """GigaChat: all tokens expire while this answer, which is a good one, is on its way."""

    async def _disturb(self, reply: Reply) -> Reply:
        reply.dialect.expire_tokens()
        return reply


@dataclass(frozen=True)
class Repeat(BodyFault):
    """Events of this kind come so many times."""

    kind: Kind = "finish"
    times: int = 2

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                for _ in range(self.times if piece.kind == self.kind else 1):
                    yield piece


@dataclass(frozen=True)
class Drop(Repeat):
    """Events of this kind are left out: ``end`` is the end marker, ``finish`` the event with the finish reason."""

    kind: Kind = "end"
    times: int = 0


MALFORMED_JSON = Body('{"choices": [{"message": {"content": "Hel')
HTML = Body("<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>", "text/html")
NULL = Body("null")
EMPTY_ANSWER = Altered(text="")
NO_USAGE = Altered(usage=False)


def _instead(
    reply: Reply, body: bytes, status: int, content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    return Reply(reply.dialect, status, body, {**reply.headers, **(headers or {})}, content_type)


@cache
def _compressed_blanks(size: int) -> bytes:
    deflate = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    block = b" " * 2**20
    parts = [deflate.compress(block[:size - start]) for start in range(0, size, len(block))]
    return b"".join(parts) + deflate.flush()


async def _silence() -> NoReturn:
    never: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
    await never
