"""The parts of the virtual-time loop that are there for the simulation's speed."""

from __future__ import annotations

import asyncio
import threading

import pytest

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


async def test_whatever_can_be_woken_is_woken_by_the_clock_alone():
    loop, woken = asyncio.get_running_loop(), []

    class Bell:
        cancelled = done = False.__bool__

        def set_result(self, _):
            woken.append(loop.time())
            if len(woken) < 3:
                loop.wake_at(loop.time() + 2, self)

    loop.wake_at(1, Bell())
    await asyncio.sleep(10)
    assert woken == [1, 3, 5]


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


async def test_sleeping_until_a_time_is_waking_then():
    loop = asyncio.get_running_loop()
    await loop.sleep_until(3.0)
    assert loop.time() == 3.0
    task = asyncio.ensure_future(loop.sleep_until(9.0))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(10)
    assert loop.time() == 14.0


async def test_callbacks_are_handles_as_asyncios_are():
    loop, seen = asyncio.get_running_loop(), []
    first, second = (loop.call_soon(seen.append, n) for n in (1, 2))
    timer = loop.call_later(1, seen.append, 3)
    first.cancel()
    assert (first.cancelled(), second.cancelled(), timer.when()) == (True, False, loop.time() + 1)
    assert "append" in repr(second)
    assert "when=" in repr(timer)
    await asyncio.sleep(2)
    assert seen == [2, 3]


async def test_a_callback_that_raises_is_told_of_and_the_turn_goes_on():
    loop, told, seen = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, "after it")
    await asyncio.sleep(1)
    assert [type(error) for error in told] == [ZeroDivisionError]
    assert seen == ["after it"]


def test_a_closed_loop_takes_no_callback():
    loop = VirtualTimeLoop()
    loop.close()
    for schedule in (loop.call_soon, lambda callback: loop.call_at(1.0, callback)):
        with pytest.raises(RuntimeError, match="closed"):
            schedule(print)


def test_debugging_can_be_switched_on_and_off():
    loop = VirtualTimeLoop()
    try:
        assert loop.get_debug() is False
        loop.set_debug(True)
        assert loop.get_debug() is True
        assert loop.call_soon(print)._source_traceback
        loop.set_debug(False)
        assert loop.get_debug() is False
    finally:
        loop.close()


def test_generators_left_open_are_closed_with_the_loop_and_those_that_ended_are_forgotten():
    ended, counts = [], []

    async def pieces(name):
        try:
            for n in range(2):
                yield n
        finally:
            ended.append(name)

    async def main():
        loop = asyncio.get_running_loop()
        async for _ in pieces("read"):
            counts.append(len(loop._asyncgens))
        counts.append(len(loop._asyncgens))
        kept.append(pieces("open"))
        await anext(kept[0])

    kept = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
        assert ended == ["read"]
    assert ended == ["read", "open"]
    assert counts == [1, 1, 0]
