"""Connections over real sockets, of both engines: used again, never twice at once, and none is left behind."""

from __future__ import annotations

import asyncio
from functools import partial

import httpcore
import httpx
import pytest

from orchestrator import ConnectionFailedError, Router
from orchestrator.core.clock import new_random
from orchestrator.providers import _connections, _dial, _pool, _reuse
from orchestrator.providers._connections import give_pool, has_own_pool, watch_connections
from orchestrator.providers._exchange import Origin
from orchestrator.providers._h11 import H11Parser
from orchestrator.testing import SimulatedProvider, faults
from wire import EACH_ENGINE, idle, in_use

real_time = pytest.mark.real_time


@pytest.fixture
async def server():
    async with SimulatedProvider("openai", name="a", answer="hello") as server:
        yield server


async def leave_at_any_moment(router):
    chance = new_random(1)

    async def client():
        for _ in range(15):
            task = asyncio.create_task(router.route("hi"))
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))

    await asyncio.gather(*(client() for _ in range(20)))


@real_time
@EACH_ENGINE
async def test_calls_cancelled_at_any_moment_leave_no_request_and_no_lost_connection(server, engine):
    provider = server.provider(engine=engine)
    async with Router(providers=[provider]) as router:
        await leave_at_any_moment(router)
        for _ in range(3):
            assert await router.route("hi") == "hello"
        assert router.snapshot()["a"].in_flight == 0
        assert in_use(provider) == 0
        before = idle(provider)
        assert 1 <= before <= 20
        await asyncio.gather(*(router.route("hi") for _ in range(before)))
        assert idle(provider) >= before  # none of them was a lost one
    assert idle(provider) == 0


@real_time
@EACH_ENGINE
async def test_one_connection_serves_one_caller_and_each_caller_at_once_has_another(server, engine):
    provider = server.provider(engine=engine)
    async with Router(providers=[provider]) as router:
        for _ in range(5):
            await router.route("hi")
        assert (idle(provider), server.connections) == (1, 1)
        server.behave(latency=0.05)
        await asyncio.gather(*(router.route("hi") for _ in range(7)))
        assert (idle(provider), server.connections) == (7, 7)


@real_time
@EACH_ENGINE
async def test_no_more_than_so_many_connections_are_kept(server, engine, monkeypatch):
    monkeypatch.setattr(_reuse, "MOST_IDLE", 3)
    provider = server.provider(engine=engine)
    async with Router(providers=[provider]) as router:
        server.behave(latency=0.05)
        await asyncio.gather(*(router.route("hi") for _ in range(7)))
        assert (idle(provider), in_use(provider)) == (3, 0)
        async with SimulatedProvider("openai") as elsewhere:  # another address of the same provider, for once
            response = await provider._http.send("GET", f"{elsewhere.base_url}/models", headers={})
        assert (response.status, idle(provider)) == (401, 3)


@real_time
@EACH_ENGINE
async def test_a_connection_that_was_not_used_for_long_is_closed_instead_of_used(server, engine, monkeypatch):
    monkeypatch.setattr(_reuse, "KEEP_ALIVE", 0.0)
    provider = server.provider(engine=engine)
    async with Router(providers=[provider]) as router:
        server.behave(latency=0.05)
        await asyncio.gather(*(router.route("hi") for _ in range(7)))
        assert idle(provider) == 1
        for _ in range(3):
            await router.route("hi")
        assert idle(provider) == 1


@real_time
@EACH_ENGINE
async def test_a_connection_that_the_server_has_closed_is_not_used_again(server, engine):
    provider = server.provider(engine=engine, max_retries=0)
    async with provider:
        await provider.generate("hi")
        server._break()
        for _ in range(100):  # without a turn of our loop the client cannot know but by a look
            if not server.connections:
                break
            await asyncio.sleep(0)
        assert await provider.generate("hi") == "hello"


@real_time
@EACH_ENGINE
async def test_after_an_answer_that_was_not_read_to_its_end_the_connection_is_closed(server, engine):
    provider = server.provider(engine=engine)
    server.fail_next(faults.Endless(after=1))
    async with provider:
        stream = provider.generate_stream("hi")
        await anext(stream)
        assert in_use(provider) == 1
        await stream.aclose()
        assert (in_use(provider), idle(provider)) == (0, 0)


