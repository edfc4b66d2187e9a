"""One subject of ``benchmarks/faults.py`` in a process of its own: jobs come in as JSON lines, results go out.

    python benchmarks/rivals/worker.py orchestrator | litellm | langchain | openai

Each job builds the subject anew, so that no breaker or cooldown is left from the job before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from importlib import metadata
from typing import Any

PROMPT = "Count to eight"
KEPT = 4000  # characters of an answer that are reported; the rest is only counted


class Garbage(Exception):
    """The library returned, as a success, something that holds no text where its documentation says there is one."""


def text_of(get: Callable[[], Any]) -> str:
    try:
        text = get()
    except (AttributeError, IndexError, KeyError, TypeError) as exc:
        raise Garbage(f"{type(exc).__name__}: {exc}") from exc
    if text is not None and not isinstance(text, str):
        raise Garbage(f"the text is {type(text).__name__}")
    return text or ""


class Subject:
    """How a library is used for this purpose. ``own``: the packages whose exceptions it documents."""

    packages: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def __init__(self, job: dict[str, Any]) -> None:
        self.finish: str | None = None  # as the library reports it in a stream
        self.providers = job["providers"]
        self.limits = job["limits"]
        self.streams = job["mode"] == "stream"
        self.set_up()

    def set_up(self) -> None:
        raise NotImplementedError

    async def plain(self) -> str:
        raise NotImplementedError

    def stream(self) -> AsyncGenerator[str, None]:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def piece(self, chunk: Any) -> str:
        """The text of a chunk in OpenAI's form; some hold none, as the one with the usage."""
        choices = text_of(lambda: "some" if chunk.choices else "")
        if not choices:
            return ""
        self.finish = chunk.choices[0].finish_reason or self.finish
        return text_of(lambda: chunk.choices[0].delta.content)

    @property
    def per_attempt(self) -> float:
        """Seconds: what a library can be told that knows one limit for an attempt and none for the whole."""
        return self.limits["first_token"] if self.streams else self.limits["attempt"]


