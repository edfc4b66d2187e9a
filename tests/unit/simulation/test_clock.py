"""The parts of the virtual-time loop that are there for the simulation's speed."""

from __future__ import annotations

import asyncio
import threading

from orchestrator.testing import VirtualTimeLoop


async def test_a_future_is_woken_in_time_and_in_order_with_timers():
    loop = asyncio.get_running_loop()
    seen = []
    futures = [loop.create_future() for _ in range(3)]
    for n, when in enumerate((2.0, 1.0, 2.0)):
        futures[n].add_done_callback(lambda _, n=n: seen.append((n, loop.time())))
        loop.wake_at(when, futures[n])
    loop.call_at(2.0, lambda: seen.append(("timer", loop.time())))
    await asyncio.sleep(3)
    assert seen[0] == (1, 1.0)
    assert sorted(map(str, seen[1:])) == ["('timer', 2.0)", "(0, 2.0)", "(2, 2.0)"]


async def test_a_future_that_is_done_or_cancelled_by_then_is_left_alone_and_costs_no_time():
    loop = asyncio.get_running_loop()
    done, cancelled = loop.create_future(), loop.create_future()
    loop.wake_at(5, done)
    loop.wake_at(1000, cancelled)
    done.set_result("mine")
    cancelled.cancel()
    await asyncio.sleep(10)
    assert done.result() == "mine"
    assert loop.time() == 10


async def test_cancelled_timers_do_not_pile_up():
    loop = asyncio.get_running_loop()
    kept = []
    for n in range(10_000):
        loop.call_later(1000 + n, kept.append, n).cancel()
    late = loop.call_later(500, kept.append, "kept")
    assert len(loop._timers) < 300
    await asyncio.sleep(2000)
    assert kept == ["kept"]
    assert not late.cancelled()


def test_what_a_thread_that_nobody_knows_of_calls_is_heard_while_the_loop_is_busy():
    async def main():
        loop, heard = asyncio.get_running_loop(), []
        threading.Timer(0.01, lambda: loop.call_soon_threadsafe(heard.append, True)).start()
        while not heard:  # noqa: ASYNC110  # virtual time: this spins
            await asyncio.sleep(1)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.wait_for(main(), 1e9))


def test_in_debug_mode_the_turns_are_those_of_asyncio():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.wake_at(7, future)
        await future
        await asyncio.sleep(1)
        return loop.time()

    with asyncio.Runner(debug=True, loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 8
