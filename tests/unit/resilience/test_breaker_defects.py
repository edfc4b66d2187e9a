"""The defects of aiobreaker 1.2.0, one test each: the same scenario is observed on ours and on the plain class.

Both run on the virtual clock: the plain class reads ``datetime``, which is replaced in its modules.
"""

from __future__ import annotations

import asyncio
import warnings
from abc import ABCMeta
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import aiobreaker
import pytest
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import Verdict
from orchestrator.resilience.breaker import ProviderBreaker

BREAK = 10.0


class Boom(Exception):
    """What the provider fails with."""


class Business(Exception):
    """What says nothing about the provider."""


class LoopDatetime(datetime):
    """The loop's clock as a wall clock that may be set to another time or zone."""

    offset = timedelta(0)
    step = timedelta(0)
    deprecated = False

    @classmethod
    def utcnow(cls):
        if cls.deprecated:
            warnings.warn("datetime.utcnow() is deprecated", DeprecationWarning, stacklevel=2)
        return datetime(2026, 1, 1) + timedelta(seconds=asyncio.get_running_loop().time()) + cls.step  # noqa: DTZ001

    @classmethod
    def now(cls, tz=None):
        return cls.utcnow() + cls.offset


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch):
    clock = type("Clock", (LoopDatetime,), {})
    monkeypatch.setattr("aiobreaker.circuitbreaker.datetime", clock)
    monkeypatch.setattr("aiobreaker.state.datetime", clock)
    return clock


def ours(*, fail_max: int = 3, timeout: float = BREAK, probes: int = 1, **options: Any) -> ProviderBreaker:
    policy = BreakerPolicy(consecutive_failures=fail_max, probes=probes, break_jitter=0, ramp=0)
    return ProviderBreaker(policy.model_copy(update={"break_base": timeout, "break_max": timeout}), **options)


def plain(*, fail_max: int = 3, timeout: float = BREAK, probes: int = 1, **options: Any) -> aiobreaker.CircuitBreaker:
    return aiobreaker.CircuitBreaker(fail_max=fail_max, timeout_duration=timedelta(seconds=timeout), **options)


Make = Callable[..., Any]


async def fail(delay: float = 0.0) -> None:
    await asyncio.sleep(delay)
    raise Boom


async def succeed(delay: float = 0.0) -> str:
    await asyncio.sleep(delay)
    return "ok"


async def refuse() -> None:
    raise Business


async def outcome(call: Awaitable[Any]) -> str:
    """The result of a call, or the name of its error."""
    try:
        return str(await call)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
        name = type(error).__name__
        return "refused" if isinstance(error, aiobreaker.CircuitBreakerError) else name


async def tripped(make: Make, **options: Any) -> Any:
    """A breaker that has just opened."""
    breaker = make(fail_max=1, **options)
    await outcome(breaker.call_async(fail))
    assert state(breaker) == "OPEN"
    return breaker


async def break_over() -> None:
    await asyncio.sleep(BREAK + 0.5)


def state(breaker: Any) -> str:
    return breaker.current_state.name


class Transitions(aiobreaker.CircuitBreakerListener):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def state_change(self, breaker, old, new):
        self.seen.append((old.state.name, new.state.name))


async def test_01_half_open_lets_one_probe_through_not_a_herd():
    async def herd(make):
        breaker = await tripped(make)
        await break_over()
        breaker.add_listener(transitions := Transitions())
        started = 0

        async def work():
            nonlocal started
            started += 1
            await fail(1)

        await asyncio.gather(*(outcome(breaker.call_async(work)) for _ in range(1000)))
        return started, transitions.seen.count(("OPEN", "OPEN"))

    assert await herd(ours) == (1, 0)
    assert await herd(plain) == (1000, 999)


async def test_02_a_stale_probe_does_not_close_what_a_failed_probe_has_opened():
    async def two_probes(make):
        breaker = await tripped(make, probes=2)
        await break_over()
        await asyncio.gather(outcome(breaker.call_async(fail, 0.01)), outcome(breaker.call_async(succeed, 0.02)))
        return state(breaker)

    assert await two_probes(ours) == "OPEN"
    assert await two_probes(plain) == "CLOSED"


async def test_03_a_late_failure_neither_lengthens_the_break_nor_is_replaced():
    async def late_failure(make):
        breaker = make(fail_max=1)
        late = asyncio.create_task(outcome(breaker.call_async(fail, 5)))
        await asyncio.sleep(0)
        await outcome(breaker.call_async(fail))
        await break_over()
        return await late, await outcome(breaker.call_async(succeed))

    assert await late_failure(ours) == ("Boom", "ok")
    assert await late_failure(plain) == ("refused", "refused")


