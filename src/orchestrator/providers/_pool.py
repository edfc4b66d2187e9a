"""A pool for httpx that takes and gives connections back in constant time, and never gives out one that was lost.

httpcore's own goes through all its connections and requests several times for each request: at 64 callers that is most
of what a request costs. And its shields do not stop ``Task.cancel()`` (encode/httpcore#1093, #1115).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import httpcore

from orchestrator.providers._network import Network
from orchestrator.providers._reuse import Connections

__all__ = ["Pool"]

Key = tuple[bytes, bytes, int | None]  # scheme, host, port


class Pool:
    """Idle connections by origin, the one that was used last first; each carries one exchange at a time.

    Takes the place of an ``httpcore.AsyncConnectionPool`` within ``httpx.AsyncHTTPTransport``. The connections are
    httpcore's, so what patches those, such as respx, goes on working.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self.connections: Connections[_Connection] = Connections()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send, and return once the headers are there; closing the response gives the connection back."""
        url = request.url
        if url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol(f"the address begins with {url.scheme.decode()[:32]!r}")
        key = (url.scheme, url.host, url.port)
        connection = self.connections.take(key) or _Connection(key, url.origin, self._tls)
        self.connections.use(connection)
        response = None
        try:
            response = await connection.http.handle_async_request(request)
        finally:
            if response is None:
                self.connections.drop(connection)
        connection.unlock()
        response.stream = _Body(response.stream, connection, self.connections)
        return response

    async def aclose(self) -> None:
        """Close every connection."""
        self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Connection:
    """A connection of httpcore's, its network, and until when it may stay unused."""

    __slots__ = ("_unlocked", "expires", "http", "network", "origin")

    def __init__(self, key: Key, origin: httpcore.Origin, tls: ssl.SSLContext) -> None:
        self.origin = key
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

    def end(self) -> bool:
        """Whether another exchange may follow."""
        if not self.http.is_idle() or self.network.is_sending:
            return False
        # More came than the answer: httpcore would take it for the answer to the next request.
        parser = getattr(getattr(self.http, "_connection", None), "_h11_state", None)
        return parser is None or not parser.trailing_data[0]

    def is_usable(self, at: float) -> bool:
        """Whether it is still good after it was idle."""
        return self.expires > at and not self.http.has_expired()

    def abort(self) -> None:
        """Close it now."""
        self.network.abort()


class _Body:
    """The body of a response, whose closing gives the connection back to the pool."""

    __slots__ = ("_connection", "_connections", "_stream")

    def __init__(
        self, stream: Any, connection: _Connection, connections: Connections[_Connection]  # noqa: ANN401  # httpcore's
    ) -> None:
        self._stream = stream
        self._connection: _Connection | None = connection
        self._connections = connections

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if hasattr(self._stream, "aclose"):
                    await self._stream.aclose()
            finally:
                self._connections.end(connection)


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
