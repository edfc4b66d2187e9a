"""The fast engine, of the extra ``fast``: requests from prepared bytes, on connections of our own, read by llhttp.

TLS is that of the httpx engine. Where the environment names a proxy for an address, httpx carries the request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import httpx

from orchestrator.providers._engine import Engine, HeadersToSend, RawResponse
from orchestrator.providers._exchange import Origin
from orchestrator.providers._llhttp import LlhttpParser
from orchestrator.providers._reuse import Connections

__all__ = ["FastEngine"]

_MOST_ADDRESSES = 1000


class _Address(NamedTuple):
    origin: Origin
    line: bytes  # of the request, behind the method
    host: bytes  # a header
    by_proxy: bool


class FastEngine:
    """See :class:`orchestrator.providers._engine.Engine`. ``proxied`` makes the engine for what goes by a proxy."""

    def __init__(self, tls: ssl.SSLContext, proxied: Callable[[], Engine]) -> None:
        self._make_proxied = proxied
        self._proxied: Engine | None = None
        self._addresses: dict[str, _Address] = {}
        self._connections = Connections(tls, LlhttpParser)

    def open(
        self, method: str, url: str, headers: HeadersToSend, body: bytes | None, *, connect: float | None,
        read: float | None,
    ) -> Coroutine[Any, Any, RawResponse]:
        """Send, and return once the headers are there."""
        address = self._addresses.get(url) or self._address(url)
        if address.by_proxy:
            return self._by_proxy().open(method, url, headers, body, connect=connect, read=read)
        host = b"" if "host" in headers else address.host
        length = b"" if body is None or "content-length" in headers else b"content-length: %d\r\n" % len(body)
        request = (method.encode("ascii"), address.line, host, headers.block, length, b"\r\n", body or b"")
        return self._connections.exchange(address.origin, request, connect=connect, read=read)

    def _address(self, url: str) -> _Address:
        parts = httpx.URL(url)
        if parts.scheme not in {"http", "https"} or not parts.host:
            raise httpx.UnsupportedProtocol(f"the address has no host, or the protocol {parts.scheme[:32]!r}")
        host = parts.raw_host.decode("ascii")
        origin = Origin(parts.scheme == "https", host, parts.port or (443 if parts.scheme == "https" else 80))
        line, named = b" %b HTTP/1.1\r\n" % parts.raw_path, b"host: %b\r\n" % parts.netloc
        if len(self._addresses) >= _MOST_ADDRESSES:
            self._addresses.clear()
        address = self._addresses[url] = _Address(origin, line, named, _has_proxy(parts.scheme, host))
        return address

    def _by_proxy(self) -> Engine:
        if self._proxied is None:
            self._proxied = self._make_proxied()
        return self._proxied

    async def aclose(self) -> None:
        """Close every connection."""
        self._connections.close()
        if self._proxied is not None:
            await self._proxied.aclose()
        await asyncio.sleep(0)  # asyncio closes a socket one step after its transport


def _has_proxy(scheme: str, host: str) -> bool:
    proxies = getproxies()
    return (scheme in proxies or "all" in proxies) and not proxy_bypass(host)
