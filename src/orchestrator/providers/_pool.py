"""What httpx sends over: our own connections in the place of httpcore's pool.

That one goes through all its connections and requests several times for each request: at 64 callers that is most of
what a request costs. Its shields do not stop ``Task.cancel()`` (encode/httpcore#1093, #1115). And its connections take
locks, and check and copy every header, for each request anew.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import Self

import httpcore

from orchestrator.providers._exchange import Exchange, Origin
from orchestrator.providers._h11 import H11Parser
from orchestrator.providers._reuse import Connections
from orchestrator.providers._secret import SecretBytes

__all__ = ["Pool", "fits"]

_HEAD = re.compile(rb"[!-~]++ [!-~]++ HTTP/1\.1\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++: [^\0\r\n]*+\r\n)*+\r\n")
_PORTS = {b"http": 80, b"https": 443}


class Pool:
    """Takes the place of an ``httpcore.AsyncConnectionPool`` within ``httpx.AsyncHTTPTransport``."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.connections = Connections(tls, H11Parser)
        self._door = _Door(self.connections)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send, and return once the headers are there; closing the response gives the connection back."""
        scheme = request.url.scheme
        if scheme not in _PORTS:
            raise httpcore.UnsupportedProtocol(f"the address begins with {scheme.decode()[:32]!r}")
        return await self._door.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Door(httpcore.AsyncHTTPConnection):
    """What patches httpcore's connections, as respx does, finds its ``handle_async_request``; behind it is ours."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(httpcore.Origin(b"", b"", 0))
        self._connection = _Behind(connections)  # type: ignore[assignment]  # as much of one as is used
        self._request_lock = _Unlocked()  # type: ignore[assignment]

    def can_handle_request(self, origin: httpcore.Origin) -> bool:  # noqa: ARG002  # any
        return True


class _Behind:
    """In the place of one connection of httpcore's: all of ours."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpcore.Request) -> _Response:
        url = request.url
        origin = Origin(url.scheme == b"https", url.host.decode("ascii"), url.port or _PORTS[url.scheme])
        head = SecretBytes(b"%b %b HTTP/1.1\r\n%b\r\n" % (
            request.method, url.target, b"".join([b"%b: %b\r\n" % pair for pair in request.headers])
        ))
        if not _HEAD.fullmatch(head):
            raise httpcore.LocalProtocolError("a header or the address holds what HTTP does not allow")
        limits = request.extensions["timeout"]
        return _Response(await self._connections.exchange(
            origin, (head, await _body(request.stream)), connect=limits["connect"], read=limits["read"]
        ))


class _Response:
    """As much of ``httpcore.Response`` as httpx takes, which checks and copies each header another time."""

    __slots__ = ("extensions", "headers", "status", "stream")

    def __init__(self, exchange: Exchange) -> None:
        self.status = exchange.status
        self.headers = exchange.headers.raw
        self.stream = exchange
        self.extensions = {"http_version": b"HTTP/1.1"}


class _Unlocked:
    """Stands for a lock: a free one of httpcore's costs a turn of the event loop."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


async def _body(stream: Iterable[bytes] | AsyncIterable[bytes]) -> bytes:
    if isinstance(stream, Iterable):  # httpx.ByteStream is both
        return SecretBytes(b"".join(stream))
    return SecretBytes(b"".join([chunk async for chunk in stream]))


def fits() -> bool:
    """Whether httpcore is made as :class:`Pool` needs it."""
    connection = httpcore.AsyncHTTPConnection(httpcore.Origin(b"http", b"localhost", 80))
    return hasattr(connection, "_connection") and hasattr(connection, "_request_lock")
