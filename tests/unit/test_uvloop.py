"""The library on uvloop, which the command line uses where there is one: real sockets, both engines, no warning."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import pytest

from orchestrator import ConnectionFailedError, RetryPolicy, Router, TimeoutError, Timeouts
from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import Cut, Hang
from wire import EACH_ENGINE

uvloop = pytest.importorskip("uvloop")

ANSWER = "Because of Rayleigh scattering. " * 20


def on_uvloop(scene, engine, **options):
    """Run ``scene(router, server)``; then no task, no connection and no exception that nobody has seen is left."""
    unseen = []

    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, uvloop.Loop)
        loop.set_exception_handler(lambda _, context: unseen.append(context))
        async with SimulatedProvider("openai", name="alpha", answer=ANSWER) as server:
            async with Router(providers=[server.provider(engine=engine)], **options) as router:
                await scene(router, server)
                assert router.snapshot()["alpha"].in_flight == 0
            for _ in range(1000):
                if not server.connections:
                    break
                await asyncio.sleep(0.001)  # the server sees the end of a connection a little later
            assert server.connections == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    gc.collect()  # what is lost only now warns now, and warnings are errors
    assert unseen == []


@EACH_ENGINE
def test_plain_and_streamed_answers_come_over_connections_that_are_used_again(engine):
    async def scene(router, server):
        for _ in range(3):
            assert await router.route("Why is the sky blue?") == ANSWER
            assert "".join([piece async for piece in router.route_stream("Why?")]) == ANSWER
        assert server.connections == 1
        assert await asyncio.gather(*(router.route("Why?") for _ in range(20))) == [ANSWER] * 20

    on_uvloop(scene, engine)


@EACH_ENGINE
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_silent_provider_is_a_timeout(engine, stream):
    async def scene(router, server):
        server.fail_next(Hang())
        with pytest.raises(TimeoutError):
            if stream:
                async for _ in router.route_stream("Why?"):
                    pass
            else:
                await router.route("Why?")
        assert await router.route("Why?") == ANSWER

    on_uvloop(scene, engine, timeouts=Timeouts(first_token=0.05, attempt=0.05), retry=RetryPolicy(max_retries=0))


@EACH_ENGINE
def test_a_cancelled_call_and_a_stream_that_is_left_give_their_connections_back(engine):
    async def scene(router, server):
        server.fail_next(Hang())
        call = asyncio.create_task(router.route("Why?"))
        while not server.received:  # noqa: ASYNC110  # it is another part of the same program
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
        async with aclosing(router.route_stream("Why?")) as pieces:
            async for _ in pieces:
                break
        assert await router.route("Why?") == ANSWER

    on_uvloop(scene, engine)


@EACH_ENGINE
def test_a_cut_stream_and_a_refused_connection_are_our_errors(engine):
    async def scene(router, server):
        server.fail_next(Cut(0))
        assert await router.route("Why?") == ANSWER  # asked again
        server.down()
        with pytest.raises(ConnectionFailedError):
            await router.route("Why?")

    on_uvloop(scene, engine, retry=RetryPolicy(base_delay=0.001))
