"""Every service that speaks OpenAI's Chat Completions; what its vendor does differently is a row of the catalog."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urljoin

from orchestrator import core
from orchestrator.core.accumulate import check_completion
from orchestrator.core.clock import now
from orchestrator.core.errors import InvalidRequestError, OrchestratorError, ProviderError
from orchestrator.core.types import Completion, Request, StreamEvent
from orchestrator.providers._address import address_of, secrets_of, warn_if_open
from orchestrator.providers._batches import Batch, in_batches
from orchestrator.providers._errors import error_from_response, request_id
from orchestrator.providers._http import HttpClient, WireStream, parse_json
from orchestrator.providers._openai_reply import Reply
from orchestrator.providers._openai_wire import encode_body, encode_request
from orchestrator.providers._secret import SecretHeaders
from orchestrator.providers._sse import SSEDecoder
from orchestrator.providers._usage import carry_usage
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.catalog import Vendor, find_vendor

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig, WireLimits

__all__ = ["OpenAICompatibleProvider"]

# Seconds.
ALONE = 60.0  # for one answer without a router, unless config.timeout says otherwise
PROBE = 10.0  # for a health check
USAGE = 2.0  # from the end of the text to the usage that follows it; a server may never send it
DRAIN = 0.1  # to read a finished stream to its end, so that the connection can be used again

_BLANKS = b"\xef\xbb\xbf \t\r\n"  # what may stand before a body: a byte order mark, blanks, line ends
_MOST_BLANKS = 4096


class OpenAICompatibleProvider(BaseProvider):
    """A service with ``POST {base_url}/chat/completions``.

    ``vendor`` is a name or a row of :mod:`orchestrator.providers.catalog`; without it the host of
    ``config.base_url`` tells, and without that it is OpenAI. ``config.extra_body`` is sent with every request, whose
    own fields override it. ``http_client`` is used as it is and never closed.
    """

    supports: ClassVar[frozenset[str]] = EVERYTHING

    def __init__(
        self, config: ProviderConfig, *, http_client: httpx.AsyncClient | None = None,
        vendor: Vendor | str | None = None, limits: WireLimits | None = None,
    ) -> None:
        super().__init__(config)
        self._asked_vendor = vendor
        self._limits = limits = core.config.DEFAULT_WIRE_LIMITS if limits is None else limits
        self._client = http_client
        self._http = HttpClient(config, http_client=http_client, limits=limits)
        self._configure()
        config.on_change(self._configure)

    @property
    def vendor(self) -> Vendor:
        """The dialect in use."""
        return self._vendor

    def _configure(self) -> None:
        """All that is the same for every request, computed once per configuration."""
        config = self.config
        own = address_of(config, "base_url", config.base_url) if config.base_url else None
        vendor = find_vendor(self._asked_vendor, own.url if own else None)
        address = own or address_of(config, "base_url", vendor.base_url)
        warn_if_open(config, address.url, client=self._client)
        self._secrets = secrets_of(config, address)
        base = f"{address.url}/"
        self._model = _model(config, vendor)
        self._vendor = vendor
        self.streams_usage = vendor.usage_in_streams
        prefills = vendor.prefill and address.url.endswith(vendor.prefill_at)
        self.supports = vendor.supports | {"prefill"} if prefills else vendor.supports  # type: ignore[misc]  # an attribute of the class elsewhere, here of the vendor
        self._url = urljoin(base, "chat/completions")
        self._health_url = urljoin(base, vendor.health)
        self._body = {"model": self._model, **config.extra_body}
        self._headers = SecretHeaders({"content-type": "application/json"})
        if address.authorization:
            self._headers["authorization"] = address.authorization
        elif config.api_key:
            self._headers["authorization"] = f"Bearer {config.api_key.strip()}"
        if vendor.folder and config.folder_id:
            self._headers["openai-project"] = config.folder_id

    def unsupported(self, request: Request) -> str | None:
        """The feature of ``request`` that this vendor does not have, or None."""
        if request.needs:
            missing = request.needs - self.supports
            if missing:
                return min(missing)
            choice = request.tool_choice
            if choice is not None and choice.mode == "named" and not self._vendor.named_tool_choice:
                return "tool_choice"
        return None

    async def complete(self, request: Request) -> Completion:
        """The whole answer."""
        if self.routed:  # the router tries again, and judges the answer, itself
            return await self._complete(request)
        return await self._retry_with_backoff(partial(self._checked, request))

    async def _checked(self, request: Request) -> Completion:
        return check_completion(await self._complete(request), self.name)

    async def _complete(self, request: Request) -> Completion:
        response = await self._http.send(
            "POST", self._url, headers=self._headers, body=self._encode(request, stream=False),
            connect=request.timeouts.connect, timeout=self._limit(),
        )
        self._report_rate_limits(response.headers)
        if not _is_success(response.status):
            raise self._refusal(response.status, response.headers, response.body)
        reply = self._reply(response.headers)
        try:
            if response.body.lstrip(_BLANKS).startswith(b"data:"):  # it streams although nobody asked for it
                return reply.streamed(response.body)
            return reply.completion(self._payload(response.headers, response.body))
        except ProviderError as error:
            raise error.with_traceback(None) from None  # the frames below hold the body, which may repeat a key

    @in_batches
    async def open_stream(self, request: Request) -> AsyncGenerator[Batch, None]:
        """The answer piece by piece, ``Finished`` last."""
        async with AsyncExitStack() as stack:
            stream = await self._retry_with_backoff(partial(self._open, request, stack))
            reply = self._reply(stream.headers)
            stack.push(carry_usage(reply))
            frames = SSEDecoder(self._limits.line, self._limits.events)
            chunks = await stack.enter_async_context(aclosing(stream.chunks()))
            chunk = batch = None
            try:
                chunk = await _beginning(chunks)
                if chunk is not None and chunk.lstrip(_BLANKS)[:1] in (b"{", b"["):  # JSON, whatever it is called
                    yield reply.events(self._payload(stream.headers, await stream.read_on(chunk, chunks)))
                    return
                while chunk is not None:
                    for batch in reply.batches(frames.feed(chunk)):
                        yield batch
                    chunk = None if reply.done else await anext(chunks, None)
                batch = await _tail(chunks, frames, reply)
                if batch:
                    yield batch
                yield [reply.finish()]
            except ProviderError as error:
                del chunk, batch  # what a provider sends may repeat a key, and tools show locals
                raise error.with_traceback(None) from error.__cause__

    async def _open(self, request: Request, stack: AsyncExitStack) -> WireStream:
        """The response of a stream, left open on ``stack`` unless its status is an error."""
        async with AsyncExitStack() as opening:
            stream = await opening.enter_async_context(self._http.stream(
                "POST", self._url, headers=self._headers, body=self._encode(request, stream=True),
                connect=request.timeouts.connect, read=self._limit(),
            ))
            self._report_rate_limits(stream.headers)
            if not _is_success(stream.status):
                raise self._refusal(stream.status, stream.headers, await stream.read())
            await stack.enter_async_context(opening.pop_all())
        return stream

    async def health_check(self) -> bool:
        """Whether the service answers and takes the key; never raises."""
        try:
            response = await self._http.send("GET", self._health_url, headers=self._headers, timeout=PROBE)
        except OrchestratorError as error:
            self.logger.debug("health check failed: %s", error)
            return False
        return _is_success(response.status)

    async def aclose(self) -> None:
        """Close the connections."""
        with suppress(ValueError):  # closed before
            self.config.off_change(self._configure)
        await self._http.aclose()

    def _encode(self, request: Request, *, stream: bool) -> bytes:
        field = self.unsupported(request)
        if field is not None:
            raise InvalidRequestError(f"{field}: {self._vendor.name} does not take it", provider=self.name)
        try:
            return encode_body(encode_request(request, self._vendor, self._body, stream=stream))
        except InvalidRequestError as error:
            raise error.with_traceback(None) from None  # the frames below hold the prompt

    def _limit(self) -> float | None:
        """Seconds for one answer; a router has its own guard."""
        return None if self.routed else self.config.timeout or ALONE

    def _reply(self, headers: Mapping[str, str]) -> Reply:
        return Reply(
            provider=self.name, model=self._model, request_id=request_id(headers), secrets=self._secrets,
            limits=self._limits,
        )

    def _payload(self, headers: Mapping[str, str], body: bytes) -> object:
        payload: object = parse_json(body, headers, provider=self.name, model=self._model, limits=self._limits)
        return payload

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return error_from_response(
            status, headers, body, provider=self.name, model=self._model, secrets=self._secrets
        )


async def _beginning(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    """What comes first, long enough to tell a stream from JSON; None when nothing comes."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if head.lstrip(_BLANKS) or len(head) > _MOST_BLANKS:
            break
    return head or None


async def _tail(chunks: AsyncGenerator[bytes, None], frames: SSEDecoder, reply: Reply) -> list[StreamEvent]:
    """The rest of a stream whose text is whole: its usage, then its end. A failure in it cannot lose the answer."""
    events: list[StreamEvent] = []
    with suppress(builtins.TimeoutError, ProviderError):
        async with asyncio.timeout(DRAIN if reply.complete else USAGE) as limit:
            async for chunk in chunks:
                events.extend(reply.feed(frames.feed(chunk)))
                if reply.complete:
                    limit.reschedule(min(limit.when() or 0.0, now() + DRAIN))
    return events


def _model(config: ProviderConfig, vendor: Vendor) -> str:
    model = config.model or vendor.default_model
    if not model:
        raise ValueError(f"model of {config.name!r} is not set, and {vendor.name} has no default")
    if not vendor.folder or "://" in model:
        return model
    if not config.folder_id:
        raise ValueError(f"folder_id of {config.name!r} is not set; without it model must be a whole gpt:// address")
    return f"gpt://{config.folder_id}/{model}" if "/" in model else f"gpt://{config.folder_id}/{model}/latest"


def _is_success(status: int) -> bool:
    return 200 <= status < 300
