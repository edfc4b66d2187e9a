"""Short forms the tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from orchestrator import BreakerPolicy, GenerationParams, ProviderConfig, RetryPolicy, Router
from orchestrator.core.events import Event
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import MockProvider

NO_RETRY = RetryPolicy(max_retries=0)
NEVER_OPEN = BreakerPolicy(enabled=False)


def mock(name: str, *script: object, **config: Any) -> MockProvider:
    """A provider that plays a script; without one it answers at once with its own name."""
    return MockProvider(ProviderConfig(name=name, **config), script=script or (name,))


def first_available(*providers: BaseProvider, **options: Any) -> Router:
    """A router that tries the providers in the order given."""
    return Router("first-available", providers, seed=1, **options)


async def pieces_of(stream: AsyncGenerator[Any, None]) -> list[Any]:
    """All pieces of a stream."""
    return [piece async for piece in stream]


def kinds(events: Iterable[Event]) -> list[str]:
    """The names of the events' classes."""
    return [type(event).__name__ for event in events]


async def settle() -> None:
    """Let callbacks and background tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Echo(BaseProvider):
    """The smallest custom provider."""

    async def generate(self, prompt: str, params: GenerationParams | None = None) -> str:
        return f"{self.config.name}: {prompt}"
