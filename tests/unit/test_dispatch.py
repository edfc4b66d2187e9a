"""What the dispatcher does on its way from one candidate to the next: seen in its events, its times, its order."""

from __future__ import annotations

import asyncio

import pytest

from held import Held, ask
from orchestrator import (
    AllProvidersFailedError,
    BreakerPolicy,
    CapacityError,
    CircuitOpenError,
    InvalidRequestError,
    RateLimitError,
    RetryPolicy,
    Router,
    RoutingStrategy,
    ServerError,
    TimeoutError,
    Timeouts,
)
from orchestrator.core.config import ProviderConfig
from orchestrator.core.events import FailedOver, RetryScheduled, Waiting
from orchestrator.core.types import Completion, ReasoningDelta
from orchestrator.providers.base import EVERYTHING, BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from support import NO_RETRY, first_available, kinds, mock, pieces_of, settle

SHORT = Timeouts(total=2, attempt=2, first_token=2)


async def test_with_little_time_left_the_next_one_is_asked_without_waiting():
    events = []
    router = first_available(mock("a", Fail(ServerError("x"), delay=1.5)), mock("b"), retry=NO_RETRY, timeouts=SHORT,
                             listeners=[events.append])
    assert await router.route("x") == "b"
    assert "Waiting" not in kinds(events)


async def test_a_broken_stream_too_goes_on_elsewhere_without_waiting():
    events = []
    providers = mock("a", BrokenStream(["one "])), mock("b", Fail(ServerError("x"), delay=1.5)), mock("c", "two")
    router = first_available(*providers, retry=NO_RETRY, timeouts=SHORT, recovery="restart", listeners=[events.append])
    await pieces_of(router.stream("x"))
    assert "Waiting" not in kinds(events)
    assert [event.provider for event in events if isinstance(event, FailedOver)] == ["b"]
    assert [len(provider.calls) for provider in providers] == [1, 1, 1]


async def test_who_refuses_to_continue_is_asked_the_other_way_without_waiting():
    events = []
    other = mock("b", Fail(InvalidRequestError("no")), "one two")
    other.supports = EVERYTHING | {"prefill"}
    router = first_available(mock("a", BrokenStream(["one "]), max_retries=0), other, recovery="continue",
                             listeners=[events.append])
    assert "".join(await pieces_of(router.route_stream("x"))) == "one two"
    assert "Waiting" not in kinds(events)


async def test_who_takes_a_good_request_for_invalid_is_passed_over_and_that_is_told():
    events = []
    providers = mock("a", BrokenStream(["one "])), mock("b", Fail(InvalidRequestError("no"))), mock("c", "two")
    router = first_available(*providers, recovery="restart", listeners=[events.append])
    await pieces_of(router.stream("x"))
    assert [event.provider for event in events if isinstance(event, FailedOver)] == ["b"]


async def test_of_those_whose_stream_broke_the_first_is_asked_again_first_and_without_waiting():
    events = []
    providers = mock("a", BrokenStream(["one "]), "two"), mock("b", BrokenStream(["one "]), "two")
    router = first_available(*providers, recovery="restart", listeners=[events.append])
    await pieces_of(router.stream("x"))
    assert [len(provider.calls) for provider in providers] == [2, 1]
    assert "Waiting" not in kinds(events)


async def test_of_those_whose_stream_broke_one_that_has_left_is_passed_over():
    gone, other = mock("a", BrokenStream(["one "])), mock("b", BrokenStream(["one ", "two "]), "three")
    router = first_available(gone, other, recovery="restart")
    stream = router.stream("x")
    while not other.calls:
        await anext(stream)
    await router.remove_provider("a")
    await pieces_of(stream)
    assert [len(provider.calls) for provider in (gone, other)] == [1, 2]


class Recording(RoutingStrategy):
    """Repeats the first candidate; remembers whom it was given."""

    def __init__(self):
        self.given = []

    def order(self, candidates, request):
        self.given.append([view.name for view in candidates])
        return [candidates[0], candidates[0]]


async def test_whoever_a_strategy_repeats_or_leaves_out_the_next_is_asked_without_waiting():
    events = []
    router = Router(Recording(), [mock("a", Fail(ServerError("x"))), mock("b")], retry=NO_RETRY,
                    listeners=[events.append])
    assert await router.route("x") == "b"
    assert "Waiting" not in kinds(events)


async def test_a_strategy_orders_only_those_who_may_still_be_asked():
    strategy = Recording()
    router = Router(strategy, [mock("a", BrokenStream(["one "])), mock("b", "two")], recovery="restart")
    await pieces_of(router.stream("x"))
    assert strategy.given == [["a", "b"], ["b"]]


