"""The virtual-time loop: it jumps, keeps order, knows a deadlock, and lets threads and sockets work."""

from __future__ import annotations

import asyncio
import socket
import threading
import time  # noqa: TID251  # to show that virtual time is not real time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.testing.loop import DeadlockError, VirtualTimeLoop


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def test_an_hour_of_a_thousand_tasks_takes_no_time():
    async def main():
        async def tick(period):
            while asyncio.get_running_loop().time() < 3600:  # noqa: ASYNC110
                await asyncio.sleep(period)

        async with asyncio.TaskGroup() as group:
            for n in range(1000):
                group.create_task(tick(600 + n))
        return asyncio.get_running_loop().time()

    started = time.perf_counter()
    assert run(main()) >= 3600
    assert time.perf_counter() - started < 5


async def test_the_clock_stands_still_while_something_is_ready():
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert loop.time() == 0


async def test_timers_run_in_order_each_at_its_own_time():
    loop = asyncio.get_running_loop()
    seen = []
    for delay in (3.0, 0.25, 1e-6, 2.0, 86400.0 * 3):
        loop.call_later(delay, lambda: seen.append(loop.time()))
    await asyncio.sleep(86400.0 * 4)
    assert seen == pytest.approx([1e-6, 0.25, 2.0, 3.0, 86400.0 * 3], rel=1e-12)


async def test_a_cancelled_timer_costs_no_time():
    loop = asyncio.get_running_loop()
    loop.call_later(100, pytest.fail, "was cancelled").cancel()
    await asyncio.sleep(1)
    assert loop.time() == 1


async def test_a_timeout_ends_exactly_in_time():
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.5):
            await asyncio.sleep(100)
    assert loop.time() == 7.5


async def test_ten_years_of_sleep_end_too():
    # Above 2**24 seconds the clock's resolution of 1e-9 s is lost by rounding.
    loop = asyncio.get_running_loop()
    decade = 10 * 365 * 86400.0
    await asyncio.sleep(decade)
    await asyncio.sleep(0.1)
    loop.call_at(loop.time(), lambda: None)
    await asyncio.sleep(0.001)
    assert loop.time() == pytest.approx(decade + 0.101)


async def test_the_clock_may_be_moved_by_hand():
    loop = asyncio.get_running_loop()
    sleeper = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    loop.advance(10)
    await sleeper
    assert loop.time() == 10


def test_tasks_that_wait_for_each_other_are_a_deadlock():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="every task waits"):
        run(main())


def test_a_deadlock_leaves_a_runner_that_closes_cleanly():
    cleaned = []

    async def main():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned.append(True)

    with pytest.raises(DeadlockError):
        run(main())
    assert cleaned


def test_a_thread_works_in_its_own_time_and_the_clock_waits_for_it():
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(5, lambda: None)
        assert await asyncio.to_thread(lambda: time.sleep(0.02) or "done") == "done"
        return loop.time()

    assert run(main()) == 0


def test_a_thread_of_an_own_executor_counts_as_well():
    async def main():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            async with asyncio.timeout(1):
                await loop.run_in_executor(pool, time.sleep, 0.02)
        with pytest.raises(RuntimeError, match="shutdown"):
            loop.run_in_executor(pool, time.sleep, 0)
        assert not loop.waits_for_thread
        return loop.time()

    assert run(main()) == 0


def test_the_default_executor_is_joined_at_the_end_although_a_thread_still_works():
    async def main():
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.02)

    run(main())


async def test_a_server_and_a_client_in_the_same_loop_talk_over_a_real_socket():
    async def answer(reader, writer):
        await asyncio.sleep(3)
        writer.write((await reader.readline()).upper())
        writer.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
    assert loop.time() == 3


async def test_a_socket_whose_peer_is_a_thread_is_waited_for_when_no_timer_is_set():
    mine, other = socket.socketpair()
    mine.setblocking(False)
    thread = threading.Timer(0.02, other.send, (b"hello",))
    with mine, other:
        thread.start()
        assert await asyncio.get_running_loop().sock_recv(mine, 5) == b"hello"
        thread.join()
    assert asyncio.get_running_loop().time() == 0
