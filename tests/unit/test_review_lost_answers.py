"""What one provider does or says costs nobody an answer that another one, or a new key, could have given."""

from __future__ import annotations

import asyncio
from math import inf, nan

import pytest

from held import Held, ask
from orchestrator import (
    AuthenticationError,
    BreakerPolicy,
    Completion,
    GenerationParams,
    HedgePolicy,
    LimitPolicy,
    OverloadedError,
    ProviderConfig,
    RateLimitError,
    ReasoningDelta,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    TimeoutError,
    Usage,
)
from orchestrator.core.accumulate import MAX_EVENTS
from orchestrator.core.events import AttemptEnded, Hedged, RequestEnded
from orchestrator.core.types import Finished
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from support import NO_RETRY, first_available, mock, pieces_of, settle

CONVERSATION = [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]


def now():
    return asyncio.get_running_loop().time()


class Stream(BaseProvider):
    """Yields events, sleeps for numbers, raises exceptions."""

    def __init__(self, name, *script, **config):
        super().__init__(ProviderConfig(name=name, **config))
        self.script = script
        self.asked = 0

    async def open_stream(self, request):
        self.asked += 1
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, int):
                await asyncio.sleep(step)
            else:
                yield step


class Keyed(BaseProvider):
    """Takes a second; the old key is refused, or limited, as the prompt says."""

    async def generate(self, prompt, params=None):
        key = self.config.api_key
        await asyncio.sleep(1)
        if key == "old":
            raise AuthenticationError("no") if prompt == "refused" else RateLimitError("no", retry_after=200)
        return key


# ----------------------------------------------------------------------------- before the first text that is handed out


@pytest.mark.parametrize("error", [ServerError("x"), None], ids=["broken", "cut"])
@pytest.mark.parametrize("recovery", [None, "restart", "continue"])
async def test_a_reader_of_text_does_not_notice_that_a_provider_breaks_while_it_thinks(error, recovery):
    thinks = Stream("a", ReasoningDelta("hm"), 1, ReasoningDelta("so"), TextDelta(""), *([error] if error else []))
    events = []
    router = first_available(thinks, mock("b"), retry=NO_RETRY, recovery=recovery, listeners=[events.append])
    assert await pieces_of(router.route_stream("x")) == ["b"]
    assert [event.outcome for event in events if isinstance(event, AttemptEnded)] == ["error", "answer"]
    assert [event.outcome for event in events if isinstance(event, RequestEnded)] == ["answer"]
    assert all(state.in_flight == 0 for state in router.snapshot().values())


async def test_a_provider_that_falls_silent_while_it_thinks_is_left_after_the_idle_limit():
    router = first_available(Stream("a", ReasoningDelta("hm"), 1000), mock("b"))
    assert await pieces_of(router.route_stream("x")) == ["b"]
    assert now() == pytest.approx(20, abs=0.01)


async def test_a_provider_may_think_longer_than_the_first_token_limit():
    thoughts = [step for n in range(5) for step in (ReasoningDelta(str(n)), 15)]
    events = []
    thinks = Stream("a", *thoughts, TextDelta("42"), Finished(Completion("")))
    router = first_available(thinks, mock("b"), listeners=[events.append])
    assert await pieces_of(router.route_stream("x")) == ["42"]
    assert events[-1].completion.reasoning == "01234"
    assert events[-1].completion.time_to_first_token == 0


async def test_a_reader_of_events_has_seen_the_thoughts_and_is_told():
    router = first_available(Stream("a", ReasoningDelta("hm"), ServerError("x")), mock("b"), retry=NO_RETRY)
    with pytest.raises(StreamInterruptedError):
        await pieces_of(router.stream("x"))


async def test_after_the_first_text_a_break_is_told_although_there_were_thoughts():
    router = first_available(Stream("a", ReasoningDelta("hm"), TextDelta("I "), ServerError("x")), mock("b"))
    with pytest.raises(StreamInterruptedError) as caught:
        await pieces_of(router.route_stream("x"))
    assert caught.value.partial == "I "


async def test_a_reader_who_leaves_while_a_provider_thinks_leaves_nothing_behind():
    router = first_available(Stream("a", ReasoningDelta("hm"), 10))
    task = asyncio.create_task(pieces_of(router.route_stream("x")))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert router.snapshot()["a"].in_flight == 0
    assert router.snapshot()["a"].failures == 0
    assert len(router._watch) == 0


