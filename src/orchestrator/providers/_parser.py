"""What reads HTTP/1.1 responses, and who is told: the seam between a connection and its parser."""

from __future__ import annotations

from typing import Protocol

from orchestrator.providers._engine import RawHeaders

__all__ = ["MOST_WITHOUT_BODY", "NewParser", "Parser", "Sink"]

MOST_WITHOUT_BODY = 100 * 1024  # bytes of headers, trailers and chunk extensions on end: as httpcore sets it for h11


class Sink(Protocol):
    """Is told what a parser reads."""

    def on_head(self, status: int, headers: RawHeaders, *, reusable: bool) -> None:
        """The head of the response; ``reusable``: when it is whole, another one may follow on the same connection."""

    def on_body(self, body: bytes) -> None:
        """The next part of its body."""

    def on_message_complete(self) -> None:
        """A message is whole: the response, or a hint before it."""

    def on_message_begin(self) -> None:
        """A message begins: also one that nobody has asked for."""


class Parser(Protocol):
    """Reads the responses of one connection, one after the other."""

    def feed(self, data: bytes | memoryview) -> None:
        """What has come, of which nothing is kept but copies; :class:`ProtocolError` when that is no HTTP."""


class NewParser(Protocol):
    """A kind of parser."""

    def __call__(self, sink: Sink) -> Parser:
        """One that tells ``sink``."""
