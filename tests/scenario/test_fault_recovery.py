"""Every fault that breaks a stream after its first piece × restart or continue × every wire format, with a healthy
second provider: the whole answer, the right text, nothing left behind. And what a continuation looks like on the wire.
"""

from __future__ import annotations

import dataclasses

import pytest

from fault_table import ANSWER, CASES, Both, Broken
from orchestrator import (
    Finished,
    GenerationParams,
    InvalidRequestError,
    RecoveryPolicy,
    Restarted,
    Router,
    StreamInterruptedError,
    TextDelta,
    Usage,
)
from orchestrator.core.types import Message, Request
from orchestrator.providers.catalog import VENDORS
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider
from orchestrator.testing import SimulatedProvider, faults
from orchestrator.testing._exchange import Piece
from scenario.test_fault_matrix import NEIGHBOUR, World
from wire import EACH_ENGINE

GO_ON = "Дальше"
MORE = " четыре"
BREAKS = [
    pytest.param(case, vendor, id=f"{case.name}-{vendor}".replace(" ", "_"))
    for case in CASES for vendor in case.vendors if isinstance(case.end(vendor, "stream"), Broken)
]


def test_there_are_breaks_to_recover_from():
    assert len(BREAKS) > 40


def worlds(case, vendor, mode):
    """A faulty provider, and one that knows how the answer goes on, or the whole of it."""
    rest = ANSWER[len(case.end(vendor, "stream").partial):] or MORE
    servers = (
        SimulatedProvider(vendor, name="faulty", answer=ANSWER),
        SimulatedProvider(NEIGHBOUR[vendor], name="healthy", answer=lambda said: rest if said == GO_ON else ANSWER),
    )
    recovery = RecoveryPolicy(mode=mode, instruction=GO_ON)
    world = World(vendor, "in_company", servers=servers, recovery=recovery)
    world.faulty.behave(failure=case.fault, failure_rate=1)
    return world, (ANSWER if mode == "restart" or rest != MORE else ANSWER + MORE)


@pytest.mark.parametrize("mode", ["restart", "continue"])
@pytest.mark.parametrize(("case", "vendor"), BREAKS)
async def test_a_broken_stream_comes_to_its_end(case, vendor, mode):
    world, whole = worlds(case, vendor, mode)
    text, events = "", []
    async for event in world.router.stream("Считай"):
        events.append(event)
        if isinstance(event, Restarted):
            assert event.discarded == text == case.end(vendor, "stream").partial
            text = ""
        elif isinstance(event, TextDelta):
            text += event.text
    (restarted, ends) = ([one for one in events if isinstance(one, kind)] for kind in (Restarted, Finished))
    assert len(restarted) == (mode == "restart")
    assert [end.completion.text for end in ends] == [text] == [whole]
    completion = ends[0].completion
    assert (completion.provider, completion.recoveries) == ("healthy", 1)
    assert [type(attempt.error) for attempt in completion.attempts] == [case.end(vendor, "stream").cause, type(None)]
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize("mode", ["restart", "continue"])
@pytest.mark.parametrize(("case", "vendor"), BREAKS)
async def test_a_reader_of_text_gets_the_whole_of_it(case, vendor, mode):
    world, whole = worlds(case, vendor, mode)
    assert "".join([piece async for piece in world.router.route_stream("Считай")]) == whole
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize("mode", ["restart", "continue"])
@pytest.mark.parametrize(("case", "vendor"), BREAKS)
async def test_with_nobody_to_go_on_the_break_is_told(case, vendor, mode):
    world = World(vendor, "alone", recovery=mode)
    world.faulty.behave(failure=case.fault, failure_rate=1)
    got = []
    with pytest.raises(StreamInterruptedError) as caught:
        async for piece in world.router.route_stream("Считай"):
            got.append(piece)
    assert caught.value.partial == "".join(got)
    assert len(caught.value.attempts) == world.attempts("faulty") <= 3
    del caught
    await world.check_that_nothing_is_left()


# On the wire


class Counting(faults.Fault):
    """Tells after each piece what was used so far, as vLLM does when it is asked to."""

    async def __call__(self, reply):
        reply.body = self._body(reply.body)
        return reply

    async def _body(self, pieces):
        used = 0
        async for piece in pieces:
            yield piece
            if piece.kind == "text":
                used += 1
                told = f'{{"prompt_tokens": 5, "completion_tokens": {used}}}'
                yield Piece("other", b'data: {"choices": [], "usage": ' + told.encode() + b"}\n\n")


@pytest.fixture
async def servers():
    async with (
        SimulatedProvider("openai", name="first", answer="One two three") as first,
        SimulatedProvider("openai", name="second", answer="three") as second,
    ):
        yield first, second


def dialect(server, vendor, path="", engine=None):
    return OpenAICompatibleProvider(server.config(base_url=server.base_url + path, engine=engine), vendor=vendor)