async def test_04_a_late_failure_does_not_end_the_probing():
    async def late_failure(make):
        breaker = make(fail_max=1)
        late = asyncio.create_task(outcome(breaker.call_async(fail, 15)))
        await asyncio.sleep(0)
        await outcome(breaker.call_async(fail))
        await break_over()
        breaker.add_listener(transitions := Transitions())
        probe = asyncio.create_task(outcome(breaker.call_async(succeed, 10)))
        await asyncio.gather(late, probe)
        return transitions.seen

    assert await late_failure(ours) == [("OPEN", "HALF_OPEN"), ("HALF_OPEN", "CLOSED")]
    assert await late_failure(plain) == [("OPEN", "HALF_OPEN"), ("HALF_OPEN", "OPEN"), ("OPEN", "CLOSED")]


async def test_05_failures_of_calls_begun_before_the_recovery_do_not_trip_it_again():
    async def late_failures(make):
        breaker = make(fail_max=3)
        late = [asyncio.create_task(outcome(breaker.call_async(fail, 20))) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(3):
            await outcome(breaker.call_async(fail))
        await break_over()
        await breaker.call_async(succeed)
        recovered = state(breaker)
        await asyncio.gather(*late)
        return recovered, state(breaker)

    assert await late_failures(ours) == ("CLOSED", "CLOSED")
    assert await late_failures(plain) == ("CLOSED", "OPEN")


async def test_06_a_late_success_while_open_does_not_reset_the_counter():
    async def late_success(make):
        breaker = make(fail_max=3)
        late = asyncio.create_task(breaker.call_async(succeed, 1))
        await asyncio.sleep(0)
        for _ in range(3):
            await outcome(breaker.call_async(fail))
        await late
        return state(breaker), breaker.fail_counter

    assert await late_success(ours) == ("OPEN", 3)
    assert await late_success(plain) == ("OPEN", 0)


async def test_07_an_excluded_error_does_not_close_a_half_open_breaker():
    async def excluded_probe(make):
        breaker = await tripped(make, exclude=[Business])
        await break_over()
        await outcome(breaker.call_async(refuse))
        return state(breaker)

    assert await excluded_probe(ours) == "HALF_OPEN"
    assert await excluded_probe(plain) == "CLOSED"


async def test_08_an_excluded_error_does_not_reset_the_failures_in_a_row():
    async def four_failures_then_an_excluded_error(make):
        breaker = make(fail_max=5, exclude=[Business])
        for number in range(100):
            await outcome(breaker.call_async(refuse if number % 5 == 4 else fail))
        return state(breaker)

    assert await four_failures_then_an_excluded_error(ours) == "OPEN"
    assert await four_failures_then_an_excluded_error(plain) == "CLOSED"


async def test_09_a_provider_that_mostly_fails_is_taken_out_although_it_answers_now_and_then():
    async def four_failures_then_a_success(make):
        breaker = make(fail_max=5)
        for number in range(1000):
            await outcome(breaker.call_async(succeed if number % 5 == 4 else fail))
        return state(breaker)

    assert await four_failures_then_a_success(ours) == "OPEN"
    assert await four_failures_then_a_success(plain) == "CLOSED"


async def test_10_a_cancelled_probe_gives_its_slot_back_and_nothing_more():
    async def started_after_a_cancelled_probe(make):
        breaker = await tripped(make)
        await break_over()
        probe = asyncio.create_task(breaker.call_async(succeed, 60))
        await asyncio.sleep(1)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        started = 0

        async def work():
            nonlocal started
            started += 1
            await fail(1)

        await asyncio.gather(*(outcome(breaker.call_async(work)) for _ in range(50)))
        return started

    assert await started_after_a_cancelled_probe(ours) == 1
    assert await started_after_a_cancelled_probe(plain) == 50


async def test_11_a_deadline_that_passes_is_a_failure():
    async def hanging_calls(make):
        breaker = make(fail_max=5)
        begun = 0

        async def hang():
            nonlocal begun
            begun += 1
            await asyncio.sleep(3600)

        for _ in range(50):
            await outcome(with_deadline(breaker, hang))
        return begun, state(breaker)

    async def with_deadline(breaker, func):
        if isinstance(breaker, ProviderBreaker):  # who holds the deadline holds the permit, and says what happened
            permit = breaker.acquire()
            try:
                async with asyncio.timeout(0.1):
                    await func()
            except TimeoutError:
                breaker.release(permit, Verdict.FAILURE)
                raise
        else:
            async with asyncio.timeout(0.1):
                await breaker.call_async(func)

    assert await hanging_calls(ours) == (5, "OPEN")
    assert await hanging_calls(plain) == (50, "CLOSED")


async def test_12_errors_of_a_decorated_async_generator_are_counted():
    async def broken_streams(make):
        breaker = make(fail_max=3)

        @breaker
        async def stream():
            yield "piece"
            raise Boom

        async def read():
            return [piece async for piece in stream()]

        ends = [await outcome(read()) for _ in range(10)]
        return ends.count("Boom"), state(breaker)

    assert await broken_streams(ours) == (3, "OPEN")
    assert await broken_streams(plain) == (10, "CLOSED")


async def test_13_creating_a_decorated_async_generator_proves_nothing():
    async def create_only(make):
        breaker = await tripped(make)

        @breaker
        async def stream():
            yield "piece"

        await break_over()
        stream()
        return state(breaker)

    assert await create_only(ours) == "OPEN"
    assert await create_only(plain) == "CLOSED"


async def test_14_an_async_generator_given_to_call_async_is_the_callers_mistake():
    async def misuse(make):
        breaker = make(fail_max=3)

        async def stream():
            yield "piece"

        ends = [await outcome(breaker.call_async(stream)) for _ in range(4)]
        return ends, state(breaker)

    assert await misuse(ours) == (["TypeError"] * 4, "CLOSED")
    assert await misuse(plain) == (["TypeError", "TypeError", "refused", "refused"], "OPEN")


async def test_15_the_call_that_trips_it_raises_its_own_error():
    async def errors(make):
        breaker = make(fail_max=3)
        return [await outcome(breaker.call_async(fail)) for _ in range(4)]

    assert await errors(ours) == ["Boom", "Boom", "Boom", "refused"]
    assert await errors(plain) == ["Boom", "Boom", "refused", "refused"]


async def test_16_a_retry_by_error_class_goes_on_after_the_trip():
    async def attempts(make):
        breaker = make(fail_max=2)
        made = 0

        async def work():
            nonlocal made
            made += 1
            raise Boom

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Boom), stop=stop_after_attempt(5), wait=wait_fixed(BREAK + 1), reraise=True,
        )
        await outcome(retrying(breaker.call_async, work))
        return made

    assert await attempts(ours) == 5
    assert await attempts(plain) == 2


