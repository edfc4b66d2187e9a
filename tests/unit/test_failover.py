"""What a failure means for the request: who is asked next, and what the caller gets in the end."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import (
    AllProvidersFailedError,
    AuthenticationError,
    CapacityError,
    CircuitOpenError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    GenerationParams,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    NoProvidersError,
    OverloadedError,
    ProviderConfig,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    RetryPolicy,
    Router,
    RoutingStrategy,
    ServerError,
    TimeoutError,
    Timeouts,
)
from orchestrator.core.events import FailedOver, ProviderPaused, RetryScheduled, Waiting
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, Fail, Hang
from support import NEVER_OPEN, NO_RETRY, Echo, first_available, mock, pieces_of

NEXT_PROVIDER = [
    AuthenticationError("x"), QuotaExceededError("x"), RateLimitError("x"), TimeoutError("x"),
    ConnectionFailedError("x"), ServerError("x"), OverloadedError("x"), MalformedResponseError("x"),
    ModelNotFoundError("x"), ProviderError("x"), ContextWindowExceededError("x"),
    KeyError("x"), RuntimeError("x"), TypeError("x"),
]


@pytest.mark.parametrize("error", NEXT_PROVIDER, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_these_go_to_the_next_provider(error, streamed):
    router = first_available(mock("a", Fail(error)), mock("b"))
    assert ("".join(await pieces_of(router.route_stream("x"))) if streamed else await router.route("x")) == "b"


@pytest.mark.parametrize("error", [InvalidRequestError("x"), ContentFilteredError("x")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_these_do_not(error, streamed):
    second = mock("b")
    router = first_available(mock("a", Fail(error)), second)
    with pytest.raises(type(error)) as caught:
        await (pieces_of(router.route_stream("x")) if streamed else router.route("x"))
    assert second.calls == []
    assert [attempt.provider for attempt in caught.value.attempts] == ["a"]


async def test_a_content_filter_fails_over_when_the_router_was_told_so():
    router = first_available(mock("a", Fail(ContentFilteredError("x"))), mock("b"), failover_on_content_filter=True)
    assert await router.route("x") == "b"


async def test_a_request_too_long_goes_only_to_a_larger_window_or_an_unknown_one():
    small = mock("small", Fail(ContextWindowExceededError("x")), context_window=8_000)
    same, unknown = mock("same", context_window=8_000), mock("unknown")
    router = first_available(small, same, unknown)
    assert await router.route("x") == "unknown"
    assert same.calls == []


async def test_too_long_for_everybody_is_said_as_that():
    first = mock("a", Fail(ContextWindowExceededError("x")), context_window=8)
    router = first_available(first, mock("b", context_window=4))
    with pytest.raises(ContextWindowExceededError):
        await router.route("x")


async def test_all_failed_in_one_way_is_that_error_with_every_attempt():
    providers = mock("a", Fail(ServerError("one"))), mock("b", Fail(ServerError("two")))
    router = first_available(*providers, retry=NO_RETRY)
    with pytest.raises(ServerError, match="two") as caught:
        await router.route("x")
    assert [(a.provider, str(a.error)) for a in caught.value.attempts] == [("a", "a: one"), ("b", "b: two")]


async def test_all_failed_in_different_ways_is_a_group_of_every_attempt():
    providers = mock("a", Fail(ServerError("x"))), mock("b", Fail(AuthenticationError("y")))
    router = first_available(*providers, retry=NO_RETRY)
    with pytest.raises(AllProvidersFailedError) as caught:
        await router.route("x")
    assert [type(error) for error in caught.value.exceptions] == [ServerError, AuthenticationError]
    assert len(caught.value.attempts) == 2


async def test_retry_in_place_comes_before_failover():
    first = mock("a", Fail(ServerError("x")), "a")
    events: list[object] = []
    router = first_available(first, mock("b"), listeners=[events.append])
    assert await router.route("x") == "a"
    assert len(first.calls) == 2
    assert [type(e) for e in events if isinstance(e, RetryScheduled | FailedOver)] == [RetryScheduled]


@pytest.mark.parametrize(("own", "calls"), [(0, 1), (1, 2), (None, 3)])
async def test_the_providers_own_max_retries_wins(own, calls):
    provider = mock("a", Fail(ServerError("x")), max_retries=own)
    with pytest.raises(ServerError):
        await first_available(provider, breaker=NEVER_OPEN).route("x")
    assert len(provider.calls) == calls


async def test_a_provider_with_its_own_retry_helper_runs_it_once_when_routed():
    calls = 0

    class Old(BaseProvider):
        async def generate(self, prompt, params=None):
            async def make_request():
                nonlocal calls
                calls += 1
                raise ServerError("x")

            return await self._retry_with_backoff(make_request)

    alone = Old(ProviderConfig(name="alone", max_retries=2))
    with pytest.raises(ServerError):
        await alone.generate("x")
    assert calls == 3
    calls = 0
    with pytest.raises(ServerError):
        await first_available(Old(ProviderConfig(name="old", max_retries=2))).route("x")
    assert calls == 3  # the router's own retries, not 3 x 3


async def test_calls_earn_the_retries_and_without_them_a_failure_fails_over_at_once():
    busy = mock("a", *["a"] * 10, Fail(ServerError("x")), "a", Fail(ServerError("x")))
    router = first_available(busy, mock("b"), retry=RetryPolicy(budget_ratio=0.05, budget_floor=0), breaker=NEVER_OPEN)
    assert [await router.route("x") for _ in range(10)] == ["a"] * 10
    assert await router.route("x") == "a"  # the calls before have earned a retry
    assert await router.route("x") == "b"  # and it is spent
    assert len(busy.calls) == 13


async def test_retry_after_pauses_that_provider_for_everybody():
    limited = mock("a", Fail(RateLimitError("x", retry_after=30)), "a")
    events: list[object] = []
    router = first_available(limited, mock("b"), listeners=[events.append])
    assert await router.route("1") == "b"
    assert await router.route("2") == "b"
    assert len(limited.calls) == 1
    assert (router.snapshot()["a"].limited, router.snapshot()["a"].failures) == (1, 1)
    assert [event.delay for event in events if isinstance(event, ProviderPaused)] == [30]
    assert router.snapshot()["a"].retry_after == pytest.approx(30, abs=0.01)
    assert router.snapshot()["a"].breaker == "closed"
    await asyncio.sleep(30)
    assert await router.route("3") == "a"


async def test_a_shorter_hint_does_not_cut_a_longer_pause():
    hints = [Fail(RateLimitError(retry_after=30), delay=0.1), Fail(RateLimitError(retry_after=5), delay=0.2)]
    provider = mock("a", *hints)
    router = first_available(provider, mock("b"))
    await asyncio.gather(router.route("x"), router.route("y"))
    assert router.snapshot()["a"].retry_after > 25


async def test_a_429_without_a_hint_pauses_longer_each_time():
    router = first_available(mock("a", Fail(RateLimitError("x"))), mock("b"))
    pauses = []
    for _ in range(8):
        await router.route("x")
        pauses.append(router.snapshot()["a"].retry_after)
        await asyncio.sleep(31)
    assert all(min(30, 2**n) / 2 <= pause <= min(30, 2**n) for n, pause in enumerate(pauses))


async def test_alone_and_limited_it_waits_within_the_deadline():
    loop = asyncio.get_running_loop()
    router = first_available(mock("a", Fail(RateLimitError("x", retry_after=3)), "a"))
    begun = loop.time()
    assert await router.route("x") == "a"
    assert loop.time() - begun == pytest.approx(3, abs=0.01)


async def test_always_limited_is_not_asked_more_often_than_retries_allow():
    limited = mock("a", Fail(RateLimitError("x", retry_after=1)))
    with pytest.raises(RateLimitError):
        await first_available(limited).route("x")
    assert len(limited.calls) == 3
    limited = mock("a", Fail(RateLimitError("x", retry_after=1)))
    with pytest.raises(AllProvidersFailedError):
        await first_available(limited, mock("b", Fail(AuthenticationError("x")))).route("x")
    assert len(limited.calls) == 3


async def test_alone_a_503_with_a_hint_is_waited_for_and_with_others_it_is_not():
    busy = [Fail(OverloadedError("x", retry_after=3)), "a"]
    begun = asyncio.get_running_loop().time()
    assert await first_available(mock("a", *busy)).route("x") == "a"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(3, abs=0.01)
    router = first_available(mock("a", *busy), mock("b"))
    assert await router.route("x") == "b"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(3, abs=0.01)
    assert router.snapshot()["a"].retry_after == pytest.approx(3, abs=0.01)


async def test_a_provider_that_blocked_the_loop_past_the_deadline_is_the_last_one_asked():
    class Blocking(BaseProvider):
        async def complete(self, request):
            asyncio.get_running_loop().advance(1000)  # as a long computation would
            raise ConnectionFailedError("x")

    second = mock("b")
    with pytest.raises(ConnectionFailedError):
        await first_available(Blocking(ProviderConfig(name="a")), second).route("x")
    assert second.calls == []


async def test_giving_up_a_provider_is_told_with_its_error():
    events: list[object] = []
    router = first_available(mock("a", Fail(AuthenticationError("x"))), mock("b"), listeners=[events.append])
    await router.route("x")
    assert [(e.provider, type(e.error)) for e in events if isinstance(e, FailedOver)] == [("a", AuthenticationError)]


async def test_limited_beyond_the_deadline_fails_at_once_and_says_when():
    router = first_available(mock("a", Fail(RateLimitError("x", retry_after=500))))
    begun = asyncio.get_running_loop().time()
    with pytest.raises(RateLimitError) as caught:
        await router.route("x")
    assert caught.value.retry_after == pytest.approx(300, abs=0.1)  # as far as the pause goes
    assert asyncio.get_running_loop().time() == begun
    with pytest.raises(CapacityError) as refused:
        await router.route("y")
    assert refused.value.retry_after == pytest.approx(300, abs=0.1)


async def test_when_all_breakers_are_open_it_waits_for_the_first_that_may_be_probed():
    providers = [mock("a", *[Fail(ServerError("x"))] * 5, "a"), mock("b", *[Fail(ServerError("x"))] * 5, "b")]
    events: list[object] = []
    router = first_available(*providers, retry=NO_RETRY, listeners=[events.append])
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    assert {p.breaker for p in router.snapshot().values()} == {"open"}
    begun = asyncio.get_running_loop().time()
    assert await router.route("x") in {"a", "b"}
    assert 0.5 <= asyncio.get_running_loop().time() - begun <= 0.6  # break_base / 10
    assert any(isinstance(event, Waiting) for event in events)


async def test_when_all_breakers_stay_open_too_long_the_error_says_when():
    router = first_available(mock("a", Fail(ServerError("x"))), retry=NO_RETRY, timeouts=Timeouts(total=0.4))
    for _ in range(5):
        with pytest.raises(ServerError):
            await router.route("x")
    with pytest.raises(CircuitOpenError) as caught:  # it has just opened: too early for a last resort, too
        await router.route("x")
    assert 4 < caught.value.retry_after <= 5.5
    assert caught.value.provider == "a"
    assert caught.value.attempts == ()


async def test_a_breaker_that_opens_between_retries_does_not_hide_the_real_error():
    policy = RetryPolicy(max_retries=8, max_delay=0.2)
    router = first_available(mock("a", Fail(ServerError("the reason"))), retry=policy)
    with pytest.raises(ServerError, match="the reason") as caught:
        await router.route("x")
    assert len(caught.value.attempts) == 5


async def test_a_bad_key_opens_the_breaker_at_once():
    bad = mock("a", Fail(AuthenticationError("x")))
    router = first_available(bad, mock("b"))
    await router.route("1")
    await router.route("2")
    assert len(bad.calls) == 1
    assert router.snapshot()["a"].breaker == "open"


async def test_a_full_provider_passes_on_and_alone_is_waited_for():
    router = first_available(mock("a", Answer("a", delay=2), max_concurrency=1), mock("b"))
    assert await asyncio.gather(router.route("1"), router.route("2")) == ["a", "b"]
    alone = first_available(mock("a", Answer("a", delay=2), max_concurrency=1))
    begun = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(alone.route("x") for _ in range(3))) == ["a", "a", "a"]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(6, abs=0.1)


async def test_a_full_provider_that_never_gets_free_is_a_capacity_error_at_the_deadline():
    router = first_available(mock("a", Hang(), max_concurrency=1), timeouts=Timeouts(total=10, attempt=60))
    hanging = asyncio.create_task(router.route("x", timeout=30))
    await asyncio.sleep(0.1)
    with pytest.raises(CapacityError, match="limit"):
        await router.route("y")
    hanging.cancel()


async def test_calls_per_minute_are_kept_by_waiting_or_by_the_next_provider():
    router = first_available(mock("a", rpm_limit=1))
    begun = asyncio.get_running_loop().time()
    assert [await router.route("x") for _ in range(2)] == ["a", "a"]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(60, abs=0.1)


async def test_an_empty_pool_and_a_disabled_one_say_what_is_missing():
    with pytest.raises(NoProvidersError, match="add_provider"):
        await Router().route("x")
    with pytest.raises(NoProvidersError, match="disabled: a"):
        await first_available(mock("a", enabled=False)).route("x")


async def test_a_feature_nobody_has_is_named_and_one_somebody_has_goes_there():
    echo = Echo(ProviderConfig(name="echo"))
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}]
    with pytest.raises(InvalidRequestError, match="echo does not take a conversation"):
        await first_available(echo).complete(conversation)
    answer = await first_available(echo, mock("b")).complete(conversation, GenerationParams(seed=1))
    assert answer.provider == "b"


async def test_switching_a_provider_off_and_on_takes_effect_at_once():
    first = mock("a")
    router = first_available(first, mock("b"))
    first.config.enabled = False
    assert await router.route("x") == "b"
    first.config.enabled = True
    assert await router.route("x") == "a"


class Order(RoutingStrategy):
    def __init__(self, function):
        self.function = function

    def order(self, candidates, request):
        return self.function(candidates, request)


async def test_a_strategy_that_raises_repeats_or_forgets_costs_no_answer(caplog):
    def raises(candidates, request):
        raise RuntimeError("bug in the strategy")

    def forgets(candidates, request):
        return candidates[:0]

    def repeats(candidates, request):
        return [candidates[0]] * 3

    def never_called_for_nobody(candidates, request):
        assert candidates
        return candidates

    for order in (raises, forgets, repeats, never_called_for_nobody):
        failing = mock("a", Fail(AuthenticationError("x")))
        assert await Router(Order(order), [failing, mock("b")]).route("x") == "b"
        assert len(failing.calls) == 1
    assert caplog.text.count("RuntimeError: bug in the strategy") == 1
    with pytest.raises(NoProvidersError):
        await Router(Order(never_called_for_nobody)).route("x")
    assert "AssertionError" not in caplog.text


async def test_a_provider_that_is_a_router_can_say_that_its_circuits_are_open():
    class Nested(BaseProvider):
        async def complete(self, request):
            raise CircuitOpenError("inner", retry_after=1)

    router = first_available(Nested(ProviderConfig(name="nested")), mock("b"))
    assert await router.route("x") == "b"
    with pytest.raises(CircuitOpenError, match="inner"):
        await first_available(Nested(ProviderConfig(name="nested"))).route("x")