class Orchestrator(Subject):
    packages = ("resilient-orchestrator", "httpx")
    own = ("orchestrator",)

    def set_up(self) -> None:
        from orchestrator import Router, Timeouts
        from orchestrator.providers import OpenAICompatibleProvider, ProviderConfig

        providers = [OpenAICompatibleProvider(ProviderConfig(**provider)) for provider in self.providers]
        self.router = Router(
            "first-available", providers, timeouts=Timeouts(**self.limits), failover_on_content_filter=True
        )

    async def plain(self) -> str:
        return await self.router.route(PROMPT)

    async def stream(self) -> AsyncGenerator[str, None]:
        async with aclosing(self.router.route_stream(PROMPT)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        await self.router.aclose(grace=0)


class LiteLLM(Subject):
    """Two model groups, the second the fallback of the first (docs: "Fallbacks", for every kind of error there is).

    No retries: under these limits they would leave no time for the fallback.
    """

    packages = ("litellm", "openai")
    own = ("litellm", "openai")

    def set_up(self) -> None:
        import litellm

        litellm.telemetry = False
        rows = [
            {"model_name": p["name"], "litellm_params": {
                "model": f"openai/{p['model']}", "api_base": p["base_url"], "api_key": p["api_key"],
            }} for p in self.providers
        ]
        first, second = (p["name"] for p in self.providers)
        chain = [{first: [second]}]
        self.router = litellm.Router(
            model_list=rows, fallbacks=chain, context_window_fallbacks=chain, content_policy_fallbacks=chain,
            num_retries=0, timeout=self.limits["attempt"], stream_timeout=self.limits["first_token"],
        )

    async def _ask(self, **options: Any) -> Any:
        messages = [{"role": "user", "content": PROMPT}]
        return await self.router.acompletion(model=self.providers[0]["name"], messages=messages, **options)

    async def plain(self) -> str:
        answer = await self._ask()
        return text_of(lambda: answer.choices[0].message.content)

    async def stream(self) -> AsyncGenerator[str, None]:
        async for chunk in await self._ask(stream=True):
            yield self.piece(chunk)


class LangChain(Subject):
    """``with_fallbacks``, and no retries before it, as its documentation recommends."""

    packages = ("langchain-core", "langchain-openai", "openai")
    own = ("langchain_core", "langchain_openai", "openai")

    def set_up(self) -> None:
        from langchain_openai import ChatOpenAI

        self.models = [
            ChatOpenAI(
                model=p["model"], base_url=p["base_url"], api_key=p["api_key"], max_retries=0,
                timeout=self.per_attempt, stream_chunk_timeout=self.limits["idle"],
            ) for p in self.providers
        ]
        self.chain = self.models[0].with_fallbacks(self.models[1:])

    async def plain(self) -> str:
        answer = await self.chain.ainvoke(PROMPT)
        return text_of(lambda: answer.content)

    async def stream(self) -> AsyncGenerator[str, None]:
        async with aclosing(self.chain.astream(PROMPT)) as chunks:
            async for chunk in chunks:
                self.finish = chunk.response_metadata.get("finish_reason") or self.finish
                yield text_of(lambda chunk=chunk: chunk.content)


class OpenAI(Subject):
    """One provider, and the client's own retries: as many as fit into the time for the whole call."""

    packages = ("openai",)
    own = ("openai",)

    def set_up(self) -> None:
        from openai import AsyncOpenAI

        first = self.providers[0]
        self.client = AsyncOpenAI(
            base_url=first["base_url"], api_key=first["api_key"], timeout=self.limits["first_token"], max_retries=1
        )

    async def _ask(self, **options: Any) -> Any:
        messages = [{"role": "user", "content": PROMPT}]
        return await self.client.chat.completions.create(
            model=self.providers[0]["model"], messages=messages, **options
        )

    async def plain(self) -> str:
        answer = await self._ask()
        return text_of(lambda: answer.choices[0].message.content)

    async def stream(self) -> AsyncGenerator[str, None]:
        async with await self._ask(stream=True) as chunks:
            async for chunk in chunks:
                yield self.piece(chunk)

    async def close(self) -> None:
        await self.client.close()


SUBJECTS = {"orchestrator": Orchestrator, "litellm": LiteLLM, "langchain": LangChain, "openai": OpenAI}


async def run(kind: type[Subject], job: dict[str, Any]) -> dict[str, Any]:
    """What became of one call; ``seconds`` until it ended, ``first`` until its first text."""
    subject = kind(job)
    result: dict[str, Any] = {"outcome": "text", "first": None, "length": 0}
    kept: list[str] = []

    def take(piece: str) -> None:
        if piece and result["first"] is None:
            result["first"] = time.perf_counter() - started
        if result["length"] < KEPT:
            kept.append(piece[:KEPT])
        result["length"] += len(piece)

    started = time.perf_counter()
    limit = asyncio.timeout(job["outer"])
    try:
        async with limit:
            if subject.streams:
                async with aclosing(subject.stream()) as pieces:
                    async for piece in pieces:
                        take(piece)
            else:
                take(await subject.plain())
    except Garbage as exc:
        result.update(outcome="garbage", error=str(exc)[:300])
    except BaseException as exc:
        result.update(outcome="error", **described(exc, kind))
    result["seconds"] = time.perf_counter() - started
    if limit.expired():
        result["outcome"] = "hang"
    result["text"] = text = "".join(kept)[:KEPT]
    if result["outcome"] == "text" and text.encode(errors="replace") != text.encode(errors="surrogatepass"):
        result.update(outcome="garbage", error="half a character: nothing can write this text")
    result["finish"] = subject.finish
    with suppress(Exception):
        async with asyncio.timeout(1):
            await subject.close()
    return result


def described(exc: BaseException, kind: type[Subject]) -> dict[str, Any]:
    family = {cls.__module__.partition(".")[0] for cls in type(exc).__mro__}
    return {
        "error": f"{type(exc).__name__}: {str(exc)[:300]}", "error_module": type(exc).__module__,
        "documented": isinstance(exc, Exception) and not family.isdisjoint(kind.own),
    }


async def main() -> None:
    kind = SUBJECTS[sys.argv[1]]
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)  # whatever a library prints must not get between the lines
        versions = {}
        for name in kind.packages:
            with suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(name)
        out.write(json.dumps({"versions": versions}) + "\n")
        while line := await asyncio.to_thread(sys.stdin.readline):
            out.write(json.dumps(await run(kind, json.loads(line))) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
