"""What every fault is: the way it gets hold of an answer, of the reply, and of the body piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.testing._exchange import Answer, Kind, Piece, Reply

__all__ = ["AfterFault", "BodyFault", "Fault"]

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


class BodyFault(Fault, ABC):
    """Disturbs the body, piece by piece."""

    async def _disturb(self, reply: Reply) -> Reply:
        return replace(reply, body=self._stream(reply))

    @abstractmethod
    def _stream(self, reply: Reply) -> AsyncGenerator[Piece, None]:
        """The body instead of that of ``reply``."""


@dataclass(frozen=True)
class AfterFault(BodyFault):
    """Lets at most ``after`` pieces of content pass, or half of a plain answer, then goes on in its own way."""

    for_ever: ClassVar[bool] = False  # whether ``_then`` is asked again and again
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
            if not self.for_ever:
                return

    @abstractmethod
    async def _then(self, reply: Reply) -> Piece | None:
        """What comes next, None for the end."""
