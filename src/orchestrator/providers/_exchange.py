"""One HTTP/1.1 connection: asyncio moves the bytes, a parser reads them, in one pass.

Everything that comes is bounded here, too: a block of headers, and what is buffered for a reader that is slow.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

from orchestrator.providers._engine import Headers, ProtocolError, RawHeaders, ReadTimeout
from orchestrator.providers._parser import MOST_WITHOUT_BODY, NewParser

__all__ = ["Connection", "Exchange", "Origin"]

_HIGH = 256 * 1024  # bytes of a body that wait for a reader before the server is made to wait

_RECORD = 17 * 1024  # a whole one of TLS, whose beginning the TLS layer may hold without counting it
_AT_ONCE = 256 * 1024 + _RECORD  # bytes; asyncio's own transports read 256 KiB at once

# One for all connections of an event loop: whatever fills it (a selector, the proactor, TLS, uvloop) tells so before
# anything else can run. Bytes for each read, as asyncio makes them, are 256 KiB that are mapped, cut and unmapped. The
# buffer may repeat a key until the next read; it is a memoryview because that shows nothing of what it holds.
_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()

_IDLE, _HEAD, _BODY, _WHOLE = range(4)


class Origin(NamedTuple):
    """What one connection leads to."""

    secure: bool
    host: str
    port: int


class Connection(asyncio.BufferedProtocol):
    """Carries one exchange at a time; who uses it awaits ``ask`` and ``read``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, new_parser: NewParser) -> None:
        self.origin = origin
        self._loop = loop
        self._buffer = _buffers.get(loop) or _buffers.setdefault(loop, memoryview(bytearray(_AT_ONCE)))
        self._parser = new_parser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # connection_made comes first
        self._waiter: asyncio.Future[None] | None = None
        self._failure: OSError | None = None
        self._state = _IDLE
        self._reusable = True
        self._status = 0
        self._headers: RawHeaders = []
        self._chunks: list[bytes] = []
        self._size = 0  # of the chunks
        self._without_body = 0  # bytes that came since the last byte of a body
        self._paused = False
        self._patience: float | None = None
        self._heard = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self.expires = 0.0  # on the loop's clock; of an idle one
        self._is_readable: Callable[[int], object] = bool

    # What the exchange does

    async def ask(self, request: tuple[bytes, ...], patience: float | None) -> tuple[int, Headers]:
        """Send the parts of a request: status and headers of the response; fails after ``patience`` s of silence."""
        self._state = _HEAD
        self._without_body = 0
        self._patience = patience
        if patience is not None:
            self._listen(patience)
        if self._failure is None:  # else the server has closed it already
            self._transport.write(b"".join(request))
        while self._state is _HEAD:
            await self._news()
        return self._status, Headers(self._headers)

    def _listen(self, patience: float) -> None:
        self._heard = self._loop.time()
        due = self._heard + patience
        if self._alarm is None or self._alarm.when() > due:
            self._disarm()
            self._alarm = self._loop.call_at(due, self._look_for_silence)

    @property
    def whole(self) -> bytes | None:
        """The body, once all of it is there."""
        return b"".join(self._chunks) if self._state is _WHOLE else None

    async def read(self) -> bytes:
        """All of the body that has come and was not read yet, waited for if need be; nothing at its end."""
        while not self._chunks:
            if self._state is _WHOLE:
                return b""
            await self._news()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._empty()
        return data

    def _news(self) -> asyncio.Future[None]:
        """Done when something has come."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        return self._waiter

    def _empty(self) -> None:
        self._chunks, self._size = [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def end(self) -> bool:
        """The end of the exchange: whether another one may follow. If not, the connection is closed now."""
        # An answer may come before the request was taken as a whole; the rest of that would begin the next one.
        if self._state is _WHOLE and self._reusable and not self._transport.get_write_buffer_size():
            self._state = _IDLE
            self._empty()
            return True
        self.abort()
        return False

    def is_usable(self, at: float) -> bool:
        """Whether an idle connection is still good; the server may have closed it, and the loop not have seen that."""
        if not self._reusable or at >= self.expires:
            return False
        return not self._is_readable(0)

    def abort(self) -> None:
        """Close now; whoever waits gets an error."""
        self._reusable = False
        self._disarm()
        self._transport.abort()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_readable = _readability(self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        # TLS that was paused may have more; what does not fit would be lost where the server has closed meanwhile.
        if sizehint + _RECORD > len(self._buffer):
            self._buffer = memoryview(bytearray(sizehint + _RECORD))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._state is not _HEAD and self._state is not _BODY:  # nobody asked for it
            self.abort()
            return
        if self._patience is not None:
            self._heard = self._loop.time()
        self._without_body += nbytes
        try:
            self._parser.feed(self._buffer[:nbytes])
        except ProtocolError as exc:
            self._fail(exc.with_traceback(None))  # the frames below hold what came, which may repeat a key
        if self._without_body > MOST_WITHOUT_BODY and self._state is not _WHOLE:
            self._fail(ProtocolError(f"more than {MOST_WITHOUT_BODY} bytes without a body"))
        if self._size > _HIGH and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reusable = False
        self._disarm()
        if self._state is _BODY and exc is None and self._ends_with_connection():
            self._state = _WHOLE
        elif self._state is not _WHOLE:  # before the first exchange, too: whoever begins it shall know
            where = "within the body" if self._state is _BODY else "without sending a response"
            self._fail(exc if isinstance(exc, OSError) else ProtocolError(f"the server disconnected {where}"))
        self._wake()

    def _ends_with_connection(self) -> bool:
        told = {name.lower(): value.lower() for name, value in self._headers}
        return b"content-length" not in told and not told.get(b"transfer-encoding", b"").strip().endswith(b"chunked")

    def _look_for_silence(self) -> None:
        # One timer for many exchanges: most end long before it goes off, and it is set again only then.
        self._alarm = None
        if self._patience is None or self._state not in (_HEAD, _BODY):
            return
        due = self._heard + self._patience
        at = self._loop.time()
        if self._paused or due > at:  # paused: it is the reader who is slow
            self._alarm = self._loop.call_at(max(due, at + self._patience / 2), self._look_for_silence)
        else:
            self._fail(ReadTimeout("no bytes in time"))
            self._wake()

    def _fail(self, failure: OSError) -> None:
        if self._failure is None:
            self._failure = failure
        self.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the parser tells

    def on_message_begin(self) -> None:
        """See :class:`orchestrator.providers._parser.Sink`."""
        if self._state is _WHOLE:  # more than was asked for
            self._reusable = False

    def on_head(self, status: int, headers: RawHeaders, *, reusable: bool) -> None:
        """See :class:`orchestrator.providers._parser.Sink`."""
        if self._state is _HEAD:
            self._state = _BODY
            self._status, self._headers, self._reusable = status, headers, reusable

    def on_body(self, body: bytes) -> None:
        """See :class:`orchestrator.providers._parser.Sink`."""
        if self._state is _BODY:
            self._without_body = 0
            self._size += len(body)
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        """See :class:`orchestrator.providers._parser.Sink`."""
        if self._state is _BODY:
            self._state = _WHOLE


class Exchange:
    """A response on a connection; see :class:`orchestrator.providers._engine.RawResponse`."""

    __slots__ = ("_connection", "_give_back", "headers", "is_decoded", "status")

    def __init__(
        self, connection: Connection, status: int, headers: Headers, give_back: Callable[[Connection], None]
    ) -> None:
        self.status = status
        self.headers = headers
        self.is_decoded = False
        self._connection: Connection | None = connection
        self._give_back = give_back

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it has come."""
        return None if self._connection is None else self._connection.whole

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise ProtocolError("the response was closed")
        data = await self._connection.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Give the connection back; nothing in it waits, so nothing can interrupt it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection)


def _readability(transport: asyncio.Transport) -> Callable[[int], object]:
    """Called with 0 tells whether the server has sent something, or closed, even if asyncio has not seen it yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda _: transport.is_closing()
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll
