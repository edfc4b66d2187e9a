"""One pooled HTTP client per provider, with every size bounded and every failure mapped. Judges no status."""

from __future__ import annotations

import asyncio
import builtins
import ssl
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator import core
from orchestrator.core.errors import MalformedResponseError, OrchestratorError, ProviderError, TimeoutError
from orchestrator.providers._engine import Engine, HeadersToSend, RawResponse
from orchestrator.providers._errors import error_from_transport
from orchestrator.providers._failure import clean
from orchestrator.providers._json import UnreadableError, read_json, read_quickly
from orchestrator.providers._secret import SecretHeaders

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig, WireLimits

try:  # here, since who answers over HTTP needs it, and `import orchestrator` should not load it
    from orchestrator.providers._pieces import json_value
except ModuleNotFoundError:  # msgspec, of the extra `fast`
    pass
else:
    read_quickly(json_value)

__all__ = ["HttpClient", "WireResponse", "WireStream", "parse_json"]

_STEP = 64 * 1024


@dataclass(slots=True)
class WireResponse:
    """A response read to its end, whatever its status."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self, limits: WireLimits | None = None) -> Any:  # noqa: ANN401  # JSON
        """The body as JSON; :class:`MalformedResponseError` when it is none."""
        return parse_json(self.body, self.headers, limits=limits)


def parse_json(
    body: bytes, headers: Mapping[str, str] | None = None, *, provider: str | None = None, model: str | None = None,
    limits: WireLimits | None = None,
) -> Any:  # noqa: ANN401  # JSON
    """``body`` as JSON, whatever charset is said to be its; the error names its type and size and shows none of it."""
    try:
        return read_json(body, limits)
    except UnreadableError as exc:
        told = headers.get("content-type", "") if headers is not None else ""
        kind = told.partition(";")[0].strip()[:64] or "no content type"
        text = f"the body {exc} ({kind}, {len(body)} bytes)"
        body = b""  # a traceback keeps, and some tools show, what the locals are
        raise MalformedResponseError(text, provider=provider, model=model) from None


class WireStream:
    """A response whose body is still coming."""

    __slots__ = ("_limits", "_response", "_who", "headers", "status")

    def __init__(self, response: RawResponse, limits: WireLimits, config: ProviderConfig) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._limits = limits
        self._who = config

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, at most ``WireLimits.stream`` bytes."""
        return self._bounded(self._limits.stream, "stream")

    async def read(self) -> bytes:
        """The whole body, at most ``WireLimits.body`` bytes; of an error's, what came of its beginning."""
        if self.status >= 300:
            return await self._read_beginning()
        if "content-encoding" in self.headers:
            async with aclosing(self._bounded(self._limits.body, "body")) as chunks:
                return await self.read_on(b"", chunks)
        try:
            whole = self._response.whole
            if whole is not None and len(whole) <= self._limits.body:
                return whole
            return await self.read_on(b"", self._response)
        except _foreign() as exc:
            self._raise_cut(exc)

    async def read_on(self, head: bytes, chunks: AsyncIterable[bytes]) -> bytes:
        """``head`` and the chunks that follow it, at most ``WireLimits.body`` bytes."""
        whole = BytesIO()  # does not show what it holds, which a traceback would of a list
        left = self._limits.body - whole.write(head)
        try:
            async for chunk in chunks:
                left -= whole.write(chunk)
                if left < 0:
                    raise self._malformed(f"the body is longer than {self._limits.body} bytes")
        finally:
            head = chunk = b""
        return whole.getvalue()

    async def _read_beginning(self) -> bytes:
        beginning = b""
        with suppress(ProviderError):  # the status says enough: a cut body must not make another error of it
            async with aclosing(self._bounded(self._limits.body, "body")) as chunks:
                async for chunk in chunks:
                    beginning += chunk
                    if len(beginning) >= _STEP:
                        break
        return beginning

    async def _bounded(self, limit: int, what: str) -> AsyncGenerator[bytes, None]:
        left = limit
        try:
            inflate = self._inflater()
            async for chunk in self._response:
                for piece in (chunk,) if inflate is None else _inflated(inflate, chunk):
                    left -= len(piece)
                    if left < 0:
                        raise self._malformed(f"the {what} is longer than {limit} bytes")
                    yield piece
                    if inflate is not None:  # one chunk may hold a thousand pieces, and others are waiting
                        await asyncio.sleep(0)
            if inflate is not None and not inflate.eof:
                raise self._malformed("the compressed body was cut")
        except zlib.error as exc:
            raise self._malformed("the body is not what its content-encoding says") from exc.with_traceback(None)
        except _foreign() as exc:
            self._raise_cut(exc)
        finally:
            chunk = piece = b""  # a traceback keeps the locals, and this may be the key, sent back

    def _inflater(self) -> zlib._Decompress | None:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"identity", ""} or self._response.is_decoded:
            return None
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise self._malformed(f"the body is encoded as {encoding[:32]!r}, although 'identity' was asked for")
        return zlib.decompressobj(32 + zlib.MAX_WBITS)

    def _raise_cut(self, exc: Exception) -> NoReturn:
        error = error_from_transport(exc, provider=self._who.name, model=self._who.model, in_body=True)
        raise error from error.__cause__

    def _malformed(self, message: str) -> MalformedResponseError:
        return MalformedResponseError(
            message, provider=self._who.name, model=self._who.model, status_code=self.status
        )


