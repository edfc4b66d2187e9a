"""Random providers, faults, callers, cancellations and swaps in virtual time; the invariants hold on every history."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    Completion,
    ConnectionFailedError,
    ContextWindowExceededError,
    Finished,
    HedgePolicy,
    InvalidRequestError,
    LimitPolicy,
    MalformedResponseError,
    OrchestratorError,
    ProviderConfig,
    RateLimitError,
    RetryPolicy,
    Router,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    Timeouts,
    Usage,
)
from orchestrator.core.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    ProviderAdded,
    RequestEnded,
    RequestStarted,
)
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from orchestrator.resilience.deadline import CLEAN_UP
from orchestrator.testing.loop import VirtualTimeLoop
from support import mock

WHOLE = ["1 ", "2 ", "3 ", "."]
TIMES = Timeouts(connect=1, first_token=4, idle=4, attempt=8, total=20)
delays = st.sampled_from([0.0, 0.1, 1.0, 5.0, 9.0])
errors = st.sampled_from([
    ServerError("x"), RateLimitError("x", retry_after=2), RateLimitError("x"), AuthenticationError("x"),
    ConnectionFailedError("x"), MalformedResponseError("x"), ContextWindowExceededError("x"),
    InvalidRequestError("x"), KeyError("x"),
])
steps = st.one_of(
    st.builds(lambda delay, gap: ("answer", delay, gap), delays, st.sampled_from([0.0, 0.5, 5.0])),
    st.builds(lambda error, delay: ("fail", error, delay), errors, delays),
    st.builds(lambda error, kept: ("broken", error, kept), errors, st.integers(0, 3)),
    st.just(("hang",)),
    st.builds(lambda manner: ("stubborn", manner), st.sampled_from(["answers", "raises", "lingers"])),
    st.builds(lambda error, kept: ("foreign", error, kept),
              st.sampled_from([KeyError, StopAsyncIteration, asyncio.CancelledError, asyncio.TimeoutError, OSError]),
              st.integers(0, 3)),
)


@dataclass(frozen=True)
class Caller:
    priority: int
    at: float
    stream: bool
    timeout: float | None
    leave_after: float | None
    stop_after_pieces: int | None
    closes: bool


callers = st.builds(
    Caller, st.sampled_from([0, 0, 1]), st.floats(0, 30), st.booleans(), st.sampled_from([None, 0.5, 3.0, 15.0]),
    st.sampled_from([None, None, None, 0.0, 0.05, 2.0]), st.sampled_from([None, None, 1, 2]), st.booleans(),
)
scenarios = st.fixed_dictionaries({
    "scripts": st.lists(st.lists(steps, min_size=1, max_size=8), min_size=1, max_size=3),
    "callers": st.lists(callers, min_size=1, max_size=12),
    "strategy": st.sampled_from(["round-robin", "weighted", "random", "first-available", "least-latency"]),
    "concurrency": st.sampled_from([None, 1, 3]),
    "rpm": st.sampled_from([None, None, 2, 5]),
    "tpm": st.sampled_from([None, None, 20]),
    "swap_at": st.sampled_from([None, 1.0, 7.0]),
    "seed": st.integers(0, 5),
    "stream_plain": st.booleans(),
    "hedge": st.sampled_from([None, None, HedgePolicy(first_delay=0.5), HedgePolicy(first_delay=2, max_hedges=2)]),
    "recovery": st.sampled_from([None, None, "restart", "continue"]),
    "queue": st.sampled_from([1000, 1000, 0, 2]),
    "adaptive": st.booleans(),
})


def step_of(name: str, step: tuple):
    kind, *rest = step
    if kind == "answer":
        pieces = [f"{name}{piece}" for piece in WHOLE]
        return Answer("".join(pieces), delay=rest[0], pieces=pieces, gap=rest[1])
    if kind == "fail":
        return Fail(rest[0], delay=rest[1])
    if kind == "broken":
        return BrokenStream([f"{name}{piece}" for piece in WHOLE[: rest[1]]], rest[0])
    return Hang()


class Odd(BaseProvider):
    """Plays steps as the mock does, and those no mock would: cancellations swallowed, foreign errors, no clean end."""

    supports = EVERYTHING

    def __init__(self, name: str, steps: list[tuple], **config) -> None:
        super().__init__(ProviderConfig(name=name, **config))
        self.steps = steps
        self.calls = 0

    async def open_stream(self, request):
        step = self.steps[min(self.calls, len(self.steps) - 1)]
        self.calls += 1
        pieces = [TextDelta(f"{self.name}{piece}") for piece in WHOLE]
        if step[0] == "stubborn":
            yield pieces[0]
            await self.stubborn(step[1])
        elif step[0] == "foreign":
            for piece in pieces[: step[2]]:
                yield piece
            raise step[1]
        else:
            async with aclosing(mock(self.name, step_of(self.name, step)).open_stream(request)) as events:
                async for event in events:
                    yield event
            return
        for piece in pieces[1:]:
            yield piece
        yield Finished(Completion("", usage=Usage(3, 4)))

    async def stubborn(self, manner: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            if manner == "raises":
                raise RuntimeError("lost") from None
            if manner == "lingers":
                await asyncio.sleep(1000)


@dataclass
class History:
    events: list = field(default_factory=list)
    results: list = field(default_factory=list)
    left_open: list = field(default_factory=list)


async def play(scenario: dict) -> tuple[History, Router]:
    history = History()
    router = Router(
        scenario["strategy"], seed=scenario["seed"], timeouts=TIMES, retry=RetryPolicy(max_retries=1),
        breaker=BreakerPolicy(consecutive_failures=2, break_base=3, ramp=5), listeners=[raising, history.events.append],
        stream_plain_calls=scenario["stream_plain"], hedge=scenario["hedge"], recovery=scenario["recovery"],
        limits=LimitPolicy(queue_size=scenario["queue"], adaptive=scenario["adaptive"], adaptive_initial=2),
    )
    for number, script in enumerate(scenario["scripts"]):
        name = "ABC"[number]
        limits = {"rpm_limit": scenario["rpm"], "tpm_limit": scenario["tpm"]}
        router.add_provider(Odd(name, script, max_concurrency=scenario["concurrency"], **limits))
    tasks = [asyncio.create_task(call(router, caller, history)) for caller in scenario["callers"]]
    if scenario["swap_at"] is not None:
        await asyncio.sleep(scenario["swap_at"])
        await router.update_providers([mock("A", step_of("A", ("answer", 0.1, 0.0)))])
    await asyncio.gather(*tasks)
    await asyncio.sleep(30)  # every deadline, and every break, is over
    return history, router


def raising(event: object) -> None:
    if isinstance(event, AttemptEnded):
        raise RuntimeError("cannot handle this")


async def call(router: Router, caller: Caller, history: History) -> None:
    await asyncio.sleep(caller.at)
    seen: list[str] = []

    async def read() -> str:
        if not caller.stream:
            return await router.route("x", timeout=caller.timeout, priority=caller.priority)
        stream = router.route_stream("x", timeout=caller.timeout, priority=caller.priority)
        async for piece in stream:
            seen.append(piece)
            if len(seen) == caller.stop_after_pieces:
                if caller.closes:
                    await stream.aclose()
                else:
                    history.left_open.append(stream)
                return "stopped"
        return "".join(seen)

    begun = asyncio.get_running_loop().time()
    task = asyncio.create_task(read())
    if caller.leave_after is not None:
        await asyncio.wait([task], timeout=caller.leave_after)
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    history.results.append((caller, result, list(seen), asyncio.get_running_loop().time() - begun))


@settings(max_examples=300, deadline=None)
@given(scenario=scenarios)
def test_the_invariants_hold_on_every_history(scenario):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        history, router = runner.run(play(scenario))
        leftover = [task for task in asyncio.all_tasks(runner.get_loop()) if not task.done()]
    check_results(history, one_author=scenario["recovery"] != "continue")
    check_events(history.events)
    if scenario["rpm"] is not None and scenario["swap_at"] is None:
        check_calls_per_minute(history.events, scenario["rpm"])
    assert leftover == []
    assert len(router._watch) == 0, "no limit outlives its call"
    assert router.queued == 0
    assert all(candidate.limits is None or candidate.limits.in_use == 0 for candidate in router._pool)
    assert all(provider.in_flight == 0 for provider in router.snapshot().values())


def check_results(history: History, *, one_author: bool) -> None:
    for caller, result, seen, took in history.results:
        limit = caller.timeout or TIMES.total
        assert took <= limit + 2 * CLEAN_UP + 0.01, "a call outlives its deadline by no more than a provider's clean-up"
        owners = {piece[0] for piece in seen}
        assert len(owners) <= 1 or not one_author, "no stream mixes two providers"
        if isinstance(result, str) and result != "stopped" and one_author:
            name = result[0]
            assert result == "".join(f"{name}{piece}" for piece in WHOLE), "no cut answer is passed off as whole"
        elif isinstance(result, StreamInterruptedError):
            assert result.partial == "".join(seen)
        elif isinstance(result, BaseException):
            assert isinstance(result, OrchestratorError | asyncio.CancelledError)
            assert not seen or isinstance(result, asyncio.CancelledError)


def check_events(events: list) -> None:
    started = {event.request: event for event in events if isinstance(event, RequestStarted)}
    ended = [event for event in events if isinstance(event, RequestEnded)]
    assert sorted(started) == sorted(event.request for event in ended), "one end per request"
    over: dict[int, float] = {event.request: event.at for event in ended}
    attempts = [(event.request, event.number) for event in events if isinstance(event, AttemptStarted)]
    finished = [(event.request, event.attempt.number) for event in events if isinstance(event, AttemptEnded)]
    assert sorted(attempts) == sorted(finished), "one end per attempt"
    for event in events:
        if isinstance(event, AttemptStarted):
            assert event.at < started[event.request].at + TIMES.total, "no attempt starts after the deadline"
            assert event.at <= over[event.request]
    open_ones: set[str] = set()
    for event in events:
        if isinstance(event, ProviderAdded):
            open_ones.discard(event.provider)  # a new one of that name
        elif isinstance(event, BreakerChanged):
            (open_ones.add if event.new == "open" else open_ones.discard)(event.provider)
        elif isinstance(event, AttemptStarted):
            assert event.provider not in open_ones, "nothing is admitted while the breaker is open"


def check_calls_per_minute(events: list, rpm: int) -> None:
    times: dict[str, list[float]] = {}
    for event in events:
        if isinstance(event, AttemptStarted):
            times.setdefault(event.provider, []).append(event.at)
    for starts in times.values():
        assert all(later - earlier >= 59.999 for earlier, later in zip(starts, starts[rpm:], strict=False))
