"""The application behind a simulated server: what it does with a request, whichever way that came in."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.core.clock import Random, new_random, now
from orchestrator.testing._exchange import (
    Answer,
    Dialect,
    Endpoint,
    HangUp,
    Piece,
    RecordedRequest,
    Refusal,
    Reply,
    dump,
)
from orchestrator.testing.faults import Fault, Status
from orchestrator.testing.servers._answers import AnswerText, answer

__all__ = ["KEPT", "Behaviour", "Outage", "Service"]

Outage = Literal["refuse", "503", "hang"]

KEPT = 1000  # requests that a server remembers


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a server answers when nothing special was asked of it; seconds, requests per minute, tokens per second."""

    answer: AnswerText
    latency: float = 0.0
    jitter: float = 0.0
    tokens_per_second: float | None = None
    failure_rate: float = 0.0
    failure: Fault = field(default_factory=Status)
    rate_limit: int | None = None


class Connection(Protocol):
    """Something open between a client and the service."""

    def abort(self) -> None:
        """Break it now."""


class Service:
    """One provider's API. Connections register themselves in ``open``."""

    def __init__(self, dialect: Dialect, behaviour: Behaviour, *, seed: int | None) -> None:
        self.dialect = dialect
        self.behaviour = behaviour
        self.requests: deque[RecordedRequest] = deque(maxlen=KEPT)
        self.received = 0
        self.outage: Outage | None = None
        self.open: dict[Connection, None] = {}  # no set: broken in the order in which they came
        self.scripts: dict[Endpoint, deque[Fault | None]] = {"chat": deque(), "models": deque(), "token": deque()}
        self._random: Random = new_random(seed)
        self._recent: deque[float] = deque()

    async def handle(self, request: RecordedRequest) -> Reply:
        """The reply to a request; raises ``HangUp`` where the connection ends without one."""
        self.requests.append(request)
        self.received += 1
        number = self.received
        if self.outage == "refuse":  # the connection was accepted just before
            raise HangUp(reset=True)
        if self.outage == "hang":
            await asyncio.get_running_loop().create_future()
        try:
            reply = await self._reply(request, number)
        except Refusal as refusal:
            error = self.dialect.error(refusal.status, refusal.message, refusal.code)
            reply = Reply(self.dialect, refusal.status, dump(error), refusal.headers)
        reply.headers["x-request-id"] = f"request-{number}"
        return reply

    async def _reply(self, request: RecordedRequest, number: int) -> Reply:
        if self.outage == "503":
            raise Refusal(503)
        endpoint = self.dialect.endpoint(request)
        if endpoint is None:
            raise Refusal(404, f"{request.method} {request.path} is not served")
        self.dialect.authorize(request, endpoint)
        if endpoint == "chat":
            self._check_rate()
        fault = self._next_fault(endpoint)
        await self._latency()
        chat = endpoint == "chat"
        reply = await self._chat(request, number, fault) if chat else self.dialect.serve(request, endpoint)
        return reply if fault is None else await fault(reply)

    def _check_rate(self) -> None:
        limit = self.behaviour.rate_limit
        if limit is None:
            return
        recent, at = self._recent, now()
        while recent and recent[0] <= at - 60:
            recent.popleft()
        if len(recent) >= limit:
            raise Refusal(429, headers={"retry-after": str(math.ceil(recent[0] + 60 - at))})
        recent.append(at)

    def _next_fault(self, endpoint: Endpoint) -> Fault | None:
        script = self.scripts[endpoint]
        if script:
            return script.popleft()
        how = self.behaviour
        drawn = endpoint == "chat" and how.failure_rate > 0 and self._random.random() < how.failure_rate
        return how.failure if drawn else None

    async def _latency(self) -> None:
        how = self.behaviour
        if how.latency or how.jitter:
            await asyncio.sleep(max(0.0, how.latency + how.jitter * self._random.uniform(-1, 1)))

    async def _chat(self, request: RecordedRequest, number: int, fault: Fault | None) -> Reply:
        try:
            asked = self.dialect.ask(request)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Refusal(400, "the body is not a chat request") from None
        how = self.behaviour
        said = answer(asked, how.answer, number=number, rate=how.tokens_per_second)
        if fault is not None:
            said = fault.change(said)
        if asked.stream:
            return Reply(self.dialect, 200, self._stream(said), content_type=self.dialect.stream_type)
        if said.rate:
            await asyncio.sleep((said.completion_tokens - 1) / said.rate)  # as long as the stream would take
        return Reply(self.dialect, 200, dump(self.dialect.whole(said)))

    async def _stream(self, said: Answer) -> AsyncGenerator[Piece, None]:
        first = True
        for piece in self.dialect.pieces(said):
            if said.rate and not first and piece.kind == "text":
                await asyncio.sleep(1 / said.rate)
            first = first and piece.kind != "text"
            yield piece
