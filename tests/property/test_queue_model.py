"""The queue against a model: as a structure, and with a router around it whose providers answer when they are told to.

Whatever happens in whatever order: among those who could use a provider the more important, then the older, go first;
nobody sleeps while there is room; the bound holds; and nothing is left behind.
"""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from orchestrator import (
    AuthenticationError,
    CapacityError,
    Completion,
    InvalidRequestError,
    LimitPolicy,
    ProviderConfig,
    RateLimitError,
    Router,
    Timeouts,
)
from orchestrator.core.events import AttemptStarted, FailedOver, RequestEnded, RequestStarted, Waiting
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.resilience.queue import FairQueue, Ticket
from orchestrator.testing.loop import VirtualTimeLoop
from support import NEVER_OPEN, NO_RETRY

SIZE = 4
NAMES = ("a", "b", "c")
some = st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names)))
ranks = st.tuples(st.integers(-1, 1), st.integers(0, 9))


class Structure(RuleBasedStateMachine):
    """``FairQueue`` against a list that is sorted anew."""

    tickets = Bundle("tickets")

    def __init__(self):
        super().__init__()
        self.queue = FairQueue(SIZE)
        self.model: list[Ticket] = []
        self.names: dict[Ticket, tuple[str, ...]] = {}

    @rule(target=tickets, rank=ranks, names=some)
    def put(self, rank, names):
        ticket = Ticket(rank)
        refused = self.queue.put(ticket, names)
        # Of equal ranks (never in a router) the one that was there comes first.
        self.model = sorted([*self.model, ticket], key=lambda t: t.rank)
        assert refused is (self.model.pop() if len(self.model) > SIZE else None)
        if refused is ticket:
            return multiple()
        self.names[ticket] = names
        return ticket

    @rule(ticket=tickets, names=some)
    def change(self, ticket, names):
        if ticket in self.model:
            assert self.queue.put(ticket, names) is None
            self.names[ticket] = names

    @rule(ticket=consumes(tickets))
    def remove(self, ticket):
        names = self.names.pop(ticket) if ticket in self.model else ()
        assert self.queue.remove(ticket) == names
        assert self.queue.remove(ticket) == ()
        if ticket in self.model:
            self.model.remove(ticket)

    @invariant()
    def they_agree(self):
        assert [t.rank for t in self.queue.tickets] == [t.rank for t in self.model]
        assert set(self.queue.tickets) == set(self.model)
        for name in NAMES:
            claims = [t for t in self.model if name in self.names[t]]
            assert self.queue.length(name) == len(claims)
            first = next(iter(self.queue.claims(name)), None)
            assert (first.rank if first else None) == (claims[0].rank if claims else None)
        assert set(self.queue.names) == {name for t in self.model for name in self.names[t]}


class Told(BaseProvider):
    """Answers, or fails, when it is told to."""

    def __init__(self, config, supports):
        super().__init__(config)
        self.supports = supports
        self.calls: list[asyncio.Future[str]] = []

    async def complete(self, request):
        call = asyncio.get_running_loop().create_future()
        self.calls.append(call)
        try:
            return Completion(await call)
        finally:
            self.calls.remove(call)


CONVERSATION = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]
OUTCOMES = {"answer": None, "theirs": AuthenticationError, "ours": InvalidRequestError, "limited": RateLimitError}


