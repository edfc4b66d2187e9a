"""One provider is worse than the others: slow, refused, a black hole, coming and going."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, suppress

import pytest

from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    CapacityError,
    CircuitOpenError,
    OrchestratorError,
    ProviderConfig,
    Router,
    ServerError,
)
from orchestrator.core.clock import Random
from orchestrator.core.errors import TimeoutError
from orchestrator.core.events import AttemptEnded, AttemptOpened, AttemptStarted, BreakerChanged, RetryScheduled
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, Fail
from orchestrator.strategies.registry import BUILT_IN
from orchestrator.testing.loop import VirtualTimeLoop
from support import first_available, mock, pieces_of


def now():
    return asyncio.get_running_loop().time()


def only(kind, events):
    return [event for event in events if isinstance(event, kind)]


async def every(seconds, times, ask):
    """Requests that do not wait for each other; returns when all have ended."""
    tasks = []
    for _ in range(times):
        tasks.append(asyncio.create_task(ask()))
        await asyncio.sleep(seconds)
    return await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- speed


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_that_answers_everything_but_slowly_is_out_until_it_is_fast(streamed):
    limp, well, events = mock("limp"), mock("well"), []
    router = first_available(limp, well, breaker=BreakerPolicy(slow_call=2), listeners=[events.append])

    async def ask():
        return "".join(await pieces_of(router.route_stream("x"))) if streamed else await router.route("x")

    limp.delay = 3
    assert await every(0.1, 30, ask) == ["limp"] * 30  # its first answer is still to come
    assert await every(0.1, 10, ask) == ["well"] * 10
    assert router.snapshot()["limp"].breaker == "open"
    limp.delay = 0.5
    answers = await every(0.5, 60, ask)
    assert answers[-20:] == ["limp"] * 20
    assert [(event.new, event.reason) for event in only(BreakerChanged, events)] == [
        ("open", "slow calls, 10 of 10"), ("half-open", "break over"), ("ramp", "probe succeeded"),
        ("closed", "ramp over"),
    ]


async def test_a_slow_probe_keeps_a_slow_provider_out():
    limp, well, events = mock("limp"), mock("well"), []
    router = first_available(limp, well, breaker=BreakerPolicy(slow_call=2), listeners=[events.append])
    limp.delay = 3
    await every(1, 60, lambda: router.route("x"))
    reasons = Counter(event.reason for event in only(BreakerChanged, events))
    assert reasons["probe was slow"] >= 2
    assert set(reasons) == {"slow calls, 10 of 10", "break over", "probe was slow"}


async def test_a_long_stream_is_not_a_slow_one():
    talker = mock("talker", Answer(pieces=["word "] * 20, gap=1, delay=0.5))
    router = first_available(talker, breaker=BreakerPolicy(slow_call=2))
    texts = await every(1, 20, lambda: pieces_of(router.route_stream("x")))
    assert {len(pieces) for pieces in texts} == {20}
    assert router.snapshot()["talker"].breaker == "closed"


async def test_a_caller_in_a_hurry_does_not_take_a_provider_out_for_others():
    steady, other = mock("steady", Answer("steady", delay=1)), mock("other")
    router = first_available(steady, other)
    hurried = [await asyncio.gather(router.route("x", timeout=0.5), return_exceptions=True) for _ in range(100)]
    assert [isinstance(answer, TimeoutError) for (answer,) in hurried] == [True] * 5 + [False] * 95
    snapshot = router.snapshot()["steady"]
    assert (len(steady.calls), snapshot.breaker, snapshot.failures) == (100, "closed", 0)
    assert await router.route("x") == "steady"


# ---------------------------------------------------------------- a key that is refused


async def test_a_refused_key_opens_at_once_and_is_tried_again_rarely():
    refused, well = mock("refused", Fail(AuthenticationError("bad key"))), mock("well")
    events = []
    router = first_available(refused, well, listeners=[events.append])
    assert await every(0.5, 360, lambda: router.route("x")) == ["well"] * 360
    tried = [event.at for event in only(AttemptStarted, events) if event.provider == "refused"]
    assert tried[0] == 0
    assert 1 <= len(tried[1:]) <= 2
    assert tried[1] >= 60


# ---------------------------------------------------------------- a black hole


@pytest.mark.parametrize("strategy", sorted(BUILT_IN))
async def test_a_provider_that_fails_fastest_gets_next_to_nothing(strategy):
    hole = mock("hole", Fail(ServerError("gone"), delay=0.005))
    others = mock("b", Answer("b", delay=0.3)), mock("c", Answer("c", delay=0.3))
    wire = []
    router = Router(strategy, [hole, *others], seed=5, listeners=[
        lambda event: wire.append(event.at) if isinstance(event, AttemptStarted) and event.provider == "hole" else None
    ])
    answers = await every(1 / 50, 1000, lambda: router.route("x"))
    assert set(answers) <= {"b", "c"}
    assert len(wire) <= 15
    assert sum(at >= 1 for at in wire) <= 3, "probes"


# ---------------------------------------------------------------- all of them


class Out(BaseProvider):
    """Down for the first minute, whoever asks."""

    async def generate(self, prompt, params=None):
        await asyncio.sleep(0.01)
        if now() < 60:
            raise ServerError("down")
        await asyncio.sleep(0.3)
        return "back"


@pytest.mark.parametrize("patience", [1, 100])
async def test_in_a_total_outage_the_wire_stays_quiet_and_its_end_is_noticed_at_once(patience):
    events = []
    router = Router(providers=[Out(ProviderConfig(name=name)) for name in "abc"], seed=3, listeners=[events.append])
    answers = await every(1 / 25, 65 * 25, lambda: router.route("x", timeout=patience))
    wire = [event.at for event in only(AttemptStarted, events) if 5 < event.at < 60]
    assert len(wire) <= 3 * 2 * 55 + 20, "two a second for each, and the ordinary probes"
    first = min(event.at for event in only(AttemptEnded, events) if event.outcome == "answer")
    assert first < 61.5
    assert [answer for answer in answers[62 * 25:] if answer != "back"] == []
    if patience == 100:
        waited = sum(answer == "back" for answer in answers[:60 * 25])
        refused = sum(isinstance(answer, CapacityError) for answer in answers[:60 * 25])
        assert waited + refused >= 59 * 25, "a probe in vain costs the request that made it nothing"
        assert waited >= 990, "the queue holds a thousand"


async def test_a_lone_request_in_an_outage_asks_each_provider_early_only_once():
    providers = [mock(name, Fail(ServerError("down"))) for name in "ab"]
    events = []
    router = first_available(*providers, listeners=[events.append])
    for _ in range(6):
        with pytest.raises(OrchestratorError):
            await router.route("x", timeout=0.1)
    before, begun = sum(len(provider.calls) for provider in providers), now()
    with pytest.raises(OrchestratorError):
        await router.route("x", timeout=30)
    assert sum(len(provider.calls) for provider in providers) - before <= 8
    early = [event.at - begun for event in events if begun <= getattr(event, "at", 0) < begun + 2]
    assert len([at for at in early if at > 0.4]) >= 2
    assert [event for event in only(RetryScheduled, events) if begun <= event.at < begun + 2] == []


async def test_a_probe_is_made_by_whoever_has_the_most_time_left():
    class Slow(Out):
        async def generate(self, prompt, params=None):
            if now() < 60:
                raise ServerError("down")
            await asyncio.sleep(0.8)
            return "back"

    router = first_available(Slow(ProviderConfig(name="a", max_retries=0)))
    answers = await every(1 / 25, 65 * 25, lambda: router.route("x", timeout=1.5))
    assert answers[62 * 25:] == ["back"] * (3 * 25), "else each probe would be cut by the deadline of its request"


async def test_nobody_waits_for_a_key_that_is_refused_and_a_new_one_is_tried_at_once():
    provider = mock("a", Fail(AuthenticationError("bad key")), "ok", api_key="old")
    router = first_available(provider)
    with pytest.raises(AuthenticationError):
        await router.route("x")
    with pytest.raises(CircuitOpenError, match="credentials refused"):
        await router.route("x")
    assert now() == 0
    provider.config.weight = 2
    assert router.snapshot()["a"].breaker == "open"
    provider.config.api_key = "new"
    assert await router.route("x") == "ok"


# ---------------------------------------------------------------- coming and going


async def test_a_provider_that_comes_and_goes_for_an_hour_is_asked_less_and_less():
    class ComesAndGoes(BaseProvider):
        healed = False

        async def generate(self, prompt, params=None):
            if not self.healed and now() % 20 >= 10:
                raise ServerError("down")
            return "on and off"

    flaky, events = ComesAndGoes(ProviderConfig(name="flaky", max_retries=0)), []
    router = first_available(flaky, mock("well"), breaker=BreakerPolicy(break_jitter=0), listeners=[events.append])
    answers = await every(1, 3600, lambda: router.route("x"))
    assert set(answers) == {"on and off", "well"}
    breaks = [event.retry_after for event in only(BreakerChanged, events) if event.new == "open"]
    assert breaks[:7] == [5, 10, 20, 40, 80, 160, 300]
    assert len(breaks) <= 7 + 3600 // 300
    late = [event for event in only(AttemptStarted, events) if event.provider == "flaky" and event.at > 700]
    assert len(late) < 2900 / 10

    flaky.healed = True
    await every(10, 90, lambda: router.route("x"))  # one last break and seven healthy windows
    flaky.healed = False
    events.clear()
    await every(1, 20, lambda: router.route("x"))
    assert next(event.retry_after for event in only(BreakerChanged, events) if event.new == "open") == 5


# ---------------------------------------------------------------- probes


class ProbesUnderWay:
    """Told of every event; knows the calls that were begun half-open and are still undecided in that state."""

    def __init__(self, allowed):
        self.allowed = allowed
        self.half_open = Counter()
        self.under_way = {}
        self.seen = Counter()

    def __call__(self, event):
        if isinstance(event, BreakerChanged):
            self.seen[event.new] += 1
            self.seen[event.reason] += 1
            self.under_way[event.provider] = set() if event.new == "half-open" else None
        elif isinstance(event, AttemptStarted):
            probes = self.under_way.get(event.provider)
            if probes is not None:
                probes.add((event.request, event.number))
                assert len(probes) <= self.allowed
        elif isinstance(event, AttemptOpened | AttemptEnded):
            number = event.number if isinstance(event, AttemptOpened) else event.attempt.number
            provider = event.provider if isinstance(event, AttemptOpened) else event.attempt.provider
            (self.under_way.get(provider) or set()).discard((event.request, number))


class Moody(BaseProvider):
    """Well or down for a while, drawn anew again and again; while down it fails, hangs, or breaks off."""

    def __init__(self, name, random):
        super().__init__(ProviderConfig(name=name, max_retries=0))
        self.random = random
        self.down = False
        self.turns_at = 0.0

    async def generate(self, prompt, params=None):
        while now() >= self.turns_at:
            self.down = not self.down
            self.turns_at += self.random.expovariate(1 / 4)
        await asyncio.sleep(self.random.expovariate(2))
        if self.down:
            if self.random.random() < 0.2:
                await asyncio.sleep(1000)
            raise ServerError("down")
        return "ok"


async def moody_run(seed):
    random = Random(seed)
    probes = ProbesUnderWay(random.choice([1, 1, 2, 3]))
    failures = []

    def listen(event):
        try:
            probes(event)
        except AssertionError as error:
            failures.append(error)

    policy = BreakerPolicy(
        consecutive_failures=2, break_base=1, break_max=4, probes=probes.allowed, probe_timeout=3, ramp=1,
    )
    router = Router("random", [Moody("a", random), Moody("b", random)], breaker=policy, seed=seed, listeners=[listen])

    async def ask():
        with suppress(OrchestratorError):
            if random.random() < 0.5:
                await router.route("x", timeout=random.choice([1, 10]))
                return
            async with aclosing(router.route_stream("x", timeout=random.choice([1, 10]))) as pieces:
                async for _ in pieces:
                    if random.random() < 0.3:
                        break

    tasks = []
    for _ in range(16):
        tasks.append(asyncio.create_task(ask()))
        await asyncio.sleep(random.expovariate(4))
        if random.random() < 0.4:
            random.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert failures == []
    assert all(snapshot.in_flight == 0 for snapshot in router.snapshot().values())
    return probes.seen


def test_never_more_probes_are_under_way_than_set_whatever_fails_hangs_or_is_cancelled():
    seen = Counter()
    for seed in range(200):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            seen += runner.run(moody_run(seed))
    assert min(seen[what] for what in ("open", "half-open", "ramp", "break over", "last resort")) > 50, seen
