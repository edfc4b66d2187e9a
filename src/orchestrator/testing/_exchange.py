"""What passes between the parts of a simulated server: a request, the answer to it, the reply on the wire."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Literal

from orchestrator.core.types import FinishReason

__all__ = [
    "Answer", "Asked", "Dialect", "Endpoint", "HangUp", "Kind", "Piece", "RecordedRequest", "Refusal", "Reply", "Tool",
    "dump", "parse_json", "status_text", "tokens",
]

Endpoint = Literal["chat", "models", "token"]
Kind = Literal["open", "text", "tool", "finish", "usage", "end", "whole", "other"]

_TOKEN = re.compile(r"\s*\S+\s*")


@dataclass(slots=True)
class RecordedRequest:
    """A request as it arrived: header names in lower case, ``json`` None when the body is not JSON, ``at`` in seconds
    on the loop's clock. The headers may hold a key, the body a prompt: ``repr`` shows neither.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    json: Any = field(repr=False)
    at: float


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the request offers, or the one that the answer calls: ``value`` is its schema, or its arguments."""

    name: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a chat request asks for, whatever its format. ``schema``: the answer shall be JSON of this schema."""

    prompt: str
    prompt_tokens: int
    model: str
    stream: bool = False
    max_tokens: int | None = None
    include_usage: bool = True
    tool: Tool | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the simulated model says; ``rate`` is in tokens per second, None for at once.

    ``last`` is the text of the last line of a stream whose lines have the whole text, None for the same.
    """

    number: int
    model: str
    text: str
    prompt_tokens: int
    rate: float | None = None
    finish: FinishReason = "stop"
    tool: Tool | None = None
    usage: bool = True
    last: str | None = None

    @property
    def completion_tokens(self) -> int:
        """A word is a token, a tool call is ten."""
        return len(tokens(self.text)) + 10 * (self.tool is not None)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body: one event of a stream, or a ``whole`` plain answer."""

    kind: Kind
    data: bytes


@dataclass(slots=True)
class Reply:
    """An HTTP response: its body is bytes, or a stream of pieces, which may end in :class:`HangUp`."""

    dialect: Dialect
    status: int
    body: bytes | AsyncGenerator[Piece, None]
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """The body piece by piece, also when it is whole."""
        return _one(self.body) if isinstance(self.body, bytes) else self.body


class HangUp(Exception):
    """The server closes the connection here, in order, with a reset, or ``after`` bytes that are no HTTP."""

    def __init__(self, *, reset: bool = False, after: bytes = b"") -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset
        self.after = after


class Refusal(Exception):
    """The server answers with an error status."""

    def __init__(
        self, status: int, message: str = "", code: str | int | None = None, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message or status_text(status)
        self.code = code
        self.headers = headers or {}


class Dialect(ABC):
    """How one vendor's API looks on the wire: where things are, who may ask, what answers and errors look like."""

    vendor: ClassVar[str]
    path: ClassVar[str]
    model: ClassVar[str]
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    keep_alive: ClassVar[bytes] = b": keep-alive\n\n"

    @abstractmethod
    def endpoint(self, request: RecordedRequest) -> Endpoint | None:
        """What is at this method and path."""

    @abstractmethod
    def authorize(self, request: RecordedRequest, endpoint: Endpoint) -> None:
        """Raise :class:`Refusal` when this caller may not ask."""

    @abstractmethod
    def ask(self, request: RecordedRequest) -> Asked:
        """Read a chat request; :class:`Refusal` when it is wrong."""

    @abstractmethod
    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a plain answer."""

    @abstractmethod
    def pieces(self, answer: Answer) -> Iterator[Piece]:
        """The events of a streamed answer."""

    @abstractmethod
    def error(self, status: int, message: str, code: str | int | None) -> dict[str, Any]:
        """The body of an error."""

    def event(self, value: Mapping[str, Any]) -> bytes:
        """One event of a stream."""
        return b"data: " + dump(value) + b"\n\n"

    @abstractmethod
    def models(self) -> dict[str, Any]:
        """The list of models."""

    def serve(self, request: RecordedRequest, endpoint: Endpoint) -> Reply:  # noqa: ARG002  # for OAuth
        """The reply of an endpoint beside the chat."""
        return Reply(self, 200, dump(self.models()))

    def expire_tokens(self) -> None:
        """Make all tokens useless, where there are some."""


async def _one(body: bytes) -> AsyncGenerator[Piece, None]:
    yield Piece("whole", body)


def tokens(text: str) -> list[str]:
    """The words of a text, each with the blanks around it; joined they are the text."""
    return _TOKEN.findall(text) or ([text] if text else [])


def parse_json(body: bytes) -> Any:  # noqa: ANN401  # JSON
    """The value of a JSON text, None when it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def dump(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def status_text(status: int) -> str:
    """The standard phrase of an HTTP status, or a plain one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else f"Error {status}"
