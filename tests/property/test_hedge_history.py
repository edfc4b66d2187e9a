"""Races of random length, failure and cancellation, in virtual time: one answer, one end, and nothing is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from orchestrator import (
    BreakerPolicy,
    Completion,
    ConnectionFailedError,
    Finished,
    HedgePolicy,
    InvalidRequestError,
    MalformedResponseError,
    OrchestratorError,
    ProviderConfig,
    RateLimitError,
    RetryPolicy,
    Router,
    ServerError,
    TextDelta,
    Timeouts,
    Usage,
)
from orchestrator.core.clock import new_random
from orchestrator.core.events import AttemptEnded, AttemptStarted, FailedOver, RequestEnded, RequestStarted
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.resilience.deadline import CLEAN_UP
from orchestrator.testing import Recorder
from orchestrator.testing.loop import VirtualTimeLoop

PIECES = ("1 ", "2 ", ".")
TOTAL = 12.0
ERRORS = (
    ServerError("x"), ConnectionFailedError("x"), MalformedResponseError("x"), RateLimitError("x", retry_after=1),
    InvalidRequestError("x"), KeyError("x"),
)
DELAYS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.5, 4.0, 100.0)  # few and equal, so that much happens in one instant


class Erratic(BaseProvider):
    """Waits, then answers, fails, breaks off, or does not want to be cancelled; as chance has it."""

    supports = EVERYTHING

    def __init__(self, name, random, **config):
        super().__init__(ProviderConfig(name=name, **config))
        self.random = random
        self.streams_usage = random.random() < 0.5
        self.calls = 0

    async def open_stream(self, request):
        random = self.random
        self.calls += 1
        delay, gap = random.choice(DELAYS), random.choice((0.0, 0.0, 0.25, 3.0))
        error = random.choice(ERRORS) if random.random() < 0.35 else None
        breaks_at = random.randrange(len(PIECES))
        stubborn = random.random() < 0.1
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            if not stubborn:
                raise
            await asyncio.sleep(random.choice((0.0, 0.25, 50.0)))
        for number, piece in enumerate(PIECES):
            if error is not None and number == breaks_at:
                raise error.with_traceback(None)
            yield TextDelta(self.name + piece)
            await asyncio.sleep(gap)
        yield Finished(Completion("", usage=Usage(3, 4)))

    async def complete(self, request):
        text = ""
        async for event in self.open_stream(request):
            if isinstance(event, TextDelta):
                text += event.text
        return Completion(text, usage=Usage(3, 4))


@dataclass
class Played:
    events: list
    results: list
    router: Router
    leftover: list


async def ask(router, random, results):
    stream, leave_after = random.random() < 0.5, random.choice((None, None, None, 0.0, 0.5, 1.0, 1.25, 2.0))
    seen = []

    async def read():
        if not stream:
            return await router.route("x")
        async for piece in router.route_stream("x"):
            seen.append(piece)  # what was seen before an error is the point
        return "".join(seen)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    task = asyncio.create_task(read())
    if leave_after is not None:
        await asyncio.wait([task], timeout=leave_after)
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    results.append((leave_after, result, seen, loop.time() - begun))


async def play(seed):
    random = new_random(seed)
    recorder, results = Recorder(), []
    router = Router(
        random.choice(("first-available", "round-robin", "least-latency")), seed=seed,
        hedge=HedgePolicy(first_delay=random.choice((0.5, 1.0)), max_hedges=random.choice((1, 2)), min_samples=5),
        retry=RetryPolicy(max_retries=1, base_delay=0.5, budget_floor=random.choice((2, 10, 100))),
        breaker=BreakerPolicy(consecutive_failures=3, break_base=2, ramp=2), stream_plain_calls=random.random() < 0.5,
        timeouts=Timeouts(first_token=3, idle=2, attempt=6, total=TOTAL), listeners=[recorder],
    )
    for name in "ABC"[: random.choice((2, 3))]:
        router.add_provider(Erratic(name, random, max_concurrency=random.choice((None, 2))))
    tasks = []
    for _ in range(random.randrange(1, 12)):
        tasks.append(asyncio.create_task(ask(router, random, results)))
        await asyncio.sleep(random.choice((0.0, 0.0, 0.5, 1.0)))
    await asyncio.gather(*tasks)
    await asyncio.sleep(60)  # whoever did not want to be cancelled has been by now
    leftover = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return Played(list(recorder.events), results, router, leftover), recorder


def run(seed):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(play(seed))


@pytest.mark.parametrize("block", range(20))
def test_the_invariants_hold_in_every_race(block):
    races = 0
    for seed in range(20 * block, 20 * block + 20):
        played, recorder = run(seed)
        recorder.check_invariants()
        check_results(played.results)
        check_events(played.events)
        assert played.leftover == [], seed
        assert len(played.router._watch) == 0
        assert all(state.in_flight == 0 for state in played.router.snapshot().values()), seed
        races += sum(attempt.lost for e in played.events if isinstance(e, RequestEnded) for attempt in e.attempts)
    assert races > 5, "it is races that are tested here"


def check_results(results):
    for leave_after, result, seen, took in results:
        assert took <= TOTAL + 2 * CLEAN_UP + 0.01
        text = result if isinstance(result, str) else "".join(seen)
        assert len(set(text) & set("ABC")) <= 1, "an answer comes from one provider"
        if isinstance(result, str):
            assert result == "".join(text[0] + piece for piece in PIECES)
        else:
            assert isinstance(result, OrchestratorError | asyncio.CancelledError)
            assert leave_after is not None or isinstance(result, OrchestratorError), "nobody cancelled it"


def check_events(events):
    started = [e.request for e in events if isinstance(e, RequestStarted)]
    ended = [e for e in events if isinstance(e, RequestEnded)]
    assert sorted(started) == sorted(e.request for e in ended), "one end per request"
    begun = [(e.request, e.number) for e in events if isinstance(e, AttemptStarted)]
    assert sorted(begun) == sorted((e.request, e.attempt.number) for e in events if isinstance(e, AttemptEnded))
    for end in ended:
        if end.outcome != "answer":
            continue
        answering = [a for a in end.attempts if a.provider == end.completion.provider and not a.lost and not a.error]
        assert len(answering) == 1, "and it is known which one answered"
        assert all(a.error or a.lost or a is answering[0] for a in end.attempts)
    hedges = sum(e.hedge for e in events if isinstance(e, AttemptStarted))
    given_up = sum(isinstance(e, FailedOver) for e in events)
    retries = len(begun) - len(started) - hedges
    assert hedges <= 2 * len(started)
    assert retries <= given_up + 2 * len(started)