def _inflated(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    # In bounded steps: a few bytes may stand for a thousand times as many.
    while chunk:
        piece = inflate.decompress(chunk, _STEP)
        if piece:
            yield piece
        chunk = inflate.unconsumed_tail


class HttpClient:
    """The HTTP client of one provider, made at its first call; an injected one is used as it is and never closed.

    ``config.headers`` win over the headers of a call. TLS follows ``config.verify_ssl`` and ``config.ca_bundle`` (added
    to the usual authorities). Redirects are not followed and cookies are not kept. ``config.engine`` names the engine;
    without it the fast one is taken where it is installed, unless a client was injected.
    """

    def __init__(
        self, config: ProviderConfig, *, http_client: httpx.AsyncClient | None = None, limits: WireLimits | None = None
    ) -> None:
        self._config = config
        self._injected = None if http_client is None else _injected(http_client)
        self._limits = core.config.DEFAULT_WIRE_LIMITS if limits is None else limits
        # Keyed by what an engine is bound to: its event loop, and settings which may be assigned later.
        self._engines: dict[tuple[asyncio.AbstractEventLoop, str | None, bool, str | None], Engine] = {}
        self._current: tuple[asyncio.AbstractEventLoop, Engine] | None = None  # until something is assigned
        self._merged: tuple[Mapping[str, str], Mapping[str, str], HeadersToSend] | None = None
        self._closed = False
        config.on_change(self._reconsider)
        self._load()

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None,
        connect: float | None = None, timeout: float | None = None,
    ) -> Coroutine[Any, Any, WireResponse]:
        """Send and read the whole body, within ``timeout`` seconds; raises our errors, but for no status."""
        if timeout is None:
            return self._exchange(method, url, headers, body, connect)
        return self._exchange_within(timeout, method, url, headers, body, connect=connect)

    async def _exchange_within(
        self, timeout: float, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *,
        connect: float | None,
    ) -> WireResponse:
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(method, url, headers, body, connect)
        except builtins.TimeoutError as exc:
            if isinstance(exc, OrchestratorError):
                raise
            raise TimeoutError(
                f"no answer within {timeout} s", provider=self._config.name, model=self._config.model
            ) from exc

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, connect: float | None
    ) -> WireResponse:
        response = await self._open(method, url, headers, body, connect=connect)
        try:
            stream = self._stream(response)
            return WireResponse(stream.status, stream.headers, await stream.read())
        finally:
            await response.aclose()

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None,
        connect: float | None = None, read: float | None = None,
    ) -> AsyncGenerator[WireStream, None]:
        """Send and hand over the response once its headers are there; leaving gives the connection back.

        ``connect`` and ``read`` (between two chunks) are in seconds, ``None`` for no limit.
        """
        response = await self._open(method, url, headers, body, connect=connect, read=read)
        try:
            yield self._stream(response)
        finally:
            await response.aclose()

    async def _open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, connect: float | None,
        read: float | None = None,
    ) -> RawResponse:
        try:
            return await self._engine().open(method, url, self._headers(headers), body, connect=connect, read=read)
        except _foreign() as exc:
            if isinstance(exc, OrchestratorError):  # our TimeoutError is an OSError, too
                raise
            error = error_from_transport(exc, provider=self._config.name, model=self._config.model)
            raise error from error.__cause__

    def _stream(self, response: RawResponse) -> WireStream:
        # Here too: an engine takes 100 KB, the transport of an injected client anything.
        if len(b"".join(map(b": \r\n".join, response.headers.raw))) > self._limits.headers:
            raise MalformedResponseError(
                f"the headers are longer than {self._limits.headers} bytes",
                provider=self._config.name, model=self._config.model, status_code=response.status,
            )
        return WireStream(response, self._limits, self._config)

    def _headers(self, headers: Mapping[str, str]) -> HeadersToSend:
        known = self._merged
        if known is None or known[0] != headers or known[1] != self._config.headers:  # a token may have been renewed
            own = SecretHeaders(self._config.headers)
            known = self._merged = (SecretHeaders(headers), own, self._merge(headers, own))
        return known[2]

    def _merge(self, headers: Mapping[str, str], own: Mapping[str, str]) -> HeadersToSend:
        merged = SecretHeaders({"user-agent": _user_agent(), "accept-encoding": "identity"})
        if self._injected is None:  # else the client has one
            merged["accept"] = "*/*"
        merged.update((name.lower(), value) for name, value in headers.items())
        merged.update((name.lower(), value) for name, value in own.items())
        # httpx would say so too, but with the value, which may be a key, in its message.
        if not all(text.isascii() and text.isprintable() for pair in merged.items() for text in pair):
            raise ProviderError(
                "api_key or a header holds characters that no HTTP header may hold (a line break?)",
                provider=self._config.name, model=self._config.model,
            )
        return HeadersToSend(merged)

    def _engine(self) -> Engine:
        loop = asyncio.get_running_loop()
        current = self._current
        if current is None or current[0] is not loop:
            current = self._current = (loop, self._engine_on(loop))
        return current[1]

    def _engine_on(self, loop: asyncio.AbstractEventLoop) -> Engine:
        if self._closed:
            raise ProviderError("the provider was closed", provider=self._config.name, model=self._config.model)
        if self._injected is not None:
            return self._injected
        config = self._config
        key = (loop, config.engine, config.verify_ssl, config.ca_bundle)
        engine = self._engines.get(key)
        if engine is None:
            self._engines = {known: old for known, old in self._engines.items() if not known[0].is_closed()}
            engine = self._engines[key] = self._made(fast=self._is_fast())
        return engine

    def _reconsider(self) -> None:
        self._current = None

    def _is_fast(self) -> bool:
        asked = self._config.engine
        if asked == "fast":
            if self._injected is not None:
                raise ValueError("http_client is a client of httpx, which engine='fast' does not use; leave one out")
            if not _has_fast():
                raise ModuleNotFoundError(
                    "engine='fast' needs httptools and msgspec: pip install 'resilient-orchestrator[fast]'"
                )
        return asked == "fast" or (asked is None and self._injected is None and _has_fast())

    def _load(self) -> None:
        """Import the engine in use, and no other, and read what is read once; now: not within the first request."""
        from orchestrator.providers._tls import tls_of

        _user_agent()
        if self._injected is None and self._config.verify_ssl and self._config.ca_bundle is None:
            with suppress(OSError):  # no such SSL_CERT_FILE: a request will say so
                tls_of(self._config)  # which all such providers share
        if self._is_fast():
            from orchestrator.providers._fast import has_proxies

            if not has_proxies():
                return
        from orchestrator.providers import _httpx  # noqa: F401

    def _made(self, *, fast: bool) -> Engine:
        from orchestrator.providers._tls import tls_of

        tls = tls_of(self._config)
        if not fast:
            return self._made_of_httpx(tls)
        from orchestrator.providers._fast import FastEngine

        return FastEngine(tls, proxied=partial(self._made_of_httpx, tls))

    def _made_of_httpx(self, tls: ssl.SSLContext) -> Engine:
        from orchestrator.providers._httpx import HttpxEngine, new_client

        try:
            return HttpxEngine(new_client(tls), own=True)
        except (ImportError, ValueError) as exc:  # a proxy in the environment that httpx does not know
            raise ProviderError(
                f"no HTTP client can be made: {clean(str(exc))}", provider=self._config.name, model=self._config.model
            ) from exc

    async def aclose(self) -> None:
        """Close the connections; idempotent. Those of another event loop are left to it."""
        if not self._closed:
            self._config.off_change(self._reconsider)
        self._closed = True
        self._current = None
        engines, self._engines = self._engines, {}
        loop = asyncio.get_running_loop()
        for key, engine in engines.items():
            if key[0] is loop:
                await engine.aclose()


def _injected(client: httpx.AsyncClient) -> Engine:
    from orchestrator.providers._httpx import HttpxEngine

    return HttpxEngine(client)


@cache
def _has_fast() -> bool:
    # Both: httptools comes with uvicorn, too, where nobody has asked for another engine.
    return all(find_spec(name) is not None for name in ("httptools", "msgspec"))


def _foreign() -> tuple[type[Exception], ...]:
    """What sending and reading may raise; what httpx may only where it is loaded: else nobody can have raised that.

    RuntimeError is its word for "closed" and for a body read twice.
    """
    loaded = sys.modules.get("httpx")
    of_httpx = [getattr(loaded, name, OSError) for name in ("HTTPError", "InvalidURL")]
    return *of_httpx, OSError, RuntimeError


@cache
def _user_agent() -> str:
    from importlib import metadata  # slow to import; pydantic has done so

    try:
        return f"resilient-orchestrator/{metadata.version('resilient-orchestrator')}"
    except metadata.PackageNotFoundError:
        return "resilient-orchestrator"
