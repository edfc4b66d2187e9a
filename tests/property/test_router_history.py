"""Random providers, faults, callers, cancellations and swaps in virtual time; the invariants hold on every history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    ConnectionFailedError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    OrchestratorError,
    RateLimitError,
    RetryPolicy,
    Router,
    ServerError,
    StreamInterruptedError,
    Timeouts,
)
from orchestrator.core.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    ProviderAdded,
    RequestEnded,
    RequestStarted,
)
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
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
)


@dataclass(frozen=True)
class Caller:
    at: float
    stream: bool
    timeout: float | None
    leave_after: float | None
    stop_after_pieces: int | None


callers = st.builds(
    Caller, st.floats(0, 30), st.booleans(), st.sampled_from([None, 0.5, 3.0, 15.0]),
    st.sampled_from([None, None, None, 0.0, 0.05, 2.0]), st.sampled_from([None, None, 1, 2]),
)
scenarios = st.fixed_dictionaries({
    "scripts": st.lists(st.lists(steps, min_size=1, max_size=8), min_size=1, max_size=3),
    "callers": st.lists(callers, min_size=1, max_size=12),
    "strategy": st.sampled_from(["round-robin", "weighted", "random", "first-available", "least-latency"]),
    "concurrency": st.sampled_from([None, 1, 3]),
    "swap_at": st.sampled_from([None, 1.0, 7.0]),
    "seed": st.integers(0, 5),
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


@dataclass
class History:
    events: list = field(default_factory=list)
    results: list = field(default_factory=list)
    deadlines: dict = field(default_factory=dict)


async def play(scenario: dict) -> tuple[History, Router]:
    history = History()
    router = Router(
        scenario["strategy"], seed=scenario["seed"], timeouts=TIMES, retry=RetryPolicy(max_retries=1),
        breaker=BreakerPolicy(consecutive_failures=2, break_base=3, ramp=5), listeners=[history.events.append],
    )
    for number, script in enumerate(scenario["scripts"]):
        name = "ABC"[number]
        router.add_provider(mock(name, *(step_of(name, s) for s in script), max_concurrency=scenario["concurrency"]))
    tasks = [asyncio.create_task(call(router, caller, history)) for caller in scenario["callers"]]
    if scenario["swap_at"] is not None:
        await asyncio.sleep(scenario["swap_at"])
        await router.update_providers([mock("A", step_of("A", ("answer", 0.1, 0.0)))])
    await asyncio.gather(*tasks)
    await asyncio.sleep(30)  # every deadline, and every break, is over
    return history, router


async def call(router: Router, caller: Caller, history: History) -> None:
    await asyncio.sleep(caller.at)
    seen: list[str] = []

    async def read() -> str:
        if not caller.stream:
            return await router.route("x", timeout=caller.timeout)
        stream = router.route_stream("x", timeout=caller.timeout)
        async for piece in stream:
            seen.append(piece)
            if len(seen) == caller.stop_after_pieces:
                await stream.aclose()
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
    check_results(history)
    check_events(history.events)
    assert leftover == []
    assert all(provider.in_flight == 0 for provider in router.snapshot().values())


def check_results(history: History) -> None:
    for caller, result, seen, took in history.results:
        limit = caller.timeout or TIMES.total
        assert took <= limit + 2.01, "a call outlives its deadline by no more than the closing of a stream"
        owners = {piece[0] for piece in seen}
        assert len(owners) <= 1, "no stream mixes two providers"
        if isinstance(result, str) and result != "stopped":
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
