"""A simulated provider: an API that answers over real HTTP on loopback, or in memory, and misbehaves on demand."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

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
        self.api_key = f"simulated-key-of-{self.name}"
        if vendor == "gigachat":
            self.api_key = base64.b64encode(f"{self.name}:simulated".encode()).decode()
        self._dialect = self._make_dialect(token_life, scope)
        behaviour = Behaviour(
            answer or canned(self.name), latency, jitter, tokens_per_second, failure_rate, failure, rate_limit
        )
        self._service = Service(self._dialect, behaviour, seed=seed)
        self._listener: Any = None
        self._clients: list[httpx.AsyncClient] = []
