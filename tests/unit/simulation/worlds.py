"""Short forms the tests of the simulation share."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.types import Completion, Request, TextDelta
from orchestrator.simulation import Job, ModelledProvider, Scenario, World

FAST = {"first_token": {"median_s": 1.0}, "token_rate": {"median_tps": 100}}


def scenario(*providers: dict[str, Any], **fields: Any) -> Scenario:
    """A minute of one request a second, unless the fields say otherwise; providers answer in 1 s + tokens / 100."""
    named = [{"name": f"p{n}", **FAST, **provider} for n, provider in enumerate(providers or ({},))]
    return Scenario.model_validate({
        "name": "test", "duration_s": 60, "traffic": {"rate_rps": 1}, **fields, "providers": named,
    })


def provider(seed: int = 1, **fields: Any) -> ModelledProvider:
    """One modelled provider, alone in its world."""
    return World(scenario(fields), seed).providers[0]


def job(number: int = 1, prompt_tokens: int = 100, completion_tokens: int = 100, session: int = -1) -> Job:
    """A request with luck of its own."""
    made = Job.written(f"{number}. ", prompt_tokens, completion_tokens, key=number * 0x9E3779B9)
    made.session = session
    return made


async def ask(provider: ModelledProvider, asked: Job | None = None) -> tuple[Completion | OrchestratorError, float]:
    """The answer or the error, and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        answer: Completion | OrchestratorError = await provider.complete(Request(asked or job()))
    except OrchestratorError as error:
        answer = error
    return answer, loop.time() - began


async def ask_at(provider: ModelledProvider, at: float, asked: Job | None = None) -> tuple[Any, float]:
    """The same at that time of the run."""
    await asyncio.sleep(at - asyncio.get_running_loop().time())
    return await ask(provider, asked)


async def streamed(provider: ModelledProvider, asked: Job) -> tuple[list[tuple[float, int]], Any]:
    """When which number of characters came, and what ended the stream."""
    loop = asyncio.get_running_loop()
    began, pieces = loop.time(), []
    last: Any = None
    try:
        async for event in provider.open_stream(Request(asked, stream=True)):
            if isinstance(event, TextDelta):
                pieces.append((loop.time() - began, len(event.text)))
            last = event
    except OrchestratorError as error:
        last = error
    return pieces, last