ASKED = {"role": "user", "content": "Count"}
HAD = {"role": "assistant", "content": "One two "}


@pytest.mark.real_time
@pytest.mark.parametrize(("vendor", "path", "last", "beside"), [
    ("mistral", "", {**HAD, "prefix": True}, {}),
    ("deepseek", "/beta", {**HAD, "prefix": True}, {}),
    ("vllm", "", HAD, {"continue_final_message": True, "add_generation_prompt": False}),
    ("llamacpp", "", HAD, {}),
    ("openai", "", {"role": "user", "content": GO_ON}, {}),
    ("deepseek", "", {"role": "user", "content": GO_ON}, {}),
    (dataclasses.replace(VENDORS["openrouter"], prefill="last message"), "", HAD, {}),
])
@EACH_ENGINE
async def test_each_vendor_is_told_to_go_on_in_its_own_way(servers, vendor, path, last, beside, engine):
    first, second = servers
    first.fail_next(faults.Cut(2))
    recovery = RecoveryPolicy(mode="continue", instruction=GO_ON)
    providers = [first.provider(engine=engine), dialect(second, vendor, path, engine)]
    async with Router("first-available", providers, recovery=recovery) as router:
        events = [event async for event in router.stream("Count", GenerationParams(max_tokens=9))]
    assert events[-1].completion.text == "One two three"
    body = second.requests[0].json
    assert body["messages"] == ([ASKED, last] if last["role"] == "assistant" else [ASKED, HAD, last])
    flags = ("continue_final_message", "add_generation_prompt")
    assert {name: body[name] for name in flags if name in body} == beside


@pytest.mark.real_time
async def test_a_server_that_refuses_the_prefill_answers_from_the_beginning(servers):
    first, second = servers
    first.fail_next(faults.Cut(2))
    second.behave(answer="One two three")
    second.fail_next(faults.Status(400, "Assistant response prefill is incompatible with enable_thinking."))
    async with Router(
        "first-available", [first.provider(), dialect(second, "llamacpp")], recovery="continue"
    ) as router:
        assert "".join([piece async for piece in router.route_stream("Count")]) == "One two three"
    assert [request.json["messages"] for request in second.requests] == [[ASKED, HAD], [ASKED]]


@pytest.mark.real_time
async def test_a_refused_prefill_is_not_what_the_caller_sees(servers):
    first, second = servers
    first.behave(failure=faults.Cut(2), failure_rate=1)
    second.behave(failure=faults.Status(400), failure_rate=1)
    providers = [first.provider(max_retries=0), dialect(second, "mistral")]
    async with Router("first-available", providers, recovery="continue") as router:
        with pytest.raises(StreamInterruptedError) as caught:
            [event async for event in router.stream("Count")]
    assert (caught.value.partial, caught.value.provider) == ("One two ", "first")
    assert [type(attempt.error) for attempt in caught.value.attempts[1:]] == [InvalidRequestError] * 2


@pytest.mark.parametrize("fault", [faults.Cut(2), faults.Hang(2), faults.ErrorInside(2), faults.NoHttp(2)], ids=repr)
async def test_what_an_interrupted_stream_has_used_is_not_lost(fault):
    first = SimulatedProvider("openai", name="first", answer="One two three")
    second = SimulatedProvider("openai", name="second", answer="three")
    first.behave(failure=Both(Counting(), fault), failure_rate=1)
    async with Router(
        "first-available", [first.provider(max_retries=0), second.provider()], recovery="continue"
    ) as router:
        completion = [event async for event in router.stream("Count")][-1].completion
        counted, last = (attempt.usage for attempt in completion.attempts)
        assert counted == Usage(5, 2)
        assert completion.usage == Usage(5 + last.prompt_tokens, 2 + last.completion_tokens)
        await router.remove_provider("second")
        with pytest.raises(StreamInterruptedError) as caught:
            [event async for event in router.stream("Count")]
    assert caught.value.usage == Usage(5, 2)


async def test_yandex_tells_what_an_interrupted_stream_has_used():
    server = SimulatedProvider("yandex", answer=ANSWER)
    server.fail_next(faults.Cut(2))
    async with Router(providers=[server.provider()]) as router:
        with pytest.raises(StreamInterruptedError) as caught:
            [event async for event in router.stream("Считай")]
    assert caught.value.usage.prompt_tokens > 0


def test_only_who_declares_it_gets_a_prefill():
    request = Request(messages=[Message("user", "Count"), Message("assistant", "One")], prefill=True)
    able = set()
    for name in VENDORS:
        provider = OpenAICompatibleProvider(SimulatedProvider("openai").config(folder_id="f"), vendor=name)
        able |= {name} if provider.unsupported(request) is None else set()
    assert able == {"mistral", "vllm", "llamacpp"}