@real_time
@EACH_ENGINE
async def test_closing_the_provider_ends_what_is_under_way(server, engine):
    server.behave(latency=60)
    provider = server.provider(engine=engine, max_retries=0)
    calls = [asyncio.create_task(provider.generate("hi")) for _ in range(3)]
    while in_use(provider) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await provider.aclose()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionFailedError] * 3


# --- what is reached within httpx and httpcore ----------------------------------------------------------------------


@real_time
async def test_a_pool_of_httpcores_own_is_watched(server, monkeypatch):
    monkeypatch.setattr(_connections, "UNUSED", 0.0)
    monkeypatch.setattr(
        "orchestrator.providers._httpx.give_pool", lambda client, tls: watch_connections(client))
    provider = server.provider(engine="httpx")
    async with Router(providers=[provider]) as router:
        await leave_at_any_moment(router)
        for _ in range(3):
            assert await router.route("hi") == "hello"
        [engine] = provider._http._engines.values()
        pool = engine.client._transport._pool
        assert pool._requests == []
        assert [connection for connection in pool.connections if not connection.is_idle()] == []


async def test_a_client_of_another_making_is_left_as_it_is():
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        assert give_pool(client, None) is client
        assert not has_own_pool(client)
        assert (await client.get("http://localhost/")).status_code == 200


async def test_what_goes_by_a_proxy_keeps_the_pool_that_knows_it(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with httpx.AsyncClient() as client:
        give_pool(client, None)
        [mounted] = [mount for mount in client._mounts.values() if mount is not None]
        assert isinstance(mounted._pool, httpcore.AsyncHTTPProxy)
        assert isinstance(client._transport._pool, _pool.Pool)
        assert isinstance(mounted._pool.create_connection, partial)
        assert not has_own_pool(client)


async def test_where_httpcore_is_made_otherwise_its_own_pool_stays(monkeypatch):
    monkeypatch.setattr(_connections, "fits", lambda: False)
    async with httpx.AsyncClient() as client:
        assert give_pool(client, None) is client
        assert type(client._transport._pool) is httpcore.AsyncConnectionPool
        assert not has_own_pool(client)


async def test_those_that_begin_at_once_are_spread_over_turns_of_the_loop_and_a_cancelled_one_is_passed_over():
    turns, begun = _dial.Turns(lambda: 2), []

    async def begin(name):
        await turns.take()
        begun.append(name)

    tasks = [asyncio.create_task(begin(name)) for name in "abcdefg"]
    await asyncio.sleep(0)
    assert begun == ["a", "b"]
    tasks[2].cancel()
    for _ in range(2):
        await asyncio.sleep(0)
    assert begun == ["a", "b", "d", "e"]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == ["a", "b", "d", "e", "f", "g"]


async def test_as_many_dial_in_one_turn_of_the_loop_as_there_are_connections_in_use(monkeypatch):
    dialled = []

    async def dial(*_args, **_tls):
        dialled.append(len(connections.in_use))
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(_reuse, "dial", dial)
    monkeypatch.setattr(_reuse, "DIALS", 2)
    connections = _reuse.Connections(None, H11Parser)
    origin = Origin(secure=False, host="a.example", port=80)
    tasks = [
        asyncio.create_task(connections.exchange(origin, (b"",), connect=None, read=None)) for _ in range(9)
    ]
    await asyncio.sleep(0)
    assert dialled == [0, 0]
    connections.in_use.update(object() for _ in range(5))
    for _ in range(2):
        await asyncio.sleep(0)
    assert dialled == [0, 0] + [5] * 5
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@real_time
@EACH_ENGINE
async def test_who_waits_for_its_turn_to_connect_takes_a_connection_that_came_free(server, engine, monkeypatch):
    monkeypatch.setattr(_reuse, "DIALS", 1)
    provider = server.provider(engine=engine)
    async with Router(providers=[provider]) as router:
        assert await asyncio.gather(*(router.route("hi") for _ in range(40))) == ["hello"] * 40
        assert in_use(provider) == 0
        assert idle(provider) < 40
