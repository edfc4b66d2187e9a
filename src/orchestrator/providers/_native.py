"""A provider with a dialect of its own: one way for plain and streamed answers, on a token renewed once if refused."""

from __future__ import annotations

import asyncio
import builtins
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from orchestrator import core
from orchestrator.core.accumulate import check_completion
from orchestrator.core.clock import now
from orchestrator.core.errors import InvalidRequestError, OrchestratorError, ProviderError, TimeoutError
from orchestrator.core.types import Completion, Request, StreamEvent, Usage
from orchestrator.providers._batches import Batch, batches_of, in_batches
from orchestrator.providers._conversation import Source
from orchestrator.providers._errors import error_from_response, request_id
from orchestrator.providers._http import HttpClient, WireStream, parse_json
from orchestrator.providers._oauth import TokenHolder
from orchestrator.providers._openai_wire import encode_body
from orchestrator.providers._secret import Secret, SecretBytes, SecretHeaders
from orchestrator.providers._usage import carry_usage
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.openai_compatible import ALONE, DRAIN, PROBE

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig, WireLimits

__all__ = ["Decoder", "NativeProvider"]

T = TypeVar("T")


class Decoder(Protocol):
    """Turns the bytes of one stream into its events."""

    done: bool

    @property
    def usage(self) -> Usage | None:
        """The tokens told so far."""

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """What the next bytes carry."""

    def finish(self) -> Iterator[StreamEvent]:
        """The rest once the stream has ended, ``Finished`` last; raises when it was cut."""


