"""The httpx engine: the default, and whatever client, transport or mock of httpx the user brings along."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar

import httpx

from orchestrator.providers._connections import aclose, give_pool, has_own_pool
from orchestrator.providers._engine import Headers, HeadersToSend, RawResponse

__all__ = ["HttpxEngine", "new_client"]


class HttpxEngine:
    """See :class:`orchestrator.providers._engine.Engine`. ``own``: the client is ours and adds nothing to a request."""

    def __init__(self, client: httpx.AsyncClient, *, own: bool = False) -> None:
        self.client = client
        self._own = own
        self._closes_at_once = has_own_pool(client)
        self._url = httpx.URL()
        self._address = ""

    async def open(
        self, method: str, url: str, headers: HeadersToSend, body: bytes | None, *, connect: float | None,
        read: float | None,
    ) -> RawResponse:
        """Send, and return once the headers are there."""
        extensions = {"timeout": {"connect": connect, "read": read, "write": None, "pool": None}}
        if self._own:
            if url != self._address:
                self._url, self._address = httpx.URL(url), url
            request = httpx.Request(method, self._url, headers=headers.raw, content=body, extensions=extensions)
        else:
            request = self.client.build_request(method, url, content=body, headers=headers, extensions=extensions)
        response = await self.client.send(request, stream=True, follow_redirects=False)
        return _Response(response, closes_at_once=self._closes_at_once)

    async def aclose(self) -> None:
        """Close the client."""
        await self.client.aclose()


class _Response:
    """See :class:`orchestrator.providers._engine.RawResponse`."""

    __slots__ = ("_closes_at_once", "_response", "headers", "is_decoded", "status")

    def __init__(self, response: httpx.Response, *, closes_at_once: bool) -> None:
        self.status = response.status_code
        self.headers = Headers(response.headers.raw)
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


class _NoCookies(CookieJar):
    """Keeps nothing: no state from one call to the next, and none of the time httpx spends on reading cookies."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass


def new_client(verify: ssl.SSLContext) -> httpx.AsyncClient:
    """A client of our own; proxies of the environment are followed, redirects and cookies are not."""
    return give_pool(httpx.AsyncClient(
        verify=verify,
        timeout=None,  # noqa: S113  # every call brings its own
        follow_redirects=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        cookies=_NoCookies(),
    ), verify)
