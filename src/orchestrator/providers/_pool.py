"""A pool for httpx that takes and gives connections back in constant time, and never gives out one that was lost.

httpcore's own goes through all its connections and requests several times for each request: at 64 callers that is most
of what a request costs. And its shields do not stop ``Task.cancel()`` (encode/httpcore#1093, #1115).
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import httpcore

from orchestrator.core.clock import now
from orchestrator.providers import _engine
from orchestrator.providers._network import Network

__all__ = ["Pool"]


Key = tuple[bytes, bytes, int | None]  # scheme, host, port


class Pool:
    """Idle connections by origin, the one that was used last first; each carries one exchange at a time.

    Takes the place of an ``httpcore.AsyncConnectionPool`` within ``httpx.AsyncHTTPTransport``. The connections are
    httpcore's, so what patches those, such as respx, goes on working.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._idle: dict[Key, deque[_Connection]] = {}
        self._idle_count = 0
        self._busy: set[_Connection] = set()
        self._closed = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send, and return once the headers are there; closing the response gives the connection back."""
        url = request.url
        if url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol(f"the address begins with {url.scheme.decode()[:32]!r}")
        key = (url.scheme, url.host, url.port)
        connection = self._take(key) or _Connection(key, url.origin, self._tls)
        self._busy.add(connection)
        response = None
        try:
            response = await connection.http.handle_async_request(request)
        finally:
            if response is None:
                self._busy.discard(connection)
                connection.network.abort()
        connection.unlock()
        response.stream = _Body(response.stream, connection, self)
        return response

    def _take(self, key: Key) -> _Connection | None:
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.expires > now() and not connection.http.has_expired():
                return connection
            connection.network.abort()
        return None

    def end(self, connection: _Connection) -> None:
        """The end of an exchange: the connection may be used again, or is closed now."""
        self._busy.discard(connection)
        if self._closed or not connection.http.is_idle() or connection.has_more():
            connection.network.abort()
            return
        at = now()
        idle = self._idle.setdefault(connection.key, deque())
        while idle and (idle[0].expires <= at or self._idle_count >= _engine.MOST_IDLE):
            idle.popleft().network.abort()
            self._idle_count -= 1
        if self._idle_count >= _engine.MOST_IDLE:  # of other origins
            connection.network.abort()
            return
        connection.expires = at + _engine.KEEP_ALIVE
        idle.append(connection)
        self._idle_count += 1

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        for idle in self._idle.values():
            self._busy.update(idle)
        self._idle.clear()
        self._idle_count = 0
        for connection in self._busy:
            connection.network.abort()
        self._busy.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Connection:
    """A connection of httpcore's, its network, and until when it may stay unused."""

    __slots__ = ("_unlocked", "expires", "http", "key", "network")

    def __init__(self, key: Key, origin: httpcore.Origin, tls: ssl.SSLContext) -> None:
        self.key = key
        self.network = Network()
        self.http = httpcore.AsyncHTTPConnection(origin=origin, ssl_context=tls, network_backend=self.network)
        self.expires = 0.0  # on the loop's clock
        self._unlocked = False
        _unlock(self.http, "_request_lock")

    def unlock(self) -> None:
        """Once there is a connection: take its lock, too."""
        if not self._unlocked:
            self._unlocked = True
            _unlock(getattr(self.http, "_connection", None), "_state_lock")


    def has_more(self) -> bool:
        """Whether more came than the answer: httpcore would take it for the answer to the next request."""
        parser = getattr(getattr(self.http, "_connection", None), "_h11_state", None)
        return parser is not None and bool(parser.trailing_data[0])


class _Body:
    """The body of a response, whose closing gives the connection back to the pool."""

    __slots__ = ("_connection", "_pool", "_stream")

    def __init__(self, stream: Any, connection: _Connection, pool: Pool) -> None:  # noqa: ANN401  # as httpcore has it
        self._stream = stream
        self._connection: _Connection | None = connection
        self._pool = pool

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if hasattr(self._stream, "aclose"):
                    await self._stream.aclose()
            finally:
                self._pool.end(connection)


class _Unlocked:
    """Stands for a lock that nobody else can want, since a connection carries one exchange at a time."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


_UNLOCKED = _Unlocked()


def _unlock(owner: object, name: str) -> None:
    # Each of httpcore's locks costs a turn of the event loop although it is free. Where it has another name, it stays.
    if hasattr(owner, name):
        setattr(owner, name, _UNLOCKED)
