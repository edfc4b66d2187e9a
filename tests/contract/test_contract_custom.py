"""The provider contract of the smallest custom providers, one for each level at which one may be written."""

from __future__ import annotations

import asyncio

from contract.custom import KnownAnswers, config, error_of
from orchestrator.core.types import Completion, Finished, TextDelta
from orchestrator.providers.base import BaseProvider


async def answer(provider, prompt):
    """What the service of all of them does."""
    provider.calls.append(prompt)
    if provider.wait:
        await asyncio.sleep(provider.wait)
    if provider.failure is not None:
        raise provider.failure
    return [f"You said: {prompt[:2]}", prompt[2:]]


class Service(BaseProvider):
    calls: list[str]
    failure: Exception | None = None
    wait = 0.0


class Generates(Service):
    async def generate(self, prompt, params=None):
        return "".join(await answer(self, prompt))


class GeneratesStream(Service):
    async def generate_stream(self, prompt, params=None):
        for piece in ("", *await answer(self, prompt)):
            yield piece


class Completes(Service):
    async def complete(self, request):
        return Completion("".join(await answer(self, request.prompt)), finish_reason="stop")


class OpensStream(Service):
    async def open_stream(self, request):
        for piece in await answer(self, request.prompt):
            yield TextDelta(piece)
        yield Finished(Completion(""))


class CustomContract(KnownAnswers):
    kind: type[Service]

    def provider(self):
        made = self.kind(config())
        made.calls = self.calls = []
        return made

    def failing_provider(self, status):
        made = self.provider()
        made.failure = error_of(status)
        return made

    def hanging_provider(self):
        made = self.provider()
        made.wait = 1e9
        return made


class TestGenerate(CustomContract):
    kind = Generates


class TestGenerateStream(CustomContract):
    kind = GeneratesStream


class TestComplete(CustomContract):
    kind = Completes
    refuses_by_itself = False


class TestOpenStream(CustomContract):
    kind = OpensStream
    refuses_by_itself = False
