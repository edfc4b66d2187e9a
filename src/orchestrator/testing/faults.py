"""Misbehaviour of a simulated provider, one small class each: what it does to an answer, or to the reply on the wire.

Counts of pieces (``after``) are pieces of text or of a tool call, not events; a plain answer is one piece, and is cut in
its middle. Times are in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Literal, NoReturn

from orchestrator.core.clock import wall_clock
from orchestrator.core.types import FinishReason
from orchestrator.testing._exchange import Answer, Dialect, HangUp, Kind, Piece, Reply, dump, status_text

__all__ = [
    "EMPTY_ANSWER",
    "HTML",
    "MALFORMED_JSON",
    "NO_USAGE",
    "NULL",
    "Altered",
    "Body",
    "Crlf",
    "Cut",
    "Disconnect",
    "Drop",
    "Endless",
    "ErrorInside",
    "Fault",
    "Hang",
    "KeepAliveOnly",
    "Latency",
    "RateLimited",
    "Repeat",
    "ShortBody",
    "Split",
    "Status",
]

_CONTENT: frozenset[Kind] = frozenset({"text", "tool"})
_LAST: frozenset[Kind] = frozenset({"finish", "usage", "end"})
Pieces = AsyncGenerator[Piece, None]


class Fault:
    """Takes a reply and returns another, or never returns, or raises ``HangUp``. Holds nothing: one serves them all."""

    def change(self, answer: Answer) -> Answer:
        """What the model says, before it is written in the vendor's format."""
        return answer

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:  # noqa: ARG002  # for those that write errors
        return reply


class _BodyFault(Fault):
    """Disturbs the body, piece by piece."""

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        return replace(reply, body=self._stream(reply.pieces(), dialect))

    def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        raise NotImplementedError