@pytest.mark.parametrize("empty", [TextDelta(""), ReasoningDelta("")])
async def test_an_empty_piece_is_no_beginning(empty):
    router = first_available(Stream("a", empty, 1, ServerError("x")), mock("b"), retry=NO_RETRY)
    assert (await pieces_of(router.stream("x")))[-1].completion.provider == "b"


async def test_a_flood_of_empty_pieces_ends():
    class Flood(BaseProvider):
        async def open_stream(self, request):
            piece = TextDelta("")
            while True:
                yield piece

    router = first_available(Flood(ProviderConfig(name="a")), mock("b"), retry=NO_RETRY)
    assert MAX_EVENTS < 2**21
    assert await pieces_of(router.route_stream("x")) == ["b"]


# -------------------------------------------------------------------------------------------- a provider asks for time


async def test_who_is_told_to_wait_long_is_answered_by_whoever_has_room_sooner():
    busy, away = mock("b", Answer("b", delay=1), max_concurrency=1), mock("a", Fail(OverloadedError(retry_after=100)))
    router = first_available(busy, away)
    ask(router, "fills b")
    await settle()
    assert await router.route("x") == "b"
    assert now() == pytest.approx(2, abs=0.01)


async def test_who_is_told_to_wait_long_is_answered_by_a_provider_that_joins():
    router = first_available(mock("a", Fail(RateLimitError(retry_after=100))))
    task = ask(router, "x")[0]
    await asyncio.sleep(1)
    router.add_provider(mock("b"))
    await settle()
    assert task.result() == "b"


@pytest.mark.parametrize("close", [False, True], ids=["removed", "closed"])
async def test_who_is_told_to_wait_long_does_not_wait_for_a_provider_that_has_left(close):
    router = first_available(mock("a", Fail(RateLimitError(retry_after=100))))
    task = ask(router, "x")[0]
    await asyncio.sleep(1)
    await (router.aclose() if close else router.remove_provider("a"))
    await settle()
    assert isinstance(task.exception(), RateLimitError)


@pytest.mark.parametrize("error", [RateLimitError, OverloadedError])
@pytest.mark.parametrize("timeout", [15, 100])
async def test_of_two_who_ask_for_time_the_one_that_is_back_first_answers(error, timeout):
    slow, soon = mock("a", Fail(error(retry_after=30)), "a"), mock("b", Fail(error(retry_after=10)), "b")
    assert await first_available(soon, slow).route("x", timeout=timeout) == "b"
    assert now() == pytest.approx(10, abs=0.01)


async def test_who_asks_for_time_again_and_again_is_asked_within_its_retries():
    provider = mock("a", Fail(OverloadedError(retry_after=10)), max_retries=3)
    with pytest.raises(OverloadedError) as caught:
        await first_available(provider).route("x")
    assert len(caught.value.attempts) == 4
    assert now() == pytest.approx(30, abs=0.01)


# ------------------------------------------------------------------------------------------------ silence and a hurry


async def test_callers_in_a_hurry_do_not_spend_their_time_on_a_dead_provider_for_ever():
    router = first_available(mock("a", Hang()), mock("b"))
    answers = [await asyncio.gather(router.route("x", timeout=20), return_exceptions=True) for _ in range(8)]
    assert [isinstance(answer, TimeoutError) for (answer,) in answers] == [True] * 5 + [False] * 3
    assert now() == pytest.approx(5 * 20 + 3 * 10, abs=0.01)
    assert router.snapshot()["a"].breaker == "closed"
    assert router.snapshot()["a"].failures == 0


async def test_where_nobody_else_is_there_a_silent_provider_has_all_the_time():
    router = first_available(mock("a", *[Hang()] * 8, Answer("late", delay=15)))
    for _ in range(8):
        with pytest.raises(TimeoutError):
            await router.route("x", timeout=20)
    assert await router.route("x", timeout=20) == "late"


async def test_a_call_cut_sooner_than_its_provider_usually_answers_is_no_silence():
    router = first_available(mock("a", Answer("a", delay=10)), mock("b"))
    await router.route("x")
    for _ in range(8):
        with pytest.raises(TimeoutError):
            await router.route("x", timeout=5)
    assert await router.route("x", timeout=15) == "a"


async def test_one_answer_ends_the_suspicion():
    router = first_available(mock("a", *[Hang()] * 5, Answer("a", delay=4), Answer("late", delay=15)), mock("b"))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await router.route("x", timeout=20)
    assert await router.route("x", timeout=20) == "a"
    assert await router.route("x", timeout=20) == "late"


# --------------------------------------------------------------------------------------------------------- another key