async def test_17_the_time_zone_of_the_machine_does_not_matter(wall_clock):
    async def seconds_left(make, hours):
        wall_clock.offset = timedelta(hours=hours)
        breaker = await tripped(make, timeout=60)
        try:
            await breaker.call_async(succeed)
        except aiobreaker.CircuitBreakerError as error:
            try:
                return round(error.time_remaining.total_seconds())
            except TypeError:
                return "TypeError"

    utc, new_york, tokyo = 0, -5, 9
    assert [await seconds_left(ours, zone) for zone in (utc, new_york, tokyo)] == [60, 60, 60]
    assert [await seconds_left(plain, zone) for zone in (utc, new_york, tokyo)] == [60, 18_060, "TypeError"]


async def test_18_setting_the_machines_clock_neither_prolongs_nor_ends_a_break(wall_clock):
    async def set_clock(make):
        wall_clock.step = timedelta(0)
        breaker = await tripped(make)
        wall_clock.step = timedelta(hours=-1)
        await break_over()
        set_back = await outcome(breaker.call_async(succeed))
        wall_clock.step = timedelta(0)
        breaker = await tripped(make)
        wall_clock.step = timedelta(minutes=2)
        return set_back, await outcome(breaker.call_async(succeed))

    assert await set_clock(ours) == ("ok", "refused")
    assert await set_clock(plain) == ("refused", "ok")


async def test_19_opening_calls_nothing_deprecated(wall_clock):
    async def trip(make):
        wall_clock.deprecated = True  # as from Python 3.12 on; in this suite warnings are errors
        breaker = make(fail_max=1)
        return await outcome(breaker.call_async(fail)), state(breaker)

    assert await trip(ours) == ("Boom", "OPEN")
    assert await trip(plain) == ("DeprecationWarning", "CLOSED")


async def test_20_a_state_listener_that_raises_does_not_keep_it_closed():
    class Raising(aiobreaker.CircuitBreakerListener):
        def state_change(self, breaker, old, new):
            raise ValueError

    async def calls_made(make):
        breaker = make(fail_max=3, listeners=[Raising()])
        ends = [await outcome(breaker.call_async(fail)) for _ in range(100)]
        return 100 - ends.count("refused"), state(breaker)

    assert await calls_made(ours) == (3, "OPEN")
    assert await calls_made(plain) == (100, "CLOSED")


async def test_21_a_success_listener_that_raises_does_not_lose_the_answer():
    class Raising(aiobreaker.CircuitBreakerListener):
        def success(self, breaker):
            raise ValueError

    async def answer(make):
        return await outcome(make(listeners=[Raising()]).call_async(succeed))

    assert await answer(ours) == "ok"
    assert await answer(plain) == "ValueError"


