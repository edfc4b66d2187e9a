"""The recorder: finds, prints and audits the history of a router."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator import BreakerPolicy, ProviderConfig, RetryPolicy, Router
from orchestrator.core.errors import ServerError
from orchestrator.core.events import (
    AttemptEnded,
    AttemptOpened,
    AttemptStarted,
    BreakerChanged,
    FailedOver,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    RequestEnded,
    RequestStarted,
    RetryScheduled,
    Waiting,
)
from orchestrator.core.types import Attempt, Completion, Request
from orchestrator.providers.mock import Answer, Fail, MockProvider
from orchestrator.testing import Recorder

ERROR = ServerError("down", status_code=500)
ATTEMPT = Attempt("alpha", "m", 1, 100.0, 2.0)
STARTED = RequestStarted(100.0, 7, "round-robin", False, Request("Hi"))
BEGUN = AttemptStarted(100.0, 7, 1, "alpha", "m")
OPENED = AttemptOpened(101.0, 7, 1, "alpha", 1.0)
DONE = AttemptEnded(102.0, 7, "answer", ATTEMPT)
ENDED = RequestEnded(102.0, 7, "answer", 2.0, (ATTEMPT,), Completion("Hello"))
GOOD = (STARTED, BEGUN, OPENED, DONE, ENDED)


def recorded(*events):
    recorder = Recorder()
    for event in events:
        recorder(event)
    return recorder


def mock(name, *script):
    return MockProvider(ProviderConfig(name=name), script=script)


async def test_it_tells_the_history_of_a_router():
    recorder = Recorder()
    providers = [mock("alpha", Fail(ERROR, delay=1)), mock("beta", Answer("Hello", delay=2))]
    retry = RetryPolicy(max_retries=0)
    async with Router("first-available", providers, retry=retry, listeners=[recorder], seed=1) as router:
        await asyncio.sleep(5)
        assert await router.route("Hi") == "Hello"
    recorder.check_invariants()
    assert recorder.text() == """\
           alpha is added
           beta is added
     0.000 request 1 starts: first-available, plain
     0.000 request 1 attempt 1 at alpha starts
     1.000 request 1 attempt 1 at alpha ends: error ServerError after 1.000 s
     1.000 request 1 gives alpha up: ServerError
     1.000 request 1 attempt 2 at beta starts
     3.000 request 1 attempt 2 at beta ends: answer after 2.000 s
     3.000 request 1 ends: answer after 3.000 s, attempts: 2
           alpha is removed
           beta is removed"""
    assert [attempt.provider for attempt in recorder.attempts] == ["alpha", "beta"]
    assert [request.outcome for request in recorder.requests] == ["answer"]
    assert [event.provider for event in recorder.of(AttemptStarted)] == ["alpha", "beta"]
    recorder.clear()
    assert recorder.text() == ""


async def test_the_history_of_a_busy_router_holds_streams_errors_and_cancellations():
    recorder = Recorder()
    script = [Answer("one two", delay=0.1, gap=0.1), Fail(ERROR, delay=0.1), Answer("three", delay=0.3)]
    providers = [mock("alpha", *script * 9), mock("beta", *script[1:] * 9)]
    breaker = BreakerPolicy(consecutive_failures=2, break_base=1)
    async with Router(providers=providers, breaker=breaker, listeners=[recorder], seed=1) as router:
        async def read():
            async for _ in router.route_stream("Hi", timeout=2):
                pass

        tasks = [asyncio.create_task(read() if n % 2 else router.route("Hi", timeout=2)) for n in range(12)]
        await asyncio.sleep(0.15)
        for task in tasks[:4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    recorder.check_invariants()
    assert len(recorder.requests) == 12
    assert {request.outcome for request in recorder.requests} >= {"answer", "cancelled"}
    assert recorder.of(BreakerChanged)


def test_each_event_has_a_line_with_the_seconds_since_the_first():
    recorder = recorded(
        ProviderAdded("alpha"), STARTED, BEGUN, OPENED, DONE,
        RetryScheduled(102.0, 7, "alpha", 0.25, ERROR), FailedOver(102.0, 7, "alpha", ERROR), Waiting(102.0, 7, 5.0),
        BreakerChanged(103.5, "alpha", "closed", "open", "5 failures"), ProviderPaused(104.0, "alpha", 30.0),
        ENDED, ProviderRemoved("alpha"),
    )
    lines = recorder.text().splitlines()
    assert lines[5] == "     2.000 request 7 tries alpha again in 0.250 s: ServerError"
    assert lines[7:10] == [
        "     2.000 request 7 waits 5.000 s for a provider",
        "     3.500 breaker of alpha: closed -> open, 5 failures",
        "     4.000 alpha pauses for 30.000 s",
    ]
    assert len(lines) == 12


@pytest.mark.parametrize(("events", "problem"), [
    ([STARTED], "request 7 never ends"),
    ([*GOOD, *GOOD], "request 7 starts twice"),
    ([STARTED, BEGUN, DONE, ENDED, ENDED], "ends: answer after 2.000 s, attempts: 1: the request is not under way"),
    ([*GOOD, BEGUN], "attempt 1 at alpha starts: the request is not under way"),
    ([BEGUN], "attempt 1 at alpha starts: the request is not under way"),
    ([STARTED, BEGUN, ENDED], r"attempts \[1\] are still under way"),
    ([STARTED, BEGUN, DONE, DONE, ENDED], "ends: answer after 2.000 s: the attempt is not under way"),
    ([STARTED, BEGUN, DONE, OPENED, ENDED], "first token: the attempt is not under way"),
    ([STARTED, replace(BEGUN, number=2), ENDED], "not the next number"),
    ([STARTED, BEGUN, DONE, replace(ENDED, attempts=())], r"it lists attempts \[\], not \[1\]"),
    ([STARTED, BEGUN, DONE, replace(ENDED, completion=None)], "the event holds something else"),
    ([STARTED, BEGUN, DONE, replace(ENDED, error=ERROR)], "the event holds something else"),
    ([STARTED, BEGUN, DONE, replace(ENDED, outcome="error")], "the event holds something else"),
    ([STARTED, BEGUN, DONE, replace(ENDED, at=99.0)], "earlier than the event before it"),
    ([BreakerChanged(1.0, "a", "closed", "open", ""), BreakerChanged(2.0, "a", "half-open", "closed", "")],
     "the breaker of a goes from half-open to closed, but was open"),
    ([BreakerChanged(1.0, "a", "open", "open", "")], "from open to open"),
])
def test_a_contradiction_is_named_and_the_history_shown(events, problem):
    with pytest.raises(AssertionError, match=problem) as caught:
        recorded(*events).check_invariants()
    assert "in the history:\n" in str(caught.value)


def test_a_consistent_history_passes():
    recorded().check_invariants()
    recorded(*GOOD).check_invariants()
    recorded(STARTED, BEGUN, DONE, replace(ENDED, outcome="cancelled", completion=None)).check_invariants()