class NativeProvider(BaseProvider):
    """What GigaChat and YandexGPT share. ``_configure`` sets the attributes below, the rest is the dialect."""

    _url: str
    _health_url: str
    _model: str
    _headers: Mapping[str, str]
    _secrets: tuple[Secret, ...]  # what no message may show
    _tokens: TokenHolder | None = None  # None: the key itself is in the headers

    def __init__(
        self, config: ProviderConfig, *, http_client: httpx.AsyncClient | None, limits: WireLimits | None
    ) -> None:
        super().__init__(config)
        self._limits = limits = core.config.DEFAULT_WIRE_LIMITS if limits is None else limits
        self._client = http_client
        self._http = HttpClient(config, http_client=http_client, limits=limits)
        self._configure()
        config.on_change(self._configure)

    @abstractmethod
    def _configure(self) -> None:
        """Compute what is the same for every request, once per configuration."""

    @abstractmethod
    def _refused_field(self, request: Request) -> str | None:
        """The field the dialect cannot carry although ``supports`` names its kind."""

    @abstractmethod
    def _encode(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """The body of a request."""

    @abstractmethod
    def _decode(self, payload: object, source: Source) -> Completion:
        """The answer in the body of a plain reply."""

    @abstractmethod
    def _decoder(self, source: Source) -> Decoder:
        """The decoder of one streamed reply."""

    def unsupported(self, request: Request) -> str | None:
        """The field of ``request`` that the dialect cannot carry, or None."""
        if not request.needs:
            return None
        return super().unsupported(request) or self._refused_field(request)

    async def complete(self, request: Request) -> Completion:
        """The whole answer."""
        if self.routed:  # the router tries again, keeps the time, and judges the answer, itself
            return await self._complete(request)
        return await self._retry_with_backoff(lambda: self._within(self._limit(), self._checked(request)))

    async def _checked(self, request: Request) -> Completion:
        return check_completion(await self._complete(request), self.name)

    async def _complete(self, request: Request) -> Completion:
        async with AsyncExitStack() as stack:
            reply, source = await self._open(request, stack, stream=False)
            body = SecretBytes(await reply.read())
        try:
            payload = parse_json(body, reply.headers, provider=self.name, model=self._model, limits=self._limits)
            return self._decode(payload, source)
        except ProviderError as error:
            payload = None
            raise error.with_traceback(None) from None  # the frames below hold the body, which may repeat a key

    @in_batches
    async def open_stream(self, request: Request) -> AsyncGenerator[Batch, None]:
        """The answer piece by piece, ``Finished`` last."""
        async with AsyncExitStack() as stack:
            reply, source = await self._retry_with_backoff(
                lambda: self._within(self._limit(), self._open(request, stack, stream=True))
            )
            decoder = self._decoder(source)
            stack.push(carry_usage(decoder))
            chunks = await stack.enter_async_context(aclosing(self._capped(reply.chunks())))
            chunk = batch = None
            try:
                async for chunk in chunks:
                    for batch in batches_of(decoder.feed(chunk)):
                        yield batch
                    if decoder.done:
                        await _drain(chunks)
                        break
                for batch in batches_of(decoder.finish()):
                    yield batch
            except ProviderError as error:
                del chunk, batch  # what a provider sends may repeat a key, and tools show locals
                raise error.with_traceback(None) from error.__cause__

    async def _open(self, request: Request, stack: AsyncExitStack, *, stream: bool) -> tuple[WireStream, Source]:
        """The successful response, left open on ``stack``."""
        field = self.unsupported(request)
        if field is not None:
            raise InvalidRequestError(f"{field}: {self.name} does not take it", provider=self.name)
        try:
            body = encode_body(self._encode(request, stream=stream))
        except InvalidRequestError as error:
            raise error.with_traceback(None) from None  # the frames below hold the prompt
        limit = self._limit() if stream else None
        async with AsyncExitStack() as opening:
            reply, token = await self._send(
                opening, "POST", self._url, body=body, connect=request.timeouts.connect, read=limit
            )
            self._report_rate_limits(reply.headers)
            secrets = (*self._secrets, token) if token else self._secrets
            if not _is_success(reply.status):
                raise error_from_response(
                    reply.status, reply.headers, await reply.read(), provider=self.name, model=self._model,
                    secrets=secrets,
                )
            await stack.enter_async_context(opening.pop_all())
        return reply, Source(self.name, self._model, request_id(reply.headers), secrets, self._limits)

    async def _send(
        self, stack: AsyncExitStack, method: str, url: str, *, body: bytes | None = None,
        connect: float | None = None, read: float | None = None,
    ) -> tuple[WireStream, Secret]:
        """The response and the token that got it. A token that is refused is renewed, once."""
        renewed = False
        while True:
            token, headers = Secret(), self._headers
            if self._tokens is not None:
                token = await self._tokens.get()
                headers = SecretHeaders({"authorization": f"Bearer {token}", **headers})  # the URL's own one wins
            async with AsyncExitStack() as opening:
                reply = await opening.enter_async_context(
                    self._http.stream(method, url, headers=headers, body=body, connect=connect, read=read)
                )
                if reply.status != 401 or self._tokens is None or renewed:
                    await stack.enter_async_context(opening.pop_all())
                    return reply, token
            self._tokens.drop(token)
            renewed = True

    async def health_check(self) -> bool:
        """Whether the service answers and takes the credentials; never raises."""
        try:
            async with asyncio.timeout(PROBE), AsyncExitStack() as stack:
                reply, _ = await self._send(stack, "GET", self._health_url)
                return _is_success(reply.status)
        except (OrchestratorError, builtins.TimeoutError) as error:
            self.logger.debug("health check failed: %s", error)
            return False

    async def aclose(self) -> None:
        """Close the connections, and end the fetch of a token."""
        with suppress(ValueError):  # closed before
            self.config.off_change(self._configure)
        if self._tokens is not None:
            await self._tokens.aclose()
        await self._http.aclose()

    def _limit(self) -> float | None:
        """Seconds for one answer; a router has its own guard."""
        return None if self.routed else self.config.timeout or ALONE

    def _capped(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The chunks of a stream, within ``config.timeout`` in all; without it each may take as long as ``_limit``."""
        cap = None if self.routed else self.config.timeout
        return chunks if cap is None else self._until(now() + cap, chunks)

    async def _until(self, deadline: float, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        # One timeout around the loop would go off in the caller's code, between two pieces.
        async with aclosing(chunks):
            while (chunk := await self._within(deadline - now(), anext(chunks, None))) is not None:
                yield chunk

    async def _within(self, limit: float | None, work: Awaitable[T]) -> T:
        if limit is None:
            return await work
        try:
            async with asyncio.timeout(limit):
                return await work
        except builtins.TimeoutError as exc:
            if isinstance(exc, OrchestratorError):
                raise
            raise TimeoutError(
                f"no answer within {self._limit():g} s", provider=self.name, model=self._model
            ) from exc


async def _drain(chunks: AsyncGenerator[bytes, None]) -> None:
    """Read a stream whose answer is whole to its end, so that its connection can be used again."""
    with suppress(builtins.TimeoutError, ProviderError):
        async with asyncio.timeout(DRAIN):
            async for _ in chunks:
                pass


def _is_success(status: int) -> bool:
    return 200 <= status < 300
