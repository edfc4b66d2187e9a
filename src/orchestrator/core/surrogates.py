"""Halves of surrogate pairs, which JSON can carry and UTF-8 cannot: joined where both came, else replaced.

A server that cuts its answer between UTF-16 units sends an emoji as two pieces: U+D83D, then U+DE00.
"""

from __future__ import annotations

__all__ = ["Halves", "whole"]


def whole(text: str) -> str:
    """``text`` as UTF-8 can carry it: pairs joined, and U+FFFD for each half that stays alone."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Halves:
    """Joins what was cut between two pieces of one text; asked only where ``held`` or a piece is not ASCII."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = ""  # the first half of a pair, the second of which is to come

    def join(self, piece: str) -> str:
        """The next piece of the whole text: empty when all there is must be held back."""
        piece = self.held + piece
        self.held = ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            self.held = piece[-1]
            piece = piece[:-1]
        return whole(piece)

    def rest(self) -> str:
        """What stands for a half that stayed alone, once no more is to come."""
        alone, self.held = self.held, ""
        return "\ufffd" if alone else ""
