"""How each library is used for ``benchmarks/speed.py``: two providers, the second for when the first fails.

``answer`` and ``pieces`` go over HTTP to the instant server; ``instant`` is the same call with a provider that answers
in the process, where the library has a place for one. A client that has no failover has one provider.

What only one of them needs is imported where it uses it: ``speed_start.py`` times a program from its first import on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

__all__ = ["SUBJECTS", "Subject"]

PROMPT = "Count to eight"
MODEL = "gpt-instant"
KEY = "none"
MESSAGES = [{"role": "user", "content": PROMPT}]
TIMEOUT = 120.0  # seconds, wherever there is one to be set


class Subject:
    """``packages``: whose versions are told; ``module``: all that a program imports to use it as ``open`` does."""

    packages: tuple[str, ...] = ()
    module = ""

    def __init__(self, base: str) -> None:
        self.base = base

    async def open(self) -> None:
        """Make the clients."""

    async def answer(self) -> str:
        raise NotImplementedError

    def pieces(self) -> AsyncGenerator[str, None]:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    @classmethod
    def instant(cls) -> Callable[[], Awaitable[Any]] | None:
        """One call that no socket has part in."""
        return None


class Orchestrator(Subject):
    """Every guard on; the limits of time as wide as those of the others."""

    packages = ("resilient-orchestrator", "httpx")
    module = (
        "from orchestrator import Router, Timeouts; "
        "from orchestrator.providers import OpenAICompatibleProvider, ProviderConfig"
    )
    engine = "httpx"

    async def open(self) -> None:
        from orchestrator import Router, Timeouts
        from orchestrator.providers import OpenAICompatibleProvider, ProviderConfig

        limits = Timeouts(connect=TIMEOUT, first_token=TIMEOUT, idle=TIMEOUT, attempt=TIMEOUT, total=TIMEOUT)
        providers = [
            OpenAICompatibleProvider(
                ProviderConfig(name=name, base_url=self.base, api_key=KEY, model=MODEL, engine=self.engine)
            ) for name in ("alpha", "beta")
        ]
        self.router = Router("first-available", providers, timeouts=limits)

    async def answer(self) -> str:
        return await self.router.route(PROMPT)

    def pieces(self) -> AsyncGenerator[str, None]:
        return self.router.route_stream(PROMPT)

    async def close(self) -> None:
        await self.router.aclose(grace=0)

    @classmethod
    def instant(cls) -> Callable[[], Awaitable[Any]] | None:
        return instant_router("first-available", 2)


class FastOrchestrator(Orchestrator):
    """The same with the faster HTTP engine, where it is installed."""

    packages = ("resilient-orchestrator", "httptools")
    engine = "fast"

    @classmethod
    def instant(cls) -> None:  # no HTTP, so no difference
        return None


def instant_router(strategy: str, count: int, *, one_turn: bool = False) -> Callable[[], Awaitable[Any]]:
    """A routed call over ``count`` providers that answer at once, or after one turn of the event loop."""
    from orchestrator import BaseProvider, Completion, ProviderConfig, Router

    class Instant(BaseProvider):
        async def complete(self, request: Any) -> Completion:
            if one_turn:
                await asyncio.sleep(0)
            return Completion("answer")

    providers = [Instant(ProviderConfig(name=f"p{n}", model=MODEL)) for n in range(count)]
    router = Router(strategy, providers, seed=1)
    return lambda: router.route(PROMPT)


class LiteLLM(Subject):
    packages = ("litellm", "openai")
    module = "import litellm"

    @staticmethod
    def router(**options: Any) -> Any:
        import litellm

        litellm.telemetry = False
        rows = [
            {"model_name": name, "litellm_params": {"model": f"openai/{MODEL}", "api_key": KEY, **options}}
            for name in ("alpha", "beta")
        ]
        return litellm.Router(model_list=rows, fallbacks=[{"alpha": ["beta"]}], num_retries=0, timeout=TIMEOUT)

    async def open(self) -> None:
        self.routed = self.router(api_base=self.base)

    async def answer(self) -> str:
        answer = await self.routed.acompletion(model="alpha", messages=MESSAGES)
        return answer.choices[0].message.content

    async def pieces(self) -> AsyncGenerator[str, None]:
        async for chunk in await self.routed.acompletion(model="alpha", messages=MESSAGES, stream=True):
            yield (chunk.choices[0].delta.content if chunk.choices else None) or ""

    @classmethod
    def instant(cls) -> Callable[[], Awaitable[Any]]:
        router = cls.router(mock_response="answer")
        return lambda: router.acompletion(model="alpha", messages=MESSAGES)


class LangChain(Subject):
    packages = ("langchain-core", "langchain-openai", "openai")
    module = "from langchain_openai import ChatOpenAI"

    async def open(self) -> None:
        from langchain_openai import ChatOpenAI

        first, second = (
            ChatOpenAI(model=MODEL, base_url=self.base, api_key=KEY, max_retries=0, timeout=TIMEOUT) for _ in range(2)
        )
        self.chain = first.with_fallbacks([second])

    async def answer(self) -> str:
        return (await self.chain.ainvoke(PROMPT)).content

    async def pieces(self) -> AsyncGenerator[str, None]:
        async with aclosing(self.chain.astream(PROMPT)) as chunks:
            async for chunk in chunks:
                yield chunk.content

    @classmethod
    def instant(cls) -> Callable[[], Awaitable[Any]]:
        from langchain_core.language_models import BaseChatModel
        from langchain_core.messages import AIMessage
        from langchain_core.outputs import ChatGeneration, ChatResult

        class Instant(BaseChatModel):
            @property
            def _llm_type(self) -> str:
                return "instant"

            def _generate(self, *args: Any, **options: Any) -> ChatResult:
                raise NotImplementedError

            async def _agenerate(self, *args: Any, **options: Any) -> ChatResult:
                return ChatResult(generations=[ChatGeneration(message=AIMessage("answer"))])

        chain = Instant().with_fallbacks([Instant()])
        return lambda: chain.ainvoke(PROMPT)


class PydanticAI(Subject):
    """``FallbackModel`` asked by ``pydantic_ai.direct``: the least it does, no agent above it."""

    packages = ("pydantic-ai-slim", "openai")
    module = (
        "from pydantic_ai.models.fallback import FallbackModel; from pydantic_ai.models.openai import OpenAIChatModel; "
        "from pydantic_ai.providers.openai import OpenAIProvider; from pydantic_ai.messages import ModelRequest; "
        "from pydantic_ai.direct import model_request, model_request_stream"
    )

    async def open(self) -> None:
        from pydantic_ai.messages import ModelRequest
        from pydantic_ai.models.fallback import FallbackModel
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        first, second = (
            OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=self.base, api_key=KEY)) for _ in range(2)
        )
        self.model = FallbackModel(first, second)
        self.asked = lambda: [ModelRequest.user_text_prompt(PROMPT)]

    async def answer(self) -> str:
        from pydantic_ai.direct import model_request

        return (await model_request(self.model, self.asked())).parts[0].content

    async def pieces(self) -> AsyncGenerator[str, None]:
        from pydantic_ai.direct import model_request_stream

        async with model_request_stream(self.model, self.asked()) as events:
            async for event in events:
                part = getattr(event, "delta", None) or getattr(event, "part", None)
                if part is not None and type(event).__name__ != "PartEndEvent":
                    yield getattr(part, "content_delta", None) or getattr(part, "content", "")

    @classmethod
    def instant(cls) -> Callable[[], Awaitable[Any]]:
        from pydantic_ai.direct import model_request
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart
        from pydantic_ai.models.fallback import FallbackModel
        from pydantic_ai.models.function import FunctionModel

        async def answer(messages: Any, info: Any) -> ModelResponse:
            return ModelResponse(parts=[TextPart("answer")])

        model = FallbackModel(FunctionModel(answer), FunctionModel(answer))
        return lambda: model_request(model, [ModelRequest.user_text_prompt(PROMPT)])


class OpenAI(Subject):
    packages = ("openai",)
    module = "from openai import AsyncOpenAI"

    async def open(self) -> None:
        from openai import AsyncOpenAI

        self.client = AsyncOpenAI(base_url=self.base, api_key=KEY, timeout=TIMEOUT)

    async def answer(self) -> str:
        answer = await self.client.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content

    async def pieces(self) -> AsyncGenerator[str, None]:
        async with await self.client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as chunks:
            async for chunk in chunks:
                yield (chunk.choices[0].delta.content if chunk.choices else None) or ""

    async def close(self) -> None:
        await self.client.close()


class TensorZero(Subject):
    """The gateway inside the process; no database, so nothing is recorded."""

    packages = ("tensorzero",)
    module = "from tensorzero import AsyncTensorZeroGateway"

    async def open(self) -> None:
        import tempfile
        from pathlib import Path

        from tensorzero import AsyncTensorZeroGateway

        rows = ['[models.both]', 'routing = ["alpha", "beta"]']
        for name in ("alpha", "beta"):
            rows += [
                f"[models.both.providers.{name}]", 'type = "openai"', f'model_name = "{MODEL}"',
                f'api_base = "{self.base}/"', 'api_key_location = "none"',
            ]
        with tempfile.TemporaryDirectory() as place:
            config = Path(place) / "tensorzero.toml"
            config.write_text("\n".join(rows))
            self.gateway = await AsyncTensorZeroGateway.build_embedded(config_file=str(config))

    def _ask(self, *, stream: bool) -> Any:
        return self.gateway.inference(model_name="both", input={"messages": MESSAGES}, stream=stream)

    async def answer(self) -> str:
        return (await self._ask(stream=False)).content[0].text

    async def pieces(self) -> AsyncGenerator[str, None]:
        async for chunk in await self._ask(stream=True):
            yield chunk.content[0].text if chunk.content else ""

    async def close(self) -> None:
        await self.gateway.close()


BODY = {"model": MODEL, "messages": MESSAGES}
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def text_of_line(line: bytes | str) -> str | None:
    """The text in one line of a stream, as a program without a library for it would read it."""
    if not line.startswith(b"data:" if isinstance(line, bytes) else "data:"):
        return None
    payload = line[5:].strip()
    if payload in (b"[DONE]", "[DONE]"):
        return None
    choices = json.loads(payload)["choices"]
    return choices[0]["delta"].get("content") if choices else None


class Client(Subject):
    """A bare HTTP client: JSON out, JSON in, no failover and no check of anything."""

    def url(self) -> str:
        return f"{self.base}/chat/completions"

    @staticmethod
    def text(payload: Any) -> str:
        return payload["choices"][0]["message"]["content"]

    @staticmethod
    def body(*, stream: bool) -> bytes:
        return json.dumps(BODY | {"stream": True} if stream else BODY).encode()


class Httpx(Client):
    packages = ("httpx",)
    module = "import httpx"

    async def open(self) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.client = httpx.AsyncClient(timeout=TIMEOUT, limits=limits)

    async def answer(self) -> str:
        return self.text((await self.client.post(self.url(), content=self.body(stream=False), headers=HEADERS)).json())

    async def pieces(self) -> AsyncGenerator[str, None]:
        async with self.client.stream("POST", self.url(), content=self.body(stream=True), headers=HEADERS) as response:
            async for line in response.aiter_lines():
                text = text_of_line(line)
                if text is not None:
                    yield text

    async def close(self) -> None:
        await self.client.aclose()


class Aiohttp(Client):
    packages = ("aiohttp",)
    module = "import aiohttp"

    async def open(self) -> None:
        import aiohttp

        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT)
        )

    async def answer(self) -> str:
        async with self.session.post(self.url(), data=self.body(stream=False), headers=HEADERS) as response:
            return self.text(await response.json())

    async def pieces(self) -> AsyncGenerator[str, None]:
        async with self.session.post(self.url(), data=self.body(stream=True), headers=HEADERS) as response:
            async for line in response.content:
                text = text_of_line(line)
                if text is not None:
                    yield text

    async def close(self) -> None:
        await self.session.close()


class Pyreqwest(Client):
    packages = ("pyreqwest",)
    module = "from pyreqwest.client import ClientBuilder"

    async def open(self) -> None:
        from datetime import timedelta

        from pyreqwest.client import ClientBuilder

        self.client = ClientBuilder().timeout(timedelta(seconds=TIMEOUT)).build()

    def _request(self, *, stream: bool) -> Any:
        return self.client.post(self.url()).headers(HEADERS).body_bytes(self.body(stream=stream))

    async def answer(self) -> str:
        response = await self._request(stream=False).build().send()
        return self.text(await response.json())

    async def pieces(self) -> AsyncGenerator[str, None]:
        # Without a limit it waits for the first 64 KB before it hands over anything.
        async with self._request(stream=True).streamed_read_buffer_limit(1).build_streamed() as response:
            rest = b""
            while (chunk := await response.body_reader.read_chunk()) is not None:
                *lines, rest = (rest + bytes(chunk)).split(b"\n")
                for line in lines:
                    text = text_of_line(line)
                    if text is not None:
                        yield text

    async def close(self) -> None:
        await self.client.close()


class Socket(Client):
    """Prepared bytes over ``asyncio`` streams, one connection per caller at a time: what the server can do at most."""

    module = "import asyncio"

    async def open(self) -> None:
        host, _, path = self.base.removeprefix("http://").partition("/")
        self.host, _, self.port = host.partition(":")
        head = f"POST /{path}/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: %d\r\n\r\n"
        self.asked = {
            stream: (head % len(self.body(stream=stream))).encode() + self.body(stream=stream)
            for stream in (False, True)
        }
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def _ask(self, *, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
        writer.write(self.asked[stream])
        return reader, writer

    async def answer(self) -> str:
        reader, writer = await self._ask(stream=False)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.rpartition(b"content-length: ")[2].partition(b"\r")[0]))
        self.idle.append((reader, writer))
        return body.decode()

    async def pieces(self) -> AsyncGenerator[str, None]:
        reader, writer = await self._ask(stream=True)
        while not (line := await reader.readline()).startswith(b"data: [DONE]"):
            if line.startswith(b"data:") and b'"content":"x"' in line:
                yield "x"
        await reader.readuntil(b"\r\n0\r\n\r\n")
        self.idle.append((reader, writer))

    async def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


SUBJECTS: dict[str, type[Subject]] = {
    "orchestrator": Orchestrator, "orchestrator-fast": FastOrchestrator, "litellm": LiteLLM, "langchain": LangChain,
    "pydantic-ai": PydanticAI, "openai": OpenAI, "tensorzero": TensorZero, "httpx": Httpx, "aiohttp": Aiohttp,
    "pyreqwest": Pyreqwest, "socket": Socket,
}
