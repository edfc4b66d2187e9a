"""A queue ends with what it waited for: callers that come back at once do not keep it alive, one call at a time."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import RateLimitError, Router
from orchestrator.providers import BaseProvider, ProviderConfig

CALLERS = 40


class Busy(BaseProvider):
    """Answers after three turns of the loop; the first calls are refused, all for the same short time."""

    def __init__(self, name, refusals, **config):
        super().__init__(ProviderConfig(name=name, **config))
        self.refusals = refusals
        self.calls = self.under_way = self.most = 0

    async def generate(self, prompt, params=None):
        self.calls += 1
        if self.calls <= self.refusals:
            raise RateLimitError("slow down", retry_after=0.1)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        self.under_way -= 1
        return "answer"


async def caller(router, calls):
    for _ in range(calls):
        await router.route("x")


@pytest.mark.parametrize("config", [{}, {"rpm_limit": 100_000}, {"max_concurrency": 30}], ids=["none", "rpm", "few"])
async def test_when_a_provider_is_back_as_many_are_under_way_as_it_has_room_for(config):
    provider = Busy("a", 1, **config)
    async with Router("round-robin", [provider]) as router:
        await asyncio.gather(*(caller(router, 100) for _ in range(CALLERS)))
    assert provider.calls == 1 + 100 * CALLERS
    assert provider.most == min(CALLERS, config.get("max_concurrency", CALLERS))


async def test_those_who_waited_are_spread_by_the_strategy_as_soon_as_all_providers_are_back():
    providers = [Busy(name, 1) for name in "abc"]
    async with Router("round-robin", providers) as router:
        await asyncio.gather(*(caller(router, 60) for _ in range(CALLERS)))
        assert router.queued == 0
    assert sum(provider.calls for provider in providers) == 3 + 60 * CALLERS
    assert max(provider.calls for provider in providers) < 1.5 * 20 * CALLERS
    assert sum(provider.most for provider in providers) >= CALLERS