async def test_a_strategy_that_yields_no_candidate_is_told_so(caplog):
    class Names(RoutingStrategy):
        def order(self, candidates, request):
            return [view.name for view in candidates]

    assert await Router(Names(), [mock("a")]).route("x") == "a"
    assert "order() yielded 'a', which is no candidate" in caplog.text
    assert [record.name for record in caplog.records] == ["orchestrator"]


async def test_the_deadline_is_the_error_whatever_failed_before():
    events = []
    router = first_available(mock("a", Fail(ServerError("x"))), mock("b", Hang()), mock("c"), retry=NO_RETRY,
                             timeouts=SHORT, listeners=[events.append])
    with pytest.raises(TimeoutError, match="deadline"):
        await router.route("x")
    assert [event.provider for event in events if isinstance(event, FailedOver)] == ["a"]


async def test_a_provider_that_speaks_of_a_deadline_of_its_own_is_followed_by_the_next():
    assert await first_available(mock("a", Fail(TimeoutError("x", phase="total"))), mock("b")).route("x") == "b"


async def test_a_429_is_asked_about_again_only_within_the_budget():
    limited = mock("a", Fail(RateLimitError(retry_after=1)))
    with pytest.raises(RateLimitError):
        await first_available(limited, retry=RetryPolicy(budget_ratio=0, budget_floor=0)).route("x")
    assert len(limited.calls) == 1


async def test_of_several_hints_the_soonest_is_told():
    providers = [mock(name, Fail(RateLimitError(retry_after=after))) for name, after in (("a", 200), ("b", 100))]
    with pytest.raises(RateLimitError) as caught:
        await first_available(*providers).route("x")
    assert caught.value.retry_after == pytest.approx(100, abs=0.1)
    providers.append(mock("c", Fail(ServerError("x"))))
    with pytest.raises(AllProvidersFailedError) as caught:
        await first_available(*providers).route("x")
    assert caught.value.retry_after == pytest.approx(100, abs=0.1)
    assert [attempt.provider for attempt in caught.value.attempts][:2] == ["a", "b"]


def waits(events):
    return [event.delay for event in events if isinstance(event, Waiting)]


async def test_a_wait_is_told_once_with_the_longest_it_may_take():
    events = []
    router = first_available(mock("a", Fail(RateLimitError(retry_after=3)), "a"), listeners=[events.append])
    assert await router.route("x") == "a"
    assert waits(events) == [pytest.approx(3, abs=0.01)]


async def test_who_waits_for_a_call_under_way_may_wait_until_its_deadline():
    events = []
    router = first_available(mock("a", Answer("a", delay=5), max_concurrency=1), listeners=[events.append])
    first = asyncio.create_task(router.route("x"))
    await settle()
    assert await router.route("y", timeout=20) == "a"
    assert waits(events) == [20]
    await first


async def test_who_waits_behind_another_that_was_woken_may_wait_until_its_deadline():
    events = []
    provider = Held(max_concurrency=1)
    router = first_available(provider, listeners=[events.append])
    ask(router, "first", "waiting")
    await settle()
    provider.answer()
    ask(router, "newcomer", timeout=50)  # there is room, and somebody ahead of it
    await settle()
    assert provider.asked == ["first", "waiting"]
    assert waits(events)[-1] == 50


async def test_who_could_not_be_served_before_its_deadline_does_not_wait():
    events = []
    router = first_available(mock("a", rpm_limit=1), listeners=[events.append])
    await router.route("x")
    with pytest.raises(CapacityError) as caught:
        await router.route("y", timeout=59)
    assert (waits(events), caught.value.retry_after) == ([], pytest.approx(60))
    assert asyncio.get_running_loop().time() == 0
    assert await router.route("z", timeout=61) == "a"


async def tripped(provider, **options):
    """A router whose only provider's circuit has just opened."""
    router = first_available(provider, retry=NO_RETRY, **options)
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    return router


async def test_a_last_resort_that_fails_may_be_asked_again_after_its_break():
    events = []
    provider = mock("a", *[Fail(ServerError("x"))] * 6, "a")
    router = await tripped(provider, timeouts=Timeouts(total=20), listeners=[events.append])
    assert await router.route("x") == "a"
    assert waits(events) == [pytest.approx(0.5), pytest.approx(4.5, abs=0.6)]
    assert len(provider.calls) == 7


async def test_a_probe_is_for_who_has_the_most_time_and_the_others_follow():
    router = await tripped(mock("a", *[Fail(ServerError("x"))] * 5, "a"), timeouts=Timeouts(total=3))
    requests = [router.route("x", timeout=seconds) for seconds in (1, 3)]
    assert await asyncio.gather(*requests) == ["a", "a"]
    assert asyncio.get_running_loop().time() == pytest.approx(0.5, abs=0.1)


