"""One pooled HTTP client per provider, with every size bounded and every failure mapped. Judges no status."""

from __future__ import annotations

import asyncio
import builtins
import ssl
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar
from importlib import metadata
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, cast

import httpx

from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import MalformedResponseError, OrchestratorError, ProviderError, TimeoutError
from orchestrator.providers._connections import aclose, watch_connections
from orchestrator.providers._errors import error_from_transport
from orchestrator.providers._failure import clean
from orchestrator.providers._json import UnreadableError, read_json
from orchestrator.providers._limits import LIMITS, WireLimits
from orchestrator.providers._secret import SecretHeaders

__all__ = ["LIMITS", "HttpClient", "WireLimits", "WireResponse", "WireStream", "parse_json"]

_STEP = 64 * 1024
# What sending and reading may raise; RuntimeError is httpx's word for "closed" and for a body read twice.
_FOREIGN = (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError)


@dataclass(frozen=True, slots=True)
class WireResponse:
    """A response read to its end, whatever its status."""

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)

    def json(self, limits: WireLimits = LIMITS) -> Any:  # noqa: ANN401  # JSON
        """The body as JSON; :class:`MalformedResponseError` when it is none."""
        return parse_json(self.body, self.headers.get("content-type", ""), limits=limits)


def parse_json(
    body: bytes, content_type: str = "", *, provider: str | None = None, model: str | None = None,
    limits: WireLimits = LIMITS,
) -> Any:  # noqa: ANN401  # JSON
    """``body`` as JSON, whatever charset is said to be its; the error names its type and size and shows none of it."""
    try:
        return read_json(body, limits)
    except UnreadableError as exc:
        kind = content_type.partition(";")[0].strip()[:64] or "no content type"
        text = f"the body {exc} ({kind}, {len(body)} bytes)"
        body = b""  # a traceback keeps, and some tools show, what the locals are
        raise MalformedResponseError(text, provider=provider, model=model) from None


