"""Ten thousand requests that end in every way there is: every counter is back at 0."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    InvalidRequestError,
    LimitPolicy,
    OrchestratorError,
    RateLimitError,
    Router,
    ServerError,
    Timeouts,
    Usage,
)
from orchestrator.core.clock import new_random
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from support import mock

REQUESTS = 10_000
STEPS = (
    (20, Answer("one two three", delay=1, gap=0.2, usage=Usage(50, 50))),
    (4, Answer("one two", delay=3, gap=1, usage=Usage(10, 500))),
    (3, Answer("x")),
    (1, Fail(ServerError("x"), delay=0.5)),
    (1, Fail(InvalidRequestError("x"))),
    (1, BrokenStream(["a ", "b"], ServerError("x"))),
    (0.3, Hang()),
    (0.1, Fail(RateLimitError("x"), delay=0.2)),
    (0.1, Fail(RateLimitError("x", retry_after=3))),
)


def providers(random):
    limits = {
        "rpm": {"rpm_limit": 500}, "tpm": {"tpm_limit": 50_000, "max_concurrency": 30},
        "few": {"max_concurrency": 3, "rpm_limit": 900}, "slow": {"max_concurrency": 6},
    }
    weights, steps = zip(*STEPS, strict=True)
    scripts = {name: random.choices(steps, weights, k=REQUESTS) for name in limits}
    scripts["slow"][:0] = [Fail(AuthenticationError("x"))]
    return [mock(name, *scripts[name], **limit) for name, limit in limits.items()]


class Users:
    """Each asks once, and stays, leaves, or is in a hurry."""

    def __init__(self, router, random):
        self.router = router
        self.random = random
        self.ends = Counter()
        self.kept = []

    async def ask(self, n):
        random = self.random
        priority, timeout = random.choice((-1, 0, 0, 1)), random.choice((None, 2.0, 15.0))
        way = random.choice(("plain", "cancelled", "stream", "read on", "abandoned", "closed", "cancelled stream"))
        options = {"priority": priority, "timeout": timeout}
        try:
            if way == "plain":
                await self.router.route("x", **options)
            elif way == "cancelled":
                await self.cancel(asyncio.create_task(self.router.complete("x", **options)))
            else:
                await self.stream(way, self.router.route_stream("x", **options))
        except OrchestratorError as error:
            self.ends[type(error).__name__] += 1
        else:
            self.ends[way] += 1

    async def cancel(self, task):
        await asyncio.wait([task], timeout=self.random.expovariate(0.2))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def stream(self, way, stream):
        if way == "cancelled stream":
            await self.cancel(asyncio.create_task(anext(stream, None)))
        elif way == "abandoned":
            await anext(stream, None)
            self.kept.append(stream)  # never read on: the deadline returns what it holds
            return
        async for _ in stream:
            if way == "closed":
                break
            if way == "read on":
                await asyncio.sleep(self.random.random())
        await stream.aclose()


async def test_ten_thousand_requests_that_end_in_every_way_leave_every_counter_at_0():
    random = new_random(7)
    router = Router(
        "round-robin", providers(random), seed=7, limits=LimitPolicy(queue_size=100),
        breaker=BreakerPolicy(break_base=2), timeouts=Timeouts(first_token=10, idle=5, total=40, attempt=20),
    )
    users = Users(router, random)
    tasks, longest = [], 0
    for n in range(REQUESTS):
        tasks.append(asyncio.create_task(users.ask(n)))
        if n % 20 == 0:
            await asyncio.sleep(random.expovariate(1.0))
            longest = max(longest, router.queued)
    await asyncio.gather(*tasks)
    assert sum(users.ends.values()) == REQUESTS
    assert set(users.ends) > {"plain", "stream", "CapacityError", "TimeoutError", "InvalidRequestError", "abandoned"}
    assert longest == 100
    await asyncio.sleep(60)
    pool = router._pool
    left = {p.name: (p.in_flight, p.queued, p.probes) for p in router.snapshot().values()}
    assert left == dict.fromkeys(left, (0, 0, 0))
    assert [candidate.limits.in_use for candidate in pool] == [0] * 4
    assert (router.queued, pool.queue.names, pool.room._timer, pool.room._comebacks) == (0, (), None, {})
    assert len(router._watch) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
