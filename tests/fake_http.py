"""HTTP without a network: scripted responses behind an httpx client, on the virtual loop's clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

Step = bytes | float | Exception


class Chunks(httpx.AsyncByteStream):
    """A body that comes in pieces: bytes, pauses in seconds, and failures."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.closed = 0
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for step in self.steps:
            if self.closed:
                raise httpx.StreamClosed
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                self.taken += 1
                yield step

    async def aclose(self) -> None:
        self.closed += 1


class FakeHttp(httpx.AsyncBaseTransport):
    """Answers in turn with the given responses, failures or functions of the request; the last one stays."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], Any]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer) and not isinstance(answer, httpx.Response):
            answer = answer(request)
            if asyncio.iscoroutine(answer):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self)

    @property
    def bodies(self) -> list[Any]:
        """The JSON bodies received."""
        return [json.loads(request.content) for request in self.requests]


def streamed(*steps: Step, status: int = 200, **headers: str) -> httpx.Response:
    """A response whose body comes step by step."""
    headers = {"content-type": "text/event-stream", **{name.replace("_", "-"): v for name, v in headers.items()}}
    return httpx.Response(status, headers=headers, stream=Chunks(*steps))


def frame(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