class WireStream:
    """A response whose body is still coming."""

    __slots__ = ("_limits", "_response", "_who", "headers", "status")

    def __init__(self, response: httpx.Response, limits: WireLimits, config: ProviderConfig) -> None:
        self.status = response.status_code
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
        async with aclosing(self._bounded(self._limits.body, "body")) as chunks:
            return await self.read_on(b"", chunks)

    async def read_on(self, head: bytes, chunks: AsyncGenerator[bytes, None]) -> bytes:
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
            async for chunk in self._source():
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
        except _FOREIGN as exc:
            error = error_from_transport(exc, provider=self._who.name, model=self._who.model, in_body=True)
            raise error from error.__cause__
        finally:
            chunk = piece = b""  # a traceback keeps the locals, and this may be the key, sent back

    def _source(self) -> httpx.AsyncByteStream:
        if self._response.is_stream_consumed:  # read, and decoded, by a transport or hook of the user's client
            return httpx.ByteStream(self._response.content)
        # Not aiter_raw(): it cuts chunks anew for no use. AsyncClient has made sure of the type.
        return cast("httpx.AsyncByteStream", self._response.stream)

    def _inflater(self) -> zlib._Decompress | None:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"identity", ""} or self._response.is_stream_consumed:
            return None
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise self._malformed(f"the body is encoded as {encoding[:32]!r}, although 'identity' was asked for")
        return zlib.decompressobj(32 + zlib.MAX_WBITS)

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
    to the usual authorities). Redirects are not followed and cookies are not kept.
    """

    def __init__(
        self, config: ProviderConfig, *, http_client: httpx.AsyncClient | None = None, limits: WireLimits = LIMITS
    ) -> None:
        self._config = config
        self._injected = http_client
        self._limits = limits
        # Keyed by what a client is bound to: its event loop, and its TLS settings, which may be assigned later.
        self._clients: dict[tuple[asyncio.AbstractEventLoop, bool, str | None], httpx.AsyncClient] = {}
        self._closed = False

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None,
        connect: float | None = None, timeout: float | None = None,
    ) -> WireResponse:
        """Send and read the whole body, within ``timeout`` seconds; raises our errors, but for no status."""
        try:
            async with (
                asyncio.timeout(timeout),
                self.stream(method, url, headers=headers, body=body, connect=connect) as stream,
            ):
                return WireResponse(stream.status, stream.headers, await stream.read())
        except builtins.TimeoutError as exc:
            if isinstance(exc, OrchestratorError):
                raise
            raise TimeoutError(
                f"no answer within {timeout} s", provider=self._config.name, model=self._config.model
            ) from exc

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None,
        connect: float | None = None, read: float | None = None,
    ) -> AsyncGenerator[WireStream, None]:
        """Send and hand over the response once its headers are there; leaving gives the connection back.

        ``connect`` and ``read`` (between two chunks) are in seconds, ``None`` for no limit.
        """
        response = await self._open(method, url, headers, body, httpx.Timeout(None, connect=connect, read=read))
        try:
            self._check_size_of(response.headers, response.status_code)
            yield WireStream(response, self._limits, self._config)
        finally:
            await aclose(response)

    async def _open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: httpx.Timeout
    ) -> httpx.Response:
        try:
            client = self._client()
            request = client.build_request(method, url, content=body, headers=self._headers(headers), timeout=timeout)
            return await client.send(request, stream=True, follow_redirects=False)
        except _FOREIGN as exc:
            error = error_from_transport(exc, provider=self._config.name, model=self._config.model)
            raise error from error.__cause__

    def _check_size_of(self, headers: httpx.Headers, status: int) -> None:
        # Here too: h11 takes 100 KB, the transport of an injected client may take anything. 4 is for ": " and CRLF.
        raw = headers.raw
        if sum(map(len, chain.from_iterable(raw))) + 4 * len(raw) > self._limits.headers:
            raise MalformedResponseError(
                f"the headers are longer than {self._limits.headers} bytes",
                provider=self._config.name, model=self._config.model, status_code=status,
            )

    def _headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        merged = SecretHeaders({"user-agent": _user_agent(), "accept-encoding": "identity"})
        merged.update((name.lower(), value) for name, value in headers.items())
        merged.update((name.lower(), value) for name, value in self._config.headers.items())
        # httpx would say so too, but with the value, which may be a key, in its message.
        if not all(value.isascii() and value.isprintable() for value in merged.values()):
            raise ProviderError(
                "api_key or a header holds characters that no HTTP header may hold (a line break?)",
                provider=self._config.name, model=self._config.model,
            )
        return merged

    def _client(self) -> httpx.AsyncClient:
        if self._closed:
            raise ProviderError("the provider was closed", provider=self._config.name, model=self._config.model)
        if self._injected is not None:
            return self._injected
        key = (asyncio.get_running_loop(), self._config.verify_ssl, self._config.ca_bundle)
        client = self._clients.get(key)
        if client is None:
            self._clients = {known: old for known, old in self._clients.items() if not known[0].is_closed()}
            client = self._clients[key] = self._made()
        return client

    def _made(self) -> httpx.AsyncClient:
        try:
            return _new_client(_tls(self._config))
        except (ImportError, ValueError) as exc:  # a proxy in the environment that httpx does not know
            raise ProviderError(
                f"no HTTP client can be made: {clean(str(exc))}", provider=self._config.name, model=self._config.model
            ) from exc

    async def aclose(self) -> None:
        """Close the connections; idempotent. Those of another event loop are left to it."""
        self._closed = True
        clients, self._clients = self._clients, {}
        loop = asyncio.get_running_loop()
        for key, client in clients.items():
            if key[0] is loop:
                await client.aclose()


class _NoCookies(CookieJar):
    """Keeps nothing: no state from one call to the next, and none of the time httpx spends on reading cookies."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass


def _new_client(verify: ssl.SSLContext) -> httpx.AsyncClient:
    return watch_connections(httpx.AsyncClient(
        verify=verify,
        timeout=None,  # noqa: S113  # every call brings its own
        follow_redirects=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        cookies=_NoCookies(),
    ))


def _tls(config: ProviderConfig) -> ssl.SSLContext:
    if not config.verify_ssl:
        return httpx.create_ssl_context(verify=False)
    if config.ca_bundle is None:
        return _default_tls()
    if not Path(config.ca_bundle).is_file():
        raise ProviderError(f"ca_bundle: there is no file {config.ca_bundle!r}", provider=config.name)
    context = httpx.create_ssl_context()
    try:
        context.load_verify_locations(cafile=config.ca_bundle)
    except ssl.SSLError as exc:
        raise ProviderError(
            f"ca_bundle: {config.ca_bundle!r} holds no PEM certificates", provider=config.name
        ) from exc
    return context


@cache
def _default_tls() -> ssl.SSLContext:
    # Reading the authorities takes tens of milliseconds; providers without a bundle of their own share them.
    return httpx.create_ssl_context()


@cache
def _user_agent() -> str:
    try:
        return f"resilient-orchestrator/{metadata.version('resilient-orchestrator')}"
    except metadata.PackageNotFoundError:
        return "resilient-orchestrator"
