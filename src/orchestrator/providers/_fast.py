"""The fast engine, of the extra ``fast``: requests from prepared bytes, on connections of our own, read by llhttp.

Where the environment names a proxy for an address, httpx carries the request; else it is not even loaded.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

from orchestrator.providers._engine import Engine, HeadersToSend, RawResponse
from orchestrator.providers._exchange import Origin
from orchestrator.providers._llhttp import LlhttpParser
from orchestrator.providers._reuse import Connections

__all__ = ["FastEngine", "has_proxies"]

_MOST_ADDRESSES = 1000
_PORTS = {"http": 80, "https": 443}
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_SEGMENT = r"(?!\.)[A-Za-z0-9._~:@!$&'()*+,;=-]*"
# What httpx.URL would change nothing of, as nearly all addresses are: host, port, and target of the request.
_USUAL = re.compile(
    rf"(https?)://((?:[a-z0-9-]+\.)*[a-z][a-z0-9-]*|{_BYTE}(?:\.{_BYTE}){{3}})(?::([1-9][0-9]{{0,4}}))?((?:/{_SEGMENT})*)"
)


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
        address = _address_of(url)
        if len(self._addresses) >= _MOST_ADDRESSES:
            self._addresses.clear()
        self._addresses[url] = address
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


def _address_of(url: str) -> _Address:
    scheme, host, port, target = _split(url)
    usual_port = _PORTS[scheme]
    named = f"[{host}]" if ":" in host else host
    if port is not None and port != usual_port:
        named = f"{named}:{port}"
    return _Address(
        Origin(scheme == "https", host, port or usual_port), f" {target or '/'} HTTP/1.1\r\n".encode("ascii"),
        f"host: {named}\r\n".encode("ascii"), _has_proxy(scheme, host),
    )


def _split(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and target."""
    if usual := _USUAL.fullmatch(url):
        scheme, host, port, target = usual.groups()
        return scheme, host, int(port) if port else None, target
    import httpx  # knows IDNA, and what is to be encoded, and how

    parts = httpx.URL(url)
    if parts.scheme not in _PORTS or not parts.host:
        raise httpx.UnsupportedProtocol(f"the address has no host, or the protocol {parts.scheme[:32]!r}")
    return parts.scheme, parts.raw_host.decode("ascii"), parts.port, parts.raw_path.decode("ascii")


def has_proxies() -> bool:
    """Whether the environment names any: then httpx will be needed."""
    return not getproxies().keys().isdisjoint({*_PORTS, "all"})


def _has_proxy(scheme: str, host: str) -> bool:
    proxies = getproxies()
    return (scheme in proxies or "all" in proxies) and not proxy_bypass(host)
