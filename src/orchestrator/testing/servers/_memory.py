"""The service without a socket: an httpx transport that hands each request straight to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

import httpx

from orchestrator.core.clock import now
from orchestrator.testing._exchange import HangUp, Piece, RecordedRequest, parse_json
from orchestrator.testing.servers._service import Service

__all__ = ["MemoryTransport"]

T = TypeVar("T")
_RESET = "Connection reset by peer"


class MemoryTransport(httpx.AsyncBaseTransport):
    """Answers as the server would over a socket, with the same exceptions, at the pace of the loop's clock.

    A client's connect and read timeouts hold. Closing the transport leaves the service as it is.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange."""
        body = await request.aread()
        if self._service.outage == "refuse":
            raise httpx.ConnectError("All connection attempts failed", request=request)
        exchange = _Exchange(self._service, request.extensions.get("timeout", {}).get("read"))
        headers = {name.lower(): value for name, value in request.headers.items()}
        return await exchange.open(
            RecordedRequest(request.method, request.url.path, headers, body, parse_json(body), now())
        )


class _Exchange:
    """A request and the reply to it, in the client's own task."""

    def __init__(self, service: Service, read_timeout: float | None) -> None:
        self._service = service
        self._read_timeout = read_timeout
        self._limit: asyncio.Timeout | None = None
        self._aborted = False
        service.open[self] = None

    async def open(self, request: RecordedRequest) -> httpx.Response:
        streamed = False
        try:
            reply = await self.step(lambda: self._service.handle(request), "Server disconnected without a response.")
            streamed = not isinstance(reply.body, bytes)
        finally:
            if not streamed:
                self.close()
        headers = {"content-type": reply.content_type, **reply.headers}
        stream = httpx.ByteStream(reply.body) if isinstance(reply.body, bytes) else _Body(self, reply.body)
        return httpx.Response(reply.status, headers=headers, stream=stream)

    def close(self) -> None:
        self._service.open.pop(self, None)

    def abort(self) -> None:
        """Break the exchange, from outside of its task."""
        self._aborted = True
        if self._limit is not None:
            self._limit.reschedule(now())

    async def step(self, work: Callable[[], Awaitable[T]], closed: str) -> T:
        """Wait for the server; raises what a socket would: ``closed`` is the text for its end."""
        if self._aborted:
            raise httpx.ReadError(_RESET)
        try:
            async with asyncio.timeout(self._read_timeout) as self._limit:
                return await work()
        except HangUp as end:
            closed = "illegal bytes" if end.after else closed
            raise (httpx.ReadError(_RESET) if end.reset else httpx.RemoteProtocolError(closed)) from None
        except TimeoutError:
            raise (httpx.ReadError(_RESET) if self._aborted else httpx.ReadTimeout("no bytes in time")) from None
        finally:
            self._limit = None


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: _Exchange, pieces: AsyncGenerator[Piece, None]) -> None:
        self._exchange = exchange
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._exchange.step(self._next, "peer closed connection within the body")) is not None:
            if piece.data:
                yield piece.data

    async def aclose(self) -> None:
        await self._pieces.aclose()
        self._exchange.close()

    async def _next(self) -> Piece | None:
        return await anext(self._pieces, None)
