"""The public verbs: what goes in, what comes out, joining and leaving, closing; and clear words for bad input."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import (
    CircuitOpenError,
    Completion,
    Finished,
    GenerationParams,
    InvalidRequestError,
    ProviderConfig,
    Router,
    RouterClosedError,
    RoutingStrategy,
    TextDelta,
    Timeouts,
    Tool,
    ToolCall,
    Usage,
)
from orchestrator.core.events import ProviderAdded, ProviderRemoved, RequestStarted
from orchestrator.providers.mock import Answer, Hang, MockProvider
from support import Echo, first_available, mock, pieces_of, settle

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def test_the_four_verbs():
    router = Router(providers=[mock("a", Answer("Hello there", pieces=["Hello ", "there"], usage=Usage(3, 2)))])
    assert await router.route("Hi") == "Hello there"
    assert await pieces_of(router.route_stream("Hi")) == ["Hello ", "there"]
    answer = await router.complete([{"role": "user", "content": "Hi"}])
    assert (answer.text, answer.provider, answer.usage, len(answer.attempts)) == ("Hello there", "a", Usage(3, 2), 1)
    events = await pieces_of(router.stream("Hi"))
    assert events[:-1] == [TextDelta("Hello "), TextDelta("there")]
    assert isinstance(events[-1], Finished)
    assert events[-1].completion.text == "Hello there"


async def test_an_answer_tells_model_latency_and_attempts():
    answer = await Router(providers=[mock("a", Answer("x", delay=2), model="mock-normal")]).complete("Hi")
    assert answer.model == "mock-normal"
    assert answer.latency == pytest.approx(2, abs=0.01)
    assert answer.time_to_first_token is None
    assert answer.attempts[0].duration == pytest.approx(2, abs=0.01)
    assert (answer.attempts[0].number, answer.attempts[0].error) == (1, None)


async def test_the_model_is_the_configured_one_unless_the_provider_names_another():
    class Named(Echo):
        async def complete(self, request):
            return Completion("x", model=None if request.prompt == "plain" else "said-by-the-service")

    router = first_available(Named(ProviderConfig(name="a", model="configured")))
    assert (await router.complete("plain")).model == "configured"
    assert (await router.complete("x")).model == "said-by-the-service"


async def test_everything_asked_reaches_the_provider():
    provider = mock("a", Completion("", tool_calls=(ToolCall("1", "weather", "{}"),), finish_reason="tool_calls"))
    router = Router(providers=[provider])
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:x"}},
        ]},
    ]
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    answer = await router.complete(
        messages, GenerationParams(temperature=0.1), tools=[WEATHER], tool_choice="required", response_format=schema
    )
    request = provider.calls[0]
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[1].images[0].url == "data:x"
    assert request.tools == (Tool("weather", parameters={"type": "object"}),)
    assert request.tool_choice.mode == "required"
    assert request.response_format.schema == {"type": "object"}
    assert request.params.given() == {"temperature": 0.1}
    assert answer.tool_calls[0].name == "weather"


async def test_a_prompt_may_come_with_tools_too():
    provider = mock("a")
    await Router(providers=[provider]).complete("Hi", tools=[WEATHER])
    assert provider.calls[0].messages[0].text == "Hi"
    assert provider.calls[0].needs == {"tools"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("",), "prompt is empty"),
        (([],), "messages is empty"),
        ((None,), "prompt is missing; expected a text or a list of messages"),
        ((5,), "prompt is int; expected a text or a list of messages"),
        (([{"role": "robot", "content": "x"}],), "messages[0].role is 'robot'; expected one of system, user"),
        (([{"role": "user", "content": 5}],), "messages[0].content is int; expected a text or a list of parts"),
        (([{"role": "user", "text": "x"}],), "unknown key 'text'; known: role, content"),
        (("x", {"temperature": 1}), "params is dict; expected GenerationParams"),
    ],
    ids=str,
)
async def test_bad_input_is_named_with_what_is_allowed(arguments, says):
    with pytest.raises(InvalidRequestError) as caught:
        await first_available(mock("a")).complete(*arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"timeouts": 5}, "timeouts is 5; expected Timeouts(...) of: connect, first_token"),
        ({"retry": 3}, "retry is 3; expected RetryPolicy(...) of: max_retries"),
        ({"breaker": False}, "breaker is False; expected BreakerPolicy(...) of: enabled"),
        ({"providers": mock("a")}, "providers is MockProvider; expected a list"),
        ({"providers": [MockProvider]}, "an instance of BaseProvider, not the class MockProvider"),
        ({"strategy": [mock("a")]}, "by name: providers=[...]"),
        ({"listeners": ["log"]}, "listeners holds 'log'; expected functions of one event"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_argument_of_the_wrong_kind_is_named_with_what_is_expected(arguments, says):
    with pytest.raises(TypeError) as caught:
        Router(**arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("config", ["giga", {"name": "giga"}, None], ids=repr)
def test_a_provider_says_that_it_needs_a_config(config):
    with pytest.raises(TypeError, match=r"expected ProviderConfig\(name="):
        MockProvider(config)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True])
async def test_a_timeout_must_be_a_time(timeout):
    with pytest.raises(InvalidRequestError, match="timeout"):
        await first_available(mock("a")).route("x", timeout=timeout)


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(ValueError, match="round-robin") as caught:
        Router(strategy="round-robbin")
    assert "least-latency" in str(caught.value)


def test_a_duplicate_name_and_a_stranger_are_refused():
    router = Router(providers=[mock("a")])
    with pytest.raises(ValueError, match="'a' is already there"):
        router.add_provider(mock("a"))
    with pytest.raises(TypeError, match="BaseProvider, not str"):
        router.add_provider("a")


async def test_duplicates_and_unknown_names_in_a_swap_change_nothing():
    router = Router(providers=[mock("a")])
    with pytest.raises(ValueError, match="duplicate provider name: 'b'"):
        await router.update_providers([mock("b"), mock("b")])
    with pytest.raises(ValueError, match="no provider named 'z'; names: a"):
        await router.remove_provider("z")
    assert await router.route("x") == "a"


async def test_providers_join_and_leave_and_listeners_hear_of_it():
    events: list[object] = []
    router = Router("first-available", listeners=[events.append])
    for name in "ab":
        router.add_provider(mock(name))
    assert await router.route("x") == "a"
    await router.remove_provider("a")
    assert await router.route("x") == "b"
    seen = [event for event in events if isinstance(event, ProviderAdded | ProviderRemoved)]
    assert seen == [ProviderAdded("a"), ProviderAdded("b"), ProviderRemoved("a")]


async def test_a_swap_keeps_the_state_of_those_who_stay_and_takes_the_new_order():
    a, b = mock("a"), mock("b")
    router = first_available(a, b)
    await router.route("x")
    await router.update_providers([b, a, mock("c")])
    assert list(router.snapshot()) == ["b", "a", "c"]
    assert router.snapshot()["a"].requests == 1
    await router.update_providers([mock("a")])
    assert router.snapshot()["a"].requests == 0


async def test_a_provider_can_be_taken_out_and_let_in_by_hand():
    router = first_available(mock("a"), mock("b"))
    router.isolate("a")
    assert [await router.route("x") for _ in range(2)] == ["b", "b"]
    assert router.snapshot()["a"].breaker == "isolated"
    router.reset("a")
    assert await router.route("x") == "a"
    for name in "ab":
        router.isolate(name)
    with pytest.raises(CircuitOpenError, match="isolated by hand"):
        await router.route("x", timeout=1)
    for verb in (router.isolate, router.reset):
        with pytest.raises(ValueError, match="no provider named 'z'; names: a, b"):
            verb("z")


class Closing(Echo):
    def __init__(self, name, fails=False):
        super().__init__(ProviderConfig(name=name))
        self.closed = 0
        self.fails = fails

    async def aclose(self):
        self.closed += 1
        if self.fails:
            raise RuntimeError("cannot close")


async def test_closing_closes_every_provider_once_and_refuses_further_calls():
    providers = [Closing("a", fails=True), Closing("b")]
    async with Router(providers=providers) as router:
        await router.route("x")
    await router.aclose()
    assert [provider.closed for provider in providers] == [1, 1]
    for call in (router.route("x"), anext(router.route_stream("x")), router.__aenter__(), router.update_providers([])):
        with pytest.raises(RouterClosedError, match="make a new one"):
            await call
    with pytest.raises(RouterClosedError):
        router.add_provider(mock("c"))


async def test_removed_providers_are_closed_at_once_when_idle():
    a, b, c = Closing("a"), Closing("b"), Closing("c")
    router = Router(providers=[a, b])
    await router.remove_provider("a")
    assert a.closed == 1
    await router.update_providers([c])
    assert (b.closed, c.closed) == (1, 0)
    assert not a.routed
    assert c.routed


async def test_closing_waits_for_calls_under_way_but_not_for_ever():
    router = first_available(mock("a", Answer("done", delay=3), Hang()), timeouts=Timeouts(total=1000))
    task = asyncio.create_task(router.route("x"))
    await settle()
    await router.aclose()
    assert await task == "done"
    router = first_available(mock("a", Hang()), timeouts=Timeouts(total=1000))
    task = asyncio.create_task(router.route("x"))
    await settle()
    begun = asyncio.get_running_loop().time()
    await router.aclose(grace=2)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(2, abs=0.01)
    task.cancel()


async def test_a_provider_that_hangs_while_closing_holds_nobody_for_ever(caplog):
    class Hanging(Echo):
        async def aclose(self):
            await asyncio.sleep(3600)

    other = Closing("b")
    router = Router(providers=[Hanging(ProviderConfig(name="a")), other])
    await router.aclose()
    assert asyncio.get_running_loop().time() < 10
    assert other.closed == 1


async def test_a_request_that_waits_when_the_router_closes_is_told_so():
    router = first_available(mock("a", Answer("a", delay=50), max_concurrency=1))
    calls = [asyncio.create_task(router.route("x")) for _ in range(2)]
    await settle()
    await router.aclose(grace=1)
    with pytest.raises(RouterClosedError, match="while this request waited"):
        await calls[1]
    calls[0].cancel()


async def test_a_provider_that_comes_back_while_its_last_call_runs_is_not_closed():
    class Slow(Closing):
        async def generate(self, prompt, params=None):
            await asyncio.sleep(5)
            return "slow"

    provider = Slow("a")
    router = Router(providers=[provider])
    call = asyncio.create_task(router.route("x"))
    await settle()
    await router.remove_provider("a")
    router.add_provider(provider)
    assert await call == "slow"
    await settle()
    assert provider.closed == 0
    assert provider.routed
    await router.aclose()
    assert provider.closed == 1


def test_one_router_serves_one_event_loop_after_the_other():
    router = Router(providers=[mock("a")])
    assert [asyncio.run(router.route("x")) for _ in range(2)] == ["a", "a"]
    assert router.snapshot()["a"].requests == 2


async def test_the_snapshot_counts():
    paid = Completion("x", usage=Usage(5, 3), cost=0.25)
    router = first_available(mock("a", Answer(paid, delay=2)))
    waiting = [asyncio.create_task(router.route("x")) for _ in range(3)]
    await asyncio.sleep(1)
    assert router.snapshot()["a"].in_flight == 3
    await asyncio.gather(*waiting)
    snapshot = router.snapshot()["a"]
    assert (snapshot.in_flight, snapshot.requests, snapshot.failures) == (0, 3, 0)
    assert (snapshot.prompt_tokens, snapshot.completion_tokens, snapshot.cost) == (15, 9, 0.75)
    assert snapshot.latency_p50 == pytest.approx(2, rel=0.1)
    assert snapshot.paused_until is None


async def test_a_strategy_object_gets_the_routers_chance_and_sees_views_only():
    class Spy(RoutingStrategy):
        name = "spy"
        seen = ()

        def order(self, candidates, request):
            self.seen = candidates
            return reversed(candidates)

    spy = Spy()
    events: list[object] = []
    router = Router(spy, [mock("a"), mock("b")], seed=3, listeners=[events.append])
    assert await router.route("x") == "b"
    assert [view.name for view in spy.seen] == ["a", "b"]
    assert not any(hasattr(view, "provider") for view in spy.seen)
    assert [event.strategy for event in events if isinstance(event, RequestStarted)] == ["spy"]


async def test_a_provider_that_came_back_is_eased_in():
    from orchestrator import BreakerPolicy, ServerError
    from orchestrator.providers.mock import Fail

    flaky = mock("a", *[Fail(ServerError("x"))] * 5, "a")
    router = first_available(
        flaky, mock("b"), breaker=BreakerPolicy(ramp=100, break_base=1, break_jitter=0, window=1000),
    )
    while router.snapshot()["a"].breaker != "open":
        await router.route("x")
    await asyncio.sleep(1.01)
    assert await router.route("x") == "a"  # the probe
    assert router.snapshot()["a"].breaker == "ramp"
    early = [await router.route("x") for _ in range(100)].count("a")
    await asyncio.sleep(60)
    later = [await router.route("x") for _ in range(100)].count("a")
    await asyncio.sleep(60)
    back = [await router.route("x") for _ in range(100)].count("a")
    assert 1 <= early <= 30
    assert 40 <= later <= 80
    assert back == 100