@pytest.mark.parametrize("refusal", ["refused", "limited"])
async def test_a_refusal_of_the_old_key_does_not_stop_the_new_one(refusal):
    router = first_available(provider := Keyed(ProviderConfig(name="a", api_key="old")), retry=NO_RETRY)
    ask(router, refusal)
    await asyncio.sleep(0.5)
    provider.config.api_key = "new"
    await asyncio.sleep(1)
    assert router.snapshot()["a"].breaker == "closed"
    assert await router.route("x", timeout=5) == "new"


@pytest.mark.parametrize("refusal", ["refused", "limited"])
async def test_a_request_refused_with_the_old_key_is_asked_again_with_the_new_one(refusal):
    router = first_available(provider := Keyed(ProviderConfig(name="a", api_key="old")))
    task = ask(router, refusal)[0]
    await asyncio.sleep(0.5)
    provider.config.api_key = "new"
    assert await task == "new"
    assert now() == pytest.approx(2, abs=0.01)


async def test_a_failure_that_has_nothing_to_do_with_the_key_counts_all_the_same():
    router = first_available(provider := mock("a", Fail(ServerError(), delay=1), api_key="old"), retry=NO_RETRY)
    ask(router, "x")
    await asyncio.sleep(0.5)
    provider.config.api_key = "new"
    await asyncio.sleep(1)
    assert router.snapshot()["a"].failures == 1


async def test_a_new_key_ends_the_pause_of_the_old_one():
    router = first_available(provider := Keyed(ProviderConfig(name="a", api_key="old")), retry=NO_RETRY)
    with pytest.raises(RateLimitError):
        await router.route("limited")
    provider.config.api_key = "new"
    assert await router.route("x", timeout=5) == "new"


# ---------------------------------------------------------------------------------------------------- what it tells


@pytest.mark.parametrize(
    "odd",
    [{"usage": Usage(1, -50)}, {"usage": Usage(1, 2**60)}, {"usage": Usage(5, 5, None)},
     {"usage": Usage(5, 5, 0, "x")}, {"cost": nan}, {"cost": inf}, {"cost": -1.0}],
    ids=["negative", "huge", "none", "text", "cost nan", "cost inf", "cost negative"],
)
async def test_numbers_that_make_no_sense_cost_neither_the_answer_nor_the_lease(odd):
    a = mock("a", Completion("a", usage=Usage(5, 5, 3), cost=1.0), Completion("odd", **odd), "a")
    router = first_available(a, mock("b"), retry=NO_RETRY)
    assert [await router.route("x") for _ in range(3)] == ["a", "b", "a"]
    state = router.snapshot()["a"]
    assert (state.in_flight, state.cost, state.prompt_tokens) == (0, 1.0, 5)


async def test_a_provider_renamed_in_its_configuration_goes_on_with_an_answer():
    writer, other = mock("a", BrokenStream(["one two three "])), mock("b", Answer("four five"))
    router = first_available(writer, other, recovery="continue", retry=NO_RETRY)
    other.config.name = "c"
    events = await pieces_of(router.stream("x"))
    assert events[-1].completion.text == "one two three four five"


# ------------------------------------------------------------------------------------------------------------ waiting


async def test_one_pushed_out_on_its_way_to_look_leaves_nobody_asleep():
    x, y = mock("x"), Held("y", max_concurrency=1)
    x.supports, y.supports = frozenset({"messages"}), frozenset({"temperature"})
    router = first_available(x, y, limits=LimitPolicy(queue_size=2), breaker=BreakerPolicy(break_base=50))
    warm = GenerationParams(temperature=1)
    ask(router, "fills y", params=warm)
    await settle()
    router._pool.get("x").breaker.open()
    waits = asyncio.create_task(router.complete(CONVERSATION, timeout=100))
    await settle()
    pushed = asyncio.create_task(router.complete(CONVERSATION, timeout=200))  # more time: the probe is for this one
    await settle()
    ask(router, "newcomer", params=warm, priority=-1)
    router._pool.get("x").breaker.half_open()
    await asyncio.sleep(1)
    assert waits.result().text == "x"
    assert pushed.exception() is not None


async def test_a_hedge_that_has_not_the_tokens_is_none():
    late, short = mock("a", "a", Answer("a", delay=10)), mock("b", tpm_limit=300)
    events = []
    router = first_available(late, short, mock("c"), hedge=HedgePolicy(first_delay=1), listeners=[events.append])
    late.config.enabled = False
    assert await router.route("x") == "b"  # which takes most of its tokens of this minute
    late.config.enabled = True
    await router.route("x")
    assert await router.route("x") == "c"
    assert [event.provider for event in events if isinstance(event, Hedged)] == ["c"]