async def test_22_a_listener_sees_the_state_it_is_told():
    class Looking(aiobreaker.CircuitBreakerListener):
        def __init__(self):
            self.seen = []

        def state_change(self, breaker, old, new):
            self.seen.append((new.state.name, breaker._state.state.name))

    async def told_and_seen(make):
        await tripped(make, listeners=[looking := Looking()])
        return looking.seen

    assert await told_and_seen(ours) == [("OPEN", "OPEN")]
    assert await told_and_seen(plain) == [("OPEN", "CLOSED")]


async def test_23_excluding_a_class_with_a_metaclass_excludes_only_that_class():
    class Abstract(Exception, metaclass=ABCMeta):
        pass

    async def failures(make):
        breaker = make(fail_max=5, exclude=[Abstract])
        for _ in range(50):
            await outcome(breaker.call_async(fail))
        return state(breaker), breaker.is_system_error(Abstract()), breaker.is_system_error(Boom())

    assert await failures(ours) == ("OPEN", False, True)
    assert await failures(plain) == ("CLOSED", False, False)


async def test_24_a_break_of_zero_is_zero():
    async def after_the_trip(make):
        breaker = await tripped(make, timeout=0)
        return breaker.timeout_duration.total_seconds(), await outcome(breaker.call_async(succeed))

    assert await after_the_trip(ours) == (0, "ok")
    assert await after_the_trip(plain) == (60, "refused")


def value(breaker: Any, attribute: str) -> Any:
    try:
        return getattr(breaker, attribute)
    except TypeError:
        return "TypeError"


async def test_25_opens_at_of_a_breaker_that_never_opened_is_none():
    assert value(ours(), "opens_at") is None
    assert value(plain(), "opens_at") == "TypeError"


async def test_26_time_until_open_after_the_break_is_none():
    async def after_the_break(make):
        breaker = await tripped(make)
        await break_over()
        return value(breaker, "time_until_open"), await outcome(breaker.sleep_until_open())

    assert await after_the_break(ours) == (None, "None")
    assert await after_the_break(plain) == ("TypeError", "TypeError")


async def test_27_what_one_breaker_guards_another_may_guard_too():
    async def inner_and_outer(make):
        inner, outer = make(fail_max=100), make(fail_max=100)

        @inner
        async def work():
            raise Boom

        for _ in range(4):
            await outcome(outer.call_async(work))
        for _ in range(4):
            await outcome(inner.call_async(work))
        return inner.fail_counter, outer.fail_counter

    assert await inner_and_outer(ours) == (8, 4)
    assert await inner_and_outer(plain) == (8, 0)


async def test_28_a_partial_can_be_decorated():
    async def decorated(make):
        try:
            return await make()(partial(succeed, 0.1))()
        except TypeError:
            return "TypeError"

    assert await decorated(ours) == "ok"
    assert await decorated(plain) == "TypeError"


async def test_29_a_bound_method_and_an_object_can_be_decorated():
    class Provider:
        async def ask(self):
            return "ok"

        async def __call__(self):
            return "ok"

    async def decorated(make):
        ends = []
        for function in (Provider().ask, Provider()):
            try:
                ends.append(await make()(function)())
            except TypeError:
                ends.append("TypeError")
        return ends

    assert await decorated(ours) == ["ok", "ok"]
    assert await decorated(plain) == ["TypeError", "TypeError"]


async def test_30_a_coroutine_that_has_not_run_is_no_success():
    async def blocking_call(make):
        breaker = make(fail_max=3)
        for _ in range(2):
            await outcome(breaker.call_async(fail))
        try:
            breaker.call(fail).close()
        except TypeError:
            return "TypeError", breaker.fail_counter
        return "created", breaker.fail_counter

    assert await blocking_call(ours) == ("TypeError", 2)
    assert await blocking_call(plain) == ("created", 0)


async def test_31_taken_out_by_hand_it_stays_out():
    async def an_hour_later(make):
        breaker = make()
        breaker.isolate() if isinstance(breaker, ProviderBreaker) else breaker.open()
        await asyncio.sleep(3600)
        return await outcome(breaker.call_async(succeed))

    assert await an_hour_later(ours) == "refused"
    assert await an_hour_later(plain) == "ok"


async def test_31_a_provider_that_comes_and_goes_does_not_make_it_flap():
    async def transitions_in_forty_calls(make):
        breaker = make(fail_max=1, listeners=[transitions := Transitions()])
        for number in range(40):
            await outcome(breaker.call_async(succeed if number % 2 else fail))
            await break_over()
        return len(transitions.seen)

    def growing(**options):
        breaker = ours(**options)
        breaker.policy = breaker.policy.model_copy(update={"break_max": 300.0})
        return breaker

    assert await transitions_in_forty_calls(growing) == 12
    assert await transitions_in_forty_calls(plain) == 60
