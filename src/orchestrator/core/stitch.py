"""Where the text of one stream ends and that of the next goes on: what both have is found while the pieces come."""

from __future__ import annotations

__all__ = ["Overlap", "Remainder"]


class Overlap:
    """Takes off the beginning of a continuation what it repeats of the text before it.

    That is the longest beginning, of ``shortest`` to ``longest`` characters, with which the text before ends, or all of
    that text when it begins anew. A shorter repetition may be meant, and stays; that a longer one is never meant cannot
    be known ("ha ha ha ha " may go on with the same). Pieces are held back only while they may be part of one.

    Two searches run side by side, both linear in what was held back and in the text before: the beginning of the text
    is compared as it stands, its end is searched by Knuth, Morris and Pratt's algorithm with a pattern that is still
    growing. That one tries the starts from left to right, so what it finds first is the longest, and when it
    has read the text to its end, what is matched then is the answer.
    """

    __slots__ = ("_at", "_before", "_borders", "_echo", "_found", "_held", "_matched", "_over", "_pattern", "_tail",
                 "_turn")

    def __init__(self, before: str, *, shortest: int, longest: int) -> None:
        self._before = before
        self._tail = before[max(0, len(before) - longest):]
        self._turn = len(self._tail) - shortest  # the last place where an overlap may start
        self._echo = 0 if len(before) >= shortest else -1  # so much of the beginning has come again; -1: something else
        self._held: list[str] = []
        self._pattern: list[str] = []  # the characters of the continuation
        self._borders: list[int] = []  # of each beginning of the pattern, how long its longest proper border is
        self._at = 0  # how far the tail is read
        self._matched = 0  # so many characters before that are the beginning of the pattern
        self._found = -1  # the length of the overlap, once known
        self._over = False

    def feed(self, piece: str) -> str:
        """The next piece; returns what is new for certain, which may be nothing yet, or more than the piece."""
        if self._over:
            return piece
        self._held.append(piece)
        if self._echo >= 0:
            expected = self._before[self._echo : self._echo + len(piece)]
            self._echo = self._echo + len(expected) if piece.startswith(expected) else -1
            if self._echo == len(self._before):
                return self._release(self._echo)
        for character in piece:
            if self._found >= 0:
                break
            self._grow(character)
            self._search()
        return self._release(self._found) if self._echo < 0 <= self._found else ""

    def rest(self) -> str:
        """What is still held back, now that nothing more comes."""
        if self._over:
            return ""
        if self._found < 0:
            self._search(whole=True)
        return self._release(self._found)

    def _release(self, overlap: int) -> str:
        self._over = True
        return "".join(self._held)[overlap:]

    def _grow(self, character: str) -> None:
        pattern, borders = self._pattern, self._borders
        border = borders[-1] if borders else 0
        while border and pattern[border] != character:
            border = borders[border - 1]
        if pattern and pattern[border] == character:
            border += 1
        pattern.append(character)
        borders.append(border)

    def _search(self, *, whole: bool = False) -> None:
        """Go on until the pattern is too short to tell; if it is the ``whole`` continuation, to the end."""
        tail, pattern, borders, at, matched = self._tail, self._pattern, self._borders, self._at, self._matched
        while at - matched <= self._turn:
            if at == len(tail):
                self._found = matched
                return
            if matched < len(pattern) and tail[at] == pattern[matched]:
                at += 1
                matched += 1
            elif matched == len(pattern) and not whole:
                self._at, self._matched = at, matched
                return
            elif matched:
                matched = borders[matched - 1]
            else:
                at += 1
        self._found = 0


class Remainder:
    """What an answer that was begun anew has beyond the text its reader has got already."""

    __slots__ = ("_at", "_before")

    def __init__(self, before: str) -> None:
        self._before = before
        self._at = 0

    def feed(self, piece: str) -> str | None:
        """The part of the next piece that is new; None when the answer differs from what the reader has."""
        expected = self._before[self._at : self._at + len(piece)]
        self._at += len(expected)
        return piece[len(expected):] if piece.startswith(expected) else None

    @property
    def whole(self) -> bool:
        """Whether all that the reader has has come again."""
        return self._at == len(self._before)
