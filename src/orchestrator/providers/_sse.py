"""Framing of streams, without I/O: bytes split anywhere go in, whole events come out."""

from __future__ import annotations

from orchestrator.core.errors import MalformedResponseError

__all__ = ["NDJSONDecoder", "SSEDecoder"]


_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # numbers: to look for one costs an eighth of what it costs to look for bytes


class _Lines:
    """Cuts bytes into lines at LF, CRLF or CR; looks at every byte once, however small the chunks are."""

    __slots__ = ("_after_cr", "_limit", "_partial", "at_start")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._after_cr = False
        self.at_start = True  # of the stream, where a byte order mark may stand

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a line."""
        return not self._partial and not self._after_cr

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their ends."""
        if self._after_cr and chunk:
            # The LF of a CRLF that was cut in two; the line itself was not held back to wait for it.
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        if _CR in chunk:
            self._after_cr = chunk[-1] == _CR
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        may_be_long = len(self._partial) + len(chunk) > self._limit
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._partial:
            lines[0] = self.rest() + lines[0]
        if rest:
            self._partial += rest
        if may_be_long and max(len(self._partial), *map(len, lines), 0) > self._limit:
            self._partial.clear()  # the error is part of a cycle: a megabyte would wait for the garbage collector
            raise MalformedResponseError(f"a line of the stream is longer than {self._limit} bytes")
        if self.at_start and lines:
            self.at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def rest(self) -> bytes:
        """What was fed since the last line end."""
        partial = bytes(self._partial)
        self._partial.clear()
        return partial


class SSEDecoder:
    """Server-sent events as the WHATWG HTML standard frames them (§9.2.6); of an event only the ``data`` is kept.

    An event that no blank line ended is dropped, as the standard says: it may have been cut.
    """

    __slots__ = ("_between", "_count", "_data", "_limit", "_lines", "_most", "_size")

    def __init__(self, limit: int = 1024 * 1024, events: int = 500_000) -> None:
        self._limit = limit
        self._most = events
        self._count = 0
        self._lines = _Lines(limit)
        self._data: list[bytes] = []
        self._size = 0
        self._between = True  # nothing of an event has come yet

    def feed(self, chunk: bytes) -> list[str]:
        """The data of each event that ``chunk`` completes.

        :class:`MalformedResponseError` if one is too long, or one too many.
        """
        events = self._at_once(chunk) if self._between else None
        if events is None:
            events = self._by_line(chunk)
            self._between = not self._data and self._lines.is_between
        self._count += len(events)
        if self._count > self._most:
            raise _too_many(self._most)
        return events

    def _at_once(self, chunk: bytes) -> list[str] | None:
        """The events of a chunk that is nothing but whole events of one line, as most are; None of any other chunk."""
        if not chunk.startswith(b"data: ") or not chunk.endswith(b"\n\n") or _CR in chunk or len(chunk) > self._limit:
            return None
        try:
            events = chunk[6:-2].decode().split("\n\ndata: ")
        except UnicodeDecodeError:
            return None
        if "\n" in "".join(events):
            return None
        self._lines.at_start = False
        return events

    def _by_line(self, chunk: bytes) -> list[str]:
        events: list[str] = []
        data = self._data
        for line in self._lines.feed(chunk):
            if not line:
                if data:
                    events.append(_text(data[0] if len(data) == 1 else b"\n".join(data)))
                    data.clear()
            elif line.startswith(b"data: ") and not data:
                data.append(line[6:])
            elif line[0] != 58:  # a comment
                self._field(line)
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            if len(self._data) == 1:  # which feed() took without counting
                self._size = len(self._data[0])
            self._size = self._size + len(value) + 1 if self._data else len(value)
            if self._size > self._limit:
                self._data.clear()
                raise MalformedResponseError(f"an event of the stream is longer than {self._limit} bytes")
            self._data.append(value)


class NDJSONDecoder:
    """One JSON text per line; blank lines are skipped."""

    __slots__ = ("_count", "_lines", "_most")

    def __init__(self, limit: int = 1024 * 1024, events: int = 500_000) -> None:
        self._lines = _Lines(limit)
        self._most = events
        self._count = 0

    def feed(self, chunk: bytes) -> list[str]:
        """The texts that ``chunk`` completes; :class:`MalformedResponseError` if one is too long, or one too many."""
        texts = [_text(line) for line in self._lines.feed(chunk) if line.strip()]
        self._count += len(texts)
        if self._count > self._most:
            raise _too_many(self._most)
        return texts

    def finish(self) -> list[str]:
        """The last text, if no line end followed it."""
        line = self._lines.rest()
        return [_text(line)] if line.strip() else []


def _too_many(most: int) -> MalformedResponseError:
    return MalformedResponseError(f"the stream has more than {most} events")


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        data = b""
    # Not in the except clause: that error holds the data. Nor replaced characters, which would pass for the answer.
    raise MalformedResponseError("the stream is not UTF-8")
