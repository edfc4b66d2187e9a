"""A storm of cancellations over real sockets leaves no connection behind in the pool."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from orchestrator import Router
from orchestrator.core.clock import new_random
from orchestrator.providers import _connections
from orchestrator.providers._connections import watch_connections
from orchestrator.testing import SimulatedProvider


def pool_of(provider):
    [client] = provider._http._clients.values()
    return client._transport._pool


@pytest.mark.real_time
async def test_calls_cancelled_at_any_moment_leave_no_request_and_no_lost_connection(monkeypatch):
    monkeypatch.setattr(_connections, "UNUSED", 0.0)
    chance = new_random(1)
    async with SimulatedProvider("openai", name="a", answer="hello") as server:
        provider = server.provider()
        async with Router(providers=[provider]) as router:
            async def client():
                for _ in range(15):
                    task = asyncio.create_task(router.route("hi"))
                    for _ in range(chance.randrange(40)):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait((task,))

            await asyncio.gather(*(client() for _ in range(20)))
            for _ in range(3):
                assert await router.route("hi") == "hello"
            pool = pool_of(provider)
            assert router.snapshot()["a"].in_flight == 0
            assert pool._requests == []
            assert [connection for connection in pool.connections if not connection.is_idle()] == []


async def test_a_client_of_another_making_is_left_as_it_is():
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        assert watch_connections(client) is client
        assert (await client.get("http://localhost/")).status_code == 200