@dataclass(frozen=True)
class _AfterFault(_BodyFault):
    """Lets at most ``after`` pieces of content pass, or half of a plain answer, then goes on in its own way."""

    after: int | None = 1

    async def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        left = self.after or 0
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.kind == "whole":
                    yield Piece("whole", piece.data[:len(piece.data) // 2 if left else 0])
                elif piece.kind in _LAST or (piece.kind in _CONTENT and not left):
                    break
                else:
                    yield piece
                    left -= piece.kind in _CONTENT
        number = 0
        while (added := await self._then(number, dialect)) is not None:
            yield added
            number += 1

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Status(Fault):
    """An error status. The body is the vendor's own kind of error, unless one is given."""

    status: int = 500
    message: str = ""
    code: str | int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        if self.body is not None:
            kind = "text/html" if self.body.startswith("<") else "application/json"
            return await _instead(reply, self.body.encode(), self.status, kind, self.headers)
        error = dialect.error(self.status, self.message or status_text(self.status), self.code)
        return await _instead(reply, dump(error), self.status, headers=self.headers)


@dataclass(frozen=True)
class RateLimited(Fault):
    """429 with the wait in one of the forms vendors use; ``retry_after=None`` sends no hint."""

    retry_after: float | None = 1.0
    form: Literal["seconds", "date", "milliseconds", "reset"] = "seconds"

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        return await Status(429, headers=self._hint())(reply, dialect)

    def _hint(self) -> dict[str, str]:
        wait = self.retry_after
        if wait is None:
            return {}
        if self.form == "date":
            return {"retry-after": formatdate(wall_clock() + wait, usegmt=True)}
        if self.form == "milliseconds":
            return {"retry-after-ms": f"{wait * 1000:g}"}
        if self.form == "reset":
            return {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{wait:g}s"}
        return {"retry-after": f"{wait:g}"}


@dataclass(frozen=True)
class Body(Fault):
    """Any body instead of the answer, with a success status."""

    content: str = ""
    content_type: str = "application/json"

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        return await _instead(reply, self.content.encode(), 200, self.content_type)


@dataclass(frozen=True)
class Altered(Fault):
    """A well-formed answer with another text, finish reason (``length``, ``content_filter``), pace, or no usage."""

    text: str | None = None
    finish: FinishReason | None = None
    tokens_per_second: float | None = None
    usage: bool = True

    def change(self, answer: Answer) -> Answer:
        """The altered answer."""
        return replace(
            answer,
            text=answer.text if self.text is None else self.text,
            tool=answer.tool if self.text is None else None,
            finish=self.finish or answer.finish,
            rate=self.tokens_per_second or answer.rate,
            usage=answer.usage and self.usage,
        )


@dataclass(frozen=True)
class Latency(Fault):
    """This much longer until the reply begins."""

    seconds: float

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        await asyncio.sleep(self.seconds)
        return reply


@dataclass(frozen=True)
class Hang(_AfterFault):
    """Silence on an open connection: before the headers (``after=None``), or after so many pieces."""

    after: int | None = None

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        return await super().__call__(reply, dialect) if self.after is not None else await _silence()

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        await _silence()


@dataclass(frozen=True)
class Disconnect(Fault):
    """The connection is closed, or reset, before an answer."""

    reset: bool = False

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        raise HangUp(reset=self.reset)


@dataclass(frozen=True)
class Cut(_AfterFault):
    """The answer breaks off after so many pieces.

    ``close``: the connection is closed; ``reset``: it is reset; ``end``: the HTTP body ends in good order, and only the
    missing end marker tells.
    """

    how: Literal["close", "reset", "end"] = "close"

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        if self.how != "end":
            raise HangUp(reset=self.how == "reset")
        return None


@dataclass(frozen=True)
class ShortBody(_BodyFault):
    """A body shorter than its Content-Length says; a stream, which has none, is closed before its last chunk."""

    missing: int = 16

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        if isinstance(reply.body, bytes):
            reply.headers["content-length"] = str(len(reply.body) + self.missing)
        return await super().__call__(reply, dialect)

    async def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
        raise HangUp


@dataclass(frozen=True)
class ErrorInside(_AfterFault):
    """An error under a success status: as the whole body, or in a stream after so many pieces."""

    status: int = 500
    message: str = "something failed while the answer was written"
    code: str | int | None = None

    async def __call__(self, reply: Reply, dialect: Dialect) -> Reply:
        if isinstance(reply.body, bytes):
            return await _instead(reply, dump(self._error(dialect)), 200)
        return await super().__call__(reply, dialect)

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        return Piece("other", dialect.event(self._error(dialect))) if number == 0 else None

    def _error(self, dialect: Dialect) -> Mapping[str, object]:
        return dialect.error(self.status, self.message, self.code)


@dataclass(frozen=True)
class Endless(_AfterFault):
    """After so many pieces a line without an end, as fast as it is read."""

    chunk: int = 65536

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        await asyncio.sleep(0)
        return Piece("other", b"x" * self.chunk)


@dataclass(frozen=True)
class KeepAliveOnly(_AfterFault):
    """After so many pieces nothing but keep-alive comments (blank lines where there are no comments), for ever."""

    after: int | None = 0
    interval: float = 1.0

    async def _then(self, number: int, dialect: Dialect) -> Piece | None:
        if number:
            await asyncio.sleep(self.interval)
        return Piece("other", dialect.keep_alive)


@dataclass(frozen=True)
class Split(_BodyFault):
    """The bytes come in chunks of this size: events, lines and UTF-8 characters are torn apart."""

    size: int = 1

    async def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        async with aclosing(pieces):
            async for piece in pieces:
                for start in range(0, len(piece.data), self.size):
                    yield Piece(piece.kind, piece.data[start:start + self.size])
                    await asyncio.sleep(0)


@dataclass(frozen=True)
class Crlf(_BodyFault):
    """Lines end in CR LF."""

    async def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        async with aclosing(pieces):
            async for piece in pieces:
                yield Piece(piece.kind, piece.data.replace(b"\n", b"\r\n"))


@dataclass(frozen=True)
class Repeat(_BodyFault):
    """Events of this kind come so many times."""

    kind: Kind = "finish"
    times: int = 2

    async def _stream(self, pieces: Pieces, dialect: Dialect) -> Pieces:
        async with aclosing(pieces):
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


async def _instead(
    reply: Reply, body: bytes, status: int, content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    if not isinstance(reply.body, bytes):
        await reply.body.aclose()
    return Reply(status, body, {**reply.headers, **(headers or {})}, content_type)


async def _silence() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody holds this future")
