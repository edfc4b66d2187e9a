"""One sweep for all limits: it cancels who is late, and only them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from orchestrator.resilience.deadline import Guard, Watch


async def wait_under(watch: Watch, limit: float, sleep: float) -> str:
    loop = asyncio.get_running_loop()
    guard = watch.arm(loop.time() + limit)
    try:
        await asyncio.sleep(sleep)
    except asyncio.CancelledError:
        watch.disarm(guard)
        return "late" if guard.settle() else "cancelled"
    watch.disarm(guard)
    return "in time"


async def test_only_the_late_task_is_cancelled_and_at_its_own_limit():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    first = asyncio.create_task(wait_under(watch, 3, 100))
    second = asyncio.create_task(wait_under(watch, 5, 4))
    third = asyncio.create_task(wait_under(watch, 2, 100))
    assert await third == "late"
    assert loop.time() == pytest.approx(2)
    assert await first == "late"
    assert loop.time() == pytest.approx(3)
    assert await second == "in time"
    assert len(watch) == 0


async def test_a_limit_far_away_costs_one_timer_not_one_per_guard():
    loop = asyncio.get_running_loop()
    scheduled = []
    plain = loop.call_at
    loop.call_at = lambda when, *args: scheduled.append(when) or plain(when, *args)
    watch = Watch(loop)
    for _ in range(100):
        watch.disarm(watch.arm(loop.time() + 50))
    del loop.call_at
    assert len(scheduled) == 1


async def test_a_cancellation_from_outside_is_not_taken_for_a_limit():
    task = asyncio.create_task(wait_under(Watch(asyncio.get_running_loop()), 10, 100))
    await asyncio.sleep(1)
    task.cancel()
    assert await task == "cancelled"


async def test_a_cancellation_from_outside_wins_when_both_come_together():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    task = asyncio.create_task(wait_under(watch, 1, 100))
    loop.call_at(loop.time() + 1, task.cancel)
    assert await task == "cancelled"


async def test_a_task_that_was_cancelled_before_and_went_on_still_has_limits():
    watch = Watch(asyncio.get_running_loop())

    async def goes_on():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            first = await wait_under(watch, 1, 100)
            guard = watch.arm(asyncio.get_running_loop().time() + 1)
            guard.take(asyncio.current_task())
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return first, guard.settle()

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(1)
    task.cancel()
    assert await task == ("late", True)


async def test_a_nearer_limit_replaces_the_timer():
    loop = asyncio.get_running_loop()
    timers = []
    plain = loop.call_at
    loop.call_at = lambda when, *args: timers.append(plain(when, *args)) or timers[-1]
    watch = Watch(loop)
    for limit in (30, 20, 10):
        watch.arm(loop.time() + limit).take(None)
    del loop.call_at
    assert [timer.cancelled() for timer in timers] == [True, True, False]


async def test_without_a_task_the_guard_lapses():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    lapsed = []
    guard = watch.arm(loop.time() + 10)
    guard.take(None)
    guard.lapse = lambda: lapsed.append(loop.time())
    watch.move(guard, loop.time() + 3)
    await asyncio.sleep(20)
    assert lapsed == [pytest.approx(3)]
    assert guard.expired
    assert not guard.settle()


async def test_a_guard_without_task_and_without_lapse_is_only_forgotten():
    loop = asyncio.get_running_loop()
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    watch = Watch(loop)
    guard = watch.arm(1.0)
    guard.take(None)
    await asyncio.sleep(2)
    assert (len(watch), guard.expired, errors) == (0, True, [])


async def test_a_guard_that_lapsed_is_armed_again_by_moving_it():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    lapsed = []
    guard = watch.arm(loop.time() + 1)
    guard.take(None)
    guard.lapse = lambda: lapsed.append(loop.time())
    await asyncio.sleep(2)
    watch.move(guard, loop.time() + 5)
    await asyncio.sleep(10)
    assert lapsed == [pytest.approx(1), pytest.approx(7)]


async def test_a_guard_whose_limit_has_moved_meanwhile_waits_until_then():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    lapsed, limits = [], [4.0, 6.0]
    guard = watch.arm(1.0)
    guard.take(None)
    guard.lapse = lambda: lapsed.append(loop.time())
    guard.limit = lambda at: limits.pop(0) if limits else 6.0
    await asyncio.sleep(20)
    assert (lapsed, limits) == ([pytest.approx(6)], [])


async def test_no_timer_is_set_where_the_one_there_is_will_do_or_nobody_waits():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    scheduled = []
    plain = loop.call_at
    loop.call_at = lambda when, *args, **more: scheduled.append(when) or plain(when, *args, **more)
    guard = watch.arm(5.0)
    guard.take(None)
    watch.move(guard, 5.0)
    watch.move(guard, 8.0)
    for _ in range(3):
        watch.disarm(watch.arm(9.0))
    assert scheduled == [5.0]
    watch._sweep()  # the timer of 5.0, early: it moves on to the guard's new limit
    watch.disarm(guard)
    watch._sweep()
    del loop.call_at
    assert scheduled == [5.0, 8.0]


async def test_who_swallows_the_cancellation_is_cancelled_again_two_seconds_later():
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    guard = watch.arm(loop.time() + 1)
    cancelled_at = []
    for _ in range(3):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        cancelled_at.append(loop.time())
    watch.disarm(guard)
    assert cancelled_at == [pytest.approx(1), pytest.approx(3), pytest.approx(5)]
    assert guard.settle()
    assert asyncio.current_task().cancelling() == 0


async def test_settling_twice_takes_back_no_cancellation_from_outside():
    task = asyncio.current_task()
    guard = Guard(1.0, task)
    guard.expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(1)
    assert [guard.settle(), guard.settle(), task.cancelling()] == [False, False, 1]
    task.uncancel()


async def test_a_guard_that_was_settled_serves_again():
    task = asyncio.current_task()
    guard = Guard(1.0, task)
    for _ in range(2):
        guard.expire()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(1)
        assert guard.settle()
        assert task.cancelling() == 0


def test_without_a_task_a_cancellation_goes_on_and_nothing_else_becomes_one():
    cancelled = asyncio.CancelledError()
    guard = Guard(1.0, None)
    assert guard.cancellation(cancelled) is cancelled
    assert guard.cancellation(ValueError()) is None


async def test_the_sweep_moves_on_to_the_next_nearest_limit():
    watch = Watch(asyncio.get_running_loop())
    tasks = [asyncio.create_task(wait_under(watch, limit, 100)) for limit in (4, 1, 3, 2)]
    assert await asyncio.gather(*tasks) == ["late"] * 4
    assert asyncio.get_running_loop().time() == pytest.approx(4)