class Waits(RuleBasedStateMachine):
    """A router: ``a`` takes everything, one call at a time; ``b`` no conversations, two at a time."""

    def __init__(self):
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.providers = {
            "a": Told(ProviderConfig(name="a", max_concurrency=1), EVERYTHING),
            "b": Told(ProviderConfig(name="b", max_concurrency=2), frozenset()),
        }
        self.router = Router(
            "first-available", self.providers.values(), seed=1, retry=NO_RETRY, breaker=NEVER_OPEN,
            limits=LimitPolicy(queue_size=SIZE), timeouts=Timeouts(total=1000, attempt=1000), listeners=[self.hear],
        )
        self.tasks: list[asyncio.Task] = []
        self.asked: dict[int, tuple[int, bool]] = {}  # request: its priority, and whether it is a conversation
        self.next: tuple[int, bool] = (0, False)
        self.waiting: set[int] = set()
        self.spent: set[tuple[int, str]] = set()

    def hear(self, event):
        match event:
            case RequestStarted():
                self.asked[event.request] = self.next
            case Waiting():
                self.waiting.add(event.request)
            case FailedOver():
                self.spent.add((event.request, event.provider))
            case AttemptStarted():
                self.waiting.discard(event.request)
                ahead = [n for n in self.waiting if self.rank(n) < self.rank(event.request)]
                assert not [n for n in ahead if self.could_use(n, event.provider)], "somebody was overtaken"
            case RequestEnded():
                self.waiting.discard(event.request)

    def rank(self, request):
        return self.asked[request][0], request

    def could_use(self, request, name):
        provider = self.providers[name]
        fits = not self.asked[request][1] or provider.supports
        return fits and provider.config.enabled and (request, name) not in self.spent

    def run(self, seconds=0.0):
        async def pass_time():
            await asyncio.sleep(seconds)
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(pass_time())

    @rule(priority=st.integers(-1, 1), conversation=st.booleans())
    def ask(self, priority, conversation):
        self.next = priority, conversation
        before = self.router.queued
        self.forget_done()
        prompt = CONVERSATION if conversation else "x"
        self.tasks.append(self.loop.create_task(self.router.complete(prompt, priority=priority)))
        self.run()
        assert before == SIZE or not any(isinstance(error, CapacityError) for error in self.forget_done())

    def forget_done(self):
        done = [task for task in self.tasks if task.done()]
        self.tasks = [task for task in self.tasks if not task.done()]
        return [task.exception() for task in done if not task.cancelled()]

    @rule(name=st.sampled_from("ab"), n=st.integers(0, 3), outcome=st.sampled_from(sorted(OUTCOMES)),
          together=st.booleans())
    def finish(self, name, n, outcome, together):
        calls = self.providers[name].calls
        for call in calls[:] if together else calls[n : n + 1]:
            if outcome == "answer":
                call.set_result("x")
            elif outcome == "limited":
                call.set_exception(RateLimitError("x", retry_after=5))
            else:
                call.set_exception(OUTCOMES[outcome]("x"))
        self.run()

    @rule(n=st.integers(0, 9), name=st.sampled_from("ab"), first=st.booleans())
    def cancel(self, n, name, first):
        """Maybe in the moment in which a call ends."""
        calls = self.providers[name].calls
        if first and calls:
            calls[0].set_result("x")
        if n < len(self.tasks):
            self.tasks[n].cancel()
        self.run()

    @rule(concurrency=st.integers(1, 3))
    def reconfigure(self, concurrency):
        self.providers["a"].config.max_concurrency = concurrency
        self.run()

    @rule(on=st.booleans())
    def switch(self, on):
        self.providers["b"].config.enabled = on
        self.run()

    @rule(seconds=st.sampled_from([0.01, 0.2, 5]))
    def pass_time(self, seconds):
        self.run(seconds)

    @precondition(lambda self: len(self.tasks) > 30)
    @rule()
    def drop_all(self):
        for task in self.tasks:
            task.cancel()
        self.run()

    @invariant()
    def the_bound_holds_and_only_waiting_requests_are_in_the_queue(self):
        room = self.router._pool.room
        assert {place.rank[1] for place in room.queue.tickets} == self.waiting
        assert self.router.queued <= SIZE

    @invariant()
    def nobody_sleeps_while_there_is_room(self):
        room, at = self.router._pool.room, self.loop.time()
        for request in self.waiting:
            for name in "ab":
                if self.could_use(request, name) and self.router._pool.get(name).wait_time(at) <= 0:
                    # Only where it is eased in after a pause, and then a timer is set.
                    assert name in room._comebacks
                    assert room._timer is not None

    def teardown(self):
        for task in self.tasks:
            task.cancel()
        self.run()
        self.forget_done()
        room = self.router._pool.room
        assert self.router.queued == 0
        assert room.queue.names == ()
        assert (room._timer, room._comebacks) == (None, {})
        assert [(p.in_flight, p.queued) for p in self.router.snapshot().values()] == [(0, 0)] * 2
        assert [candidate.limits.in_use for candidate in self.router._pool] == [0, 0]
        self.loop.close()


TestStructure = Structure.TestCase
TestStructure.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestWaits = Waits.TestCase
TestWaits.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
