"""The httpx engine: the default, and whatever client, transport or mock of httpx the user brings along."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx

from orchestrator.providers._connections import aclose, give_pool, has_own_pool
from orchestrator.providers._engine import Headers, HeadersToSend, RawResponse
from orchestrator.providers._exchange import Exchange

__all__ = ["HttpxEngine", "new_client"]


class HttpxEngine:
    """See :class:`orchestrator.providers._engine.Engine`. ``own``: the client is ours and adds nothing to a request."""

    def __init__(self, client: httpx.AsyncClient, *, own: bool = False) -> None:
        self.client = client
        self._own = own
        self._closes_at_once = has_own_pool(client)
        self._prepared: _Prepared | None = None

    async def open(
        self, method: str, url: str, headers: HeadersToSend, body: bytes | None, *, connect: float | None,
        read: float | None,
    ) -> RawResponse:
        """Send, and return once the headers are there."""
        extensions = {"timeout": {"connect": connect, "read": read, "write": None, "pool": None}}
        if self._own:
            prepared = self._prepared
            if prepared is None or prepared.address != url or prepared.given is not headers:
                prepared = self._prepared = _Prepared(url, headers)
            request = prepared.request(method, body, extensions)
        else:
            request = self.client.build_request(method, url, content=body, headers=headers, extensions=extensions)
        response = await self.client.send(request, stream=True, follow_redirects=False)
        # Past what httpx lays around it, if that is all: each layer is one more generator for each piece.
        exchange = getattr(getattr(response.stream, "_stream", None), "_httpcore_stream", None)
        if isinstance(exchange, Exchange) and not response.is_stream_consumed:
            return exchange
        return _Response(response, closes_at_once=self._closes_at_once)

    async def aclose(self) -> None:
        """Close the client."""
        await self.client.aclose()


class _Prepared:
    """What all requests to one address have in common."""

    __slots__ = ("_headers", "_url", "address", "given")

    def __init__(self, address: str, headers: HeadersToSend) -> None:
        self.address = address
        self.given = headers
        self._url = httpx.URL(address)
        host = [] if "host" in headers else [(b"host", self._url.netloc)]
        self._headers = httpx.Headers([*host, *headers.raw], encoding="ascii")

    def request(self, method: str, body: bytes | None, extensions: dict[str, Any]) -> httpx.Request:
        """A request; one made of ``content`` instead of a stream would look through all of its headers."""
        headers = self._headers
        if body is not None and "content-length" not in self.given:
            headers = httpx.Headers(headers, encoding="ascii")
            headers["content-length"] = str(len(body))
        stream = httpx.ByteStream(body or b"")
        request = httpx.Request(method, self._url, headers=headers, stream=stream, extensions=extensions)
        request.read()
        return request


class _Response:
    """See :class:`orchestrator.providers._engine.RawResponse`."""

    __slots__ = ("_closes_at_once", "_response", "headers", "is_decoded", "status", "whole")

    def __init__(self, response: httpx.Response, *, closes_at_once: bool) -> None:
        self.status = response.status_code
        self.headers = Headers(response.headers.raw)
        self.whole = None
        self.is_decoded = response.is_stream_consumed  # by a transport or hook of the user's client
        self._response = response
        self._closes_at_once = closes_at_once

    def __aiter__(self) -> AsyncIterator[bytes]:
        response = self._response
        if self.is_decoded:
            return httpx.ByteStream(response.content).__aiter__()
        # Not aiter_raw(): it cuts chunks anew for no use. AsyncClient has made sure of the type.
        return response.stream.__aiter__()  # type: ignore[union-attr]

    async def aclose(self) -> None:
        if self._closes_at_once:
            await self._response.aclose()
        else:
            await aclose(self._response)


class _NoCookies(httpx.Cookies):
    """Keeps nothing: no state from one call to the next, and none of the time httpx spends on reading cookies."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


def new_client(verify: ssl.SSLContext) -> httpx.AsyncClient:
    """A client of our own; proxies of the environment are followed, redirects and cookies are not."""
    client = httpx.AsyncClient(
        verify=verify,
        timeout=None,  # noqa: S113  # every call brings its own
        follow_redirects=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )
    client._cookies = _NoCookies()  # noqa: SLF001  # what is handed over is copied
    return give_pool(client, verify)
