"""Races over real sockets: what a hedge opened in a task of its own is read by the caller, and the loser lets go."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import HedgePolicy, RetryPolicy, Router
from orchestrator.core.clock import new_random
from orchestrator.core.events import AttemptEnded, AttemptStarted, RequestEnded
from orchestrator.testing import SimulatedProvider
from support import pieces_of
from wire import in_use

pytestmark = pytest.mark.real_time
LONG = "one two three four five six seven eight nine ten"
NEVER = 60.0


class Rig:
    """Two simulated providers on loopback behind a hedging router."""

    def __init__(self, *, first, second, pace=None, vendor="openai", **options) -> None:
        self.servers = [
            SimulatedProvider(vendor, name=name, answer=f"{name} {LONG}", latency=latency, tokens_per_second=pace)
            for name, latency in (("a", first), ("b", second))
        ]
        self.events = []
        self.options = options

    async def __aenter__(self):
        for server in self.servers:
            await server.__aenter__()
        self.providers = [server.provider() for server in self.servers]
        self.router = Router(
            "first-available", self.providers, hedge=HedgePolicy(first_delay=0.03, min_samples=500),
            retry=RetryPolicy(budget_floor=1e6), listeners=[self.events.append], **self.options,
        )
        return self

    async def __aexit__(self, *_) -> None:
        for _ in range(50):  # losers are cleaned up in the background
            if not any(self.in_use()):
                break
            await asyncio.sleep(0.02)
        assert not any(self.in_use())
        await self.router.aclose()
        for server in self.servers:
            await server.__aexit__(None, None, None)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        started = sorted((e.request, e.number) for e in self.events if isinstance(e, AttemptStarted))
        assert started == sorted((e.request, e.attempt.number) for e in self.events if isinstance(e, AttemptEnded))

    def in_use(self):
        for provider in self.providers:
            yield self.router.snapshot()[provider.name].in_flight
            yield in_use(provider)

    async def ask(self, *, stream):
        if not stream:
            return await self.router.route("hi")
        return "".join(await pieces_of(self.router.route_stream("hi")))


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@both
@pytest.mark.parametrize("vendor", ["openai", "yandex"])
async def test_the_hedge_wins_and_is_read_to_its_end(stream, vendor):
    async with Rig(first=NEVER, second=0.0, pace=200, vendor=vendor) as rig:
        for _ in range(3):
            assert await rig.ask(stream=stream) == f"b {LONG}"
        assert rig.servers[1].received == 3


@both
async def test_the_first_wins_and_the_hedge_lets_go_of_its_connection(stream):
    async with Rig(first=0.15, second=NEVER, pace=500) as rig:
        for _ in range(3):
            assert await rig.ask(stream=stream) == f"a {LONG}"
        assert rig.servers[0].received == 3


async def test_a_plain_call_read_as_a_stream_goes_on_with_the_hedge():
    async with Rig(first=NEVER, second=0.0, pace=200, stream_plain_calls=True) as rig:
        assert await rig.ask(stream=False) == f"b {LONG}"


@both
async def test_both_at_about_the_same_time_and_callers_who_leave_at_any_moment(stream):
    chance = new_random(2)
    async with Rig(first=0.06, second=0.03) as rig:
        async def client():
            for _ in range(6):
                rig.servers[0].behave(latency=chance.uniform(0.02, 0.09))
                task = asyncio.create_task(rig.ask(stream=stream))
                await asyncio.wait((task,), timeout=chance.uniform(0.03, 0.15))
                task.cancel()
                await asyncio.wait((task,))

        await asyncio.gather(*(client() for _ in range(8)))
        assert await rig.ask(stream=stream) in (f"a {LONG}", f"b {LONG}")
        ended = [e for e in rig.events if isinstance(e, RequestEnded)]
        assert len(ended) == 49
        assert {e.outcome for e in ended} <= {"answer", "cancelled"}
        assert any(attempt.hedge for e in ended for attempt in e.attempts)