async def test_an_isolated_provider_is_not_waited_for():
    router = await tripped(mock("a", Fail(ServerError("x"))), timeouts=Timeouts(total=3))
    router.isolate("a")
    with pytest.raises(CircuitOpenError) as caught:
        await router.route("x")
    assert (caught.value.retry_after, asyncio.get_running_loop().time()) == (None, 0)


async def test_who_is_refused_when_it_is_woken_goes_on_waiting_and_that_is_not_told_again(monkeypatch):
    events = []
    router = first_available(mock("a"), listeners=[events.append])

    def refuse(*_, **__):
        raise CapacityError("no")

    monkeypatch.setattr(router._pool.get("a"), "admit", refuse)
    with pytest.raises(CapacityError):
        await router.route("x", timeout=5)
    assert len(waits(events)) == 1


async def test_the_first_of_several_pauses_is_waited_for():
    events = []
    long = mock("a", Fail(RateLimitError(retry_after=100)))
    short = mock("b", Fail(RateLimitError(retry_after=3)), Fail(ServerError("x")), "b")
    router = first_available(long, short, listeners=[events.append])
    assert await router.route("x", timeout=20) == "b"
    assert waits(events) == [pytest.approx(3, abs=0.01)]
    assert "RetryScheduled" in kinds(events), "it is no last resort"


async def test_an_open_circuit_makes_nobody_a_last_resort_who_is_back_soon():
    events = []
    providers = (
        mock("a", Fail(ServerError("x")), max_retries=1),
        mock("b", "b", Fail(RateLimitError(retry_after=1)), Fail(ServerError("x")), "b"),
    )
    router = first_available(*providers, breaker=BreakerPolicy(consecutive_failures=2), listeners=[events.append])
    assert await router.route("x") == "b"
    assert router.snapshot()["a"].breaker == "open"
    events.clear()
    assert await router.route("x") == "b"
    assert [event.provider for event in events if isinstance(event, RetryScheduled)] == ["b"]


async def test_after_a_pause_it_is_asked_as_ever_with_retries_in_place():
    events = []
    provider = mock("a", Fail(RateLimitError(retry_after=3)), Fail(ServerError("x")), "a")
    assert await first_available(provider, listeners=[events.append]).route("x") == "a"
    assert [type(event.error) for event in events if isinstance(event, RetryScheduled)] == [ServerError]


async def test_with_its_break_nearly_over_an_open_one_is_asked_at_once_when_there_is_nobody_else():
    router = await tripped(mock("a", *[Fail(ServerError("x"))] * 5, "a"))
    await asyncio.sleep(4.6)
    assert await router.route("x") == "a"
    assert asyncio.get_running_loop().time() == pytest.approx(4.6)


async def test_the_end_of_a_call_under_way_is_waited_for_although_others_are_away_for_longer():
    busy, away = mock("a", Answer("a", delay=5), max_concurrency=1), mock("b", Fail(RateLimitError(retry_after=100)))
    router = first_available(busy, away)
    first = asyncio.create_task(router.route("x"))
    await settle()
    assert await router.route("y", timeout=20) == "a"
    await first


async def test_a_last_resort_is_not_retried_in_place():
    events = []
    router = first_available(mock("a", *[Fail(ServerError("x"))] * 6, "a"), listeners=[events.append])
    while router.snapshot()["a"].breaker == "closed":
        with pytest.raises(ServerError):
            await router.route("x")
    events.clear()
    assert await router.route("x") == "a"
    assert "RetryScheduled" not in kinds(events)


async def test_when_the_circuit_opens_between_retries_the_last_failure_is_told():
    events = []
    provider = mock("a", Fail(ServerError("one")), Fail(ServerError("two")))
    policy = BreakerPolicy(consecutive_failures=2)
    assert await first_available(provider, mock("b"), breaker=policy, listeners=[events.append]).route("x") == "b"
    assert [str(event.error) for event in events if isinstance(event, FailedOver)] == ["a: two"]


async def test_a_stream_that_breaks_before_its_first_text_goes_on_elsewhere_for_who_reads_only_text():
    class Thinking(BaseProvider):
        supports = EVERYTHING

        async def open_stream(self, request):
            yield ReasoningDelta("hm")
            raise ServerError("x")

    router = first_available(Thinking(ProviderConfig(name="a")), mock("b"), retry=NO_RETRY)
    assert "".join(await pieces_of(router.route_stream("x"))) == "b"


async def test_who_reads_only_text_gets_it_after_what_it_cannot_see():
    router = first_available(mock("a", Answer(Completion("text", reasoning="hm"))))
    assert await pieces_of(router.route_stream("x")) == ["text"]
