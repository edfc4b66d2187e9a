"""A simulated provider: an API that answers over real HTTP on loopback, or in memory, and misbehaves on demand."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args
from urllib.parse import quote

import httpx

from orchestrator.core.config import ProviderConfig
from orchestrator.providers.base import BaseProvider
from orchestrator.testing._exchange import Dialect, Endpoint, RecordedRequest
from orchestrator.testing.faults import Fault, Status
from orchestrator.testing.servers._answers import AnswerText, canned
from orchestrator.testing.servers._gigachat import GigaChatDialect
from orchestrator.testing.servers._memory import MemoryTransport
from orchestrator.testing.servers._openai import OpenAIDialect
from orchestrator.testing.servers._service import Behaviour, Outage, Service
from orchestrator.testing.servers._yandex import YandexDialect

if TYPE_CHECKING:
    from orchestrator.testing.servers._h11_server import Listener

__all__ = ["SimulatedProvider", "Vendor"]

Vendor = Literal["openai", "gigachat", "yandex"]

_FOLDER = "simulated-folder"


class SimulatedProvider:
    """``async with SimulatedProvider("openai", name="alpha", latency=0.2) as server:`` listens on a port of loopback.

    Not entered, it answers in memory: ``transport()`` and ``provider()`` work without a socket, at the pace of the
    loop's clock. Seconds throughout.

    - ``latency ± jitter`` passes before an answer begins, ``tokens_per_second`` is its pace (None: at once);
    - a share ``failure_rate`` of the chat requests gets ``failure``, drawn with ``seed``;
    - above ``rate_limit`` requests per minute: 429 with Retry-After;
    - ``answer`` is what it says, or a function of the prompt. A tool call, or JSON of a schema, is made up when asked;
    - ``token_life`` and ``scope`` are those of GigaChat's OAuth.

    ``behave`` changes all but the last two at run time. ``requests`` are the last 1 000 requests, ``received`` counts
    all of them.
    """

    def __init__(
        self,
        vendor: Vendor,
        *,
        name: str | None = None,
        latency: float = 0.0,
        jitter: float = 0.0,
        tokens_per_second: float | None = None,
        failure_rate: float = 0.0,
        failure: Fault = Status(500),  # noqa: B008  # frozen
        rate_limit: int | None = None,
        answer: AnswerText | None = None,
        seed: int = 0,
        token_life: float = 1800.0,
        scope: str = "GIGACHAT_API_PERS",
    ) -> None:
        self.vendor: Vendor = vendor
        self.name = name or vendor
        self.port: int | None = None
        self.api_key = _key(vendor, self.name)
        self._dialect = _dialect(vendor, self.api_key, token_life, scope)
        behaviour = Behaviour(
            answer or canned(self.name), latency, jitter, tokens_per_second, failure_rate, failure, rate_limit
        )
        self._service = Service(self._dialect, behaviour, seed=seed)
        self._listener: Listener | None = None

    @property
    def base_url(self) -> str:
        """What a client of this vendor takes as its base URL."""
        return self._origin + self._dialect.path

    @property
    def _origin(self) -> str:
        return "http://127.0.0.1" if self.port is None else f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The last requests, oldest first."""
        return self._service.requests

    @property
    def received(self) -> int:
        """How many requests came in."""
        return self._service.received

    @property
    def connections(self) -> int:
        """Connections open now; in memory: requests under way."""
        return len(self._service.open)

    def config(self, **overrides: Any) -> ProviderConfig:  # noqa: ANN401  # any field of ProviderConfig
        """The configuration that reaches this server."""
        fields: dict[str, Any] = {
            "name": self.name, "api_key": self.api_key, "base_url": self.base_url, "model": self._dialect.model,
        }
        if self.vendor == "gigachat":
            fields["auth_url"] = f"{self._origin}/api/v2/oauth"
        if self.vendor == "yandex":
            fields["folder_id"] = _FOLDER
        return ProviderConfig(**(fields | overrides))

    def provider(self, **overrides: Any) -> BaseProvider:  # noqa: ANN401  # any field of ProviderConfig
        """A new provider of the library for this server: over the socket when it listens, else in memory."""
        client = httpx.AsyncClient(transport=self.transport()) if self.port is None else None
        return _provider_class(self.vendor)(self.config(**overrides), http_client=client)

    def transport(self) -> httpx.AsyncBaseTransport:
        """For ``httpx.AsyncClient(transport=...)``: the same server without a socket, whatever the URL."""
        return MemoryTransport(self._service)

    def behave(self, **changes: Any) -> None:  # noqa: ANN401  # the types of the constructor
        """Change ``latency, jitter, tokens_per_second, failure_rate, failure, rate_limit, answer`` from now on."""
        self._service.behaviour = replace(self._service.behaviour, **changes)

    def fail_next(self, fault: Fault, times: int = 1, *, on: Endpoint = "chat") -> None:
        """The next requests meet this fault; ``on``: ``chat``, ``models``, or ``token`` (GigaChat's OAuth)."""
        self._service.scripts[on].extendleft([fault] * times)

    def script(self, steps: Iterable[Fault | None], *, on: Endpoint = "chat") -> None:
        """The next requests meet these faults one after another; None is a good answer."""
        self._service.scripts[on].extend(steps)

    def expire_tokens(self) -> None:
        """GigaChat: all tokens expire now."""
        self._dialect.expire_tokens()

    def down(self, how: Outage = "refuse") -> None:
        """An outage: connections break and new ones are refused, or every answer is a 503, or there is none at all."""
        self._service.outage = how
        if how == "refuse":
            self._break()
        if self._listener is not None:
            if how == "refuse":
                self._listener.refuse()
            else:
                self._listener.accept()

    def up(self) -> None:
        """The end of the outage. What hangs goes on hanging."""
        self._service.outage = None
        if self._listener is not None:
            self._listener.accept()

    def _break(self) -> None:
        for connection in list(self._service.open):
            connection.abort()

    async def __aenter__(self) -> Self:
        self._listener = _listen(self._service)
        self.port = self._listener.port
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Break all connections and stop; idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.aclose()
        self._break()

    def __repr__(self) -> str:
        return f"<SimulatedProvider {self.name!r} ({self.vendor}) at {self.base_url}>"


def _key(vendor: Vendor, name: str) -> str:
    if vendor == "gigachat":
        return base64.b64encode(f"{name}:simulated".encode()).decode()
    return f"simulated-key-of-{quote(name)}"


def _dialect(vendor: Vendor, api_key: str, token_life: float, scope: str) -> Dialect:
    if vendor == "openai":
        return OpenAIDialect(api_key)
    if vendor == "gigachat":
        return GigaChatDialect(api_key, token_life=token_life, scope=scope)
    if vendor == "yandex":
        return YandexDialect(api_key, _FOLDER)
    raise ValueError(f"unknown vendor {vendor!r}; known: {', '.join(get_args(Vendor))}")


def _provider_class(vendor: Vendor) -> Callable[..., BaseProvider]:
    if vendor == "openai":
        from orchestrator.providers.openai_compatible import OpenAICompatibleProvider

        return OpenAICompatibleProvider
    if vendor == "gigachat":
        from orchestrator.providers.gigachat import GigaChatProvider

        return GigaChatProvider
    from orchestrator.providers.yandexgpt import YandexGPTProvider

    return YandexGPTProvider


def _listen(service: Service) -> Listener:
    try:
        from orchestrator.testing.servers._h11_server import Listener
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "a simulated server needs h11: pip install 'resilient-orchestrator[testing]'", name="h11"
        ) from exc
    listener = Listener(service)
    listener.accept()
    return listener
