"""The provider contract of FunctionProvider, for each kind of function it takes."""

from __future__ import annotations

import asyncio

from contract.custom import KnownAnswers, config, error_of
from orchestrator.core.types import Completion
from orchestrator.providers.function import FunctionProvider


class TestPlainFunction(KnownAnswers):
    def provider(self):
        async def answer(prompt):
            return f"You said: {prompt}"

        return FunctionProvider(config(), answer)

    def failing_provider(self, status):
        async def fail(prompt):
            raise error_of(status)

        return FunctionProvider(config(), fail)

    def hanging_provider(self):
        async def hang(prompt):
            await asyncio.sleep(1e9)

        return FunctionProvider(config(), hang)

    def garbage_provider(self):
        async def nothing(prompt):
            return None

        return FunctionProvider(config(), nothing)


class TestStreamingFunction(KnownAnswers):
    def provider(self):
        async def answer(prompt, params):
            yield "You "
            yield f"said: {prompt}"

        return FunctionProvider(config(), answer, takes="prompt, params")

    def slow_provider(self):
        async def slow(prompt):
            yield "You "
            await asyncio.sleep(1e9)
            yield "said"

        return FunctionProvider(config(), slow)


class TestFunctionOfTheRequest(KnownAnswers):
    refuses_by_itself = False

    def provider(self):
        async def answer(request):
            return Completion(f"You said: {request.messages[-1].text}")

        return FunctionProvider(config(), answer, takes="request")
