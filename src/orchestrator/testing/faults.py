"""Misbehaviour of a simulated provider, one small class each: what it does to an answer, or to the reply on the wire.

``after`` counts pieces of text or of a tool call, not events; a plain answer has one piece, which is cut in its middle.
Times are in seconds.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import ClassVar, Literal, NoReturn

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


class Fault:
    """Takes a reply and gives another, or gives none, or raises ``HangUp``. Keeps no state: one serves any number."""

    def change(self, answer: Answer) -> Answer:
        """What the model says, before it is written in the vendor's format."""
        return answer

    async def __call__(self, reply: Reply) -> Reply:
        """What goes over the wire instead of ``reply``."""
        return await self._disturb(reply)

    async def _disturb(self, reply: Reply) -> Reply:
        return reply


class _BodyFault(Fault, ABC):
    """Disturbs the body, piece by piece."""

    async def _disturb(self, reply: Reply) -> Reply:
        return replace(reply, body=self._stream(reply))

    @abstractmethod
    def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        """The body instead of that of ``reply``."""


@dataclass(frozen=True)
class _AfterFault(_BodyFault):
    """Lets at most ``after`` pieces of content pass, or half of a plain answer, then goes on in its own way."""

    _for_ever: ClassVar[bool] = False
    after: int | None = 1

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        left = self.after or 0
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                if piece.kind == "whole":
                    yield Piece("whole", piece.data[:len(piece.data) // 2 if left else 0])
                elif piece.kind in _LAST or (piece.kind in _CONTENT and not left):
                    break
                else:
                    yield piece
                    left -= piece.kind in _CONTENT
        while (added := await self._then(reply)) is not None:
            yield added
            if not self._for_ever:
                return

    @abstractmethod
    async def _then(self, reply: Reply) -> Piece | None:
        """What comes next, None for the end."""


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
    """429 with the wait in one of the forms vendors use; ``retry_after=None`` sends no hint."""

    retry_after: float | None = 1.0
    form: Literal["seconds", "date", "milliseconds", "reset"] = "seconds"

    async def _disturb(self, reply: Reply) -> Reply:
        return await Status(429, headers=self._hint())(reply)

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

    async def _disturb(self, reply: Reply) -> Reply:
        return _instead(reply, self.content.encode(), 200, self.content_type)


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
    """So much more time until the reply begins."""

    seconds: float

    async def _disturb(self, reply: Reply) -> Reply:
        await asyncio.sleep(self.seconds)
        return reply


@dataclass(frozen=True)
class Hang(_AfterFault):
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
class Cut(_AfterFault):
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
class ShortBody(_BodyFault):
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
class ErrorInside(_AfterFault):
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
class Endless(_AfterFault):
    """After so many pieces a line without an end, as fast as it is read."""

    _for_ever = True
    chunk: int = 65536

    async def _then(self, _: Reply) -> Piece | None:
        await asyncio.sleep(0)
        return Piece("other", b"x" * self.chunk)


@dataclass(frozen=True)
class KeepAliveOnly(_AfterFault):
    """After so many pieces nothing but keep-alive comments (blank lines where there are no comments), for ever."""

    _for_ever = True
    after: int | None = 0
    interval: float = 1.0

    async def _then(self, reply: Reply) -> Piece | None:
        await asyncio.sleep(self.interval)
        return Piece("other", reply.dialect.keep_alive)


@dataclass(frozen=True)
class Split(_BodyFault):
    """The bytes come in chunks of this size: events, lines and UTF-8 characters are torn apart."""

    size: int = 1

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece.data), self.size):
                    yield Piece(piece.kind, piece.data[start:start + self.size])
                    await asyncio.sleep(0)


@dataclass(frozen=True)
class Crlf(_BodyFault):
    """Lines end in CR LF."""

    async def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                yield Piece(piece.kind, piece.data.replace(b"\n", b"\r\n"))


@dataclass(frozen=True)
class Repeat(_BodyFault):
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


async def _silence() -> NoReturn:
    never: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
    await never
