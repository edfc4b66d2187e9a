"""The invariants of the design, one named test each."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc

import httpx
import pytest

from orchestrator import (
    AuthenticationError,
    Completion,
    ConnectionFailedError,
    InvalidRequestError,
    MalformedResponseError,
    OrchestratorError,
    ProviderConfig,
    RateLimitError,
    Router,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    TimeoutError,
    Timeouts,
)
from orchestrator.core.events import AttemptEnded, AttemptStarted, RequestEnded, RequestStarted
from orchestrator.providers import OpenAICompatibleProvider
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail, Hang
from support import NEVER_OPEN, NO_RETRY, Echo, first_available, kinds, mock, pieces_of, settle


def in_flight(router: Router) -> int:
    return sum(provider.in_flight for provider in router.snapshot().values())


async def test_1_a_request_ends_in_exactly_one_of_answer_error_cancellation():
    events: list[object] = []
    failures = Fail(ServerError("x")), Fail(InvalidRequestError("x"))
    script = ("one", *failures, Hang(), BrokenStream(["a"], ServerError("x")))
    router = first_available(mock("a", *script), retry=NO_RETRY, listeners=[events.append])
    await router.route("answered")
    for _ in range(2):
        with pytest.raises(OrchestratorError):
            await router.route("failed")
    hanging = asyncio.create_task(router.route("cancelled"))
    await settle()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    with pytest.raises(StreamInterruptedError):
        await pieces_of(router.route_stream("broken"))

    started = [e.request for e in events if isinstance(e, RequestStarted)]
    ended = [(e.request, e.outcome) for e in events if isinstance(e, RequestEnded)]
    assert started == [1, 2, 3, 4, 5]
    assert ended == [(1, "answer"), (2, "error"), (3, "error"), (4, "cancelled"), (5, "error")]
    assert kinds(events).count("AttemptStarted") == kinds(events).count("AttemptEnded") == 5


async def test_2_a_stream_never_mixes_two_providers_and_never_ends_early():
    broken = mock("a", BrokenStream(["A1 ", "A2 "], ServerError("gone")))
    router = first_available(broken, mock("b", Answer("B1 B2", pieces=["B1 ", "B2"])))
    seen = []
    with pytest.raises(StreamInterruptedError) as caught:
        async for piece in router.route_stream("x"):
            seen.append(piece)  # what was seen before the error is the point
    assert seen == ["A1 ", "A2 "]
    assert caught.value.partial == "A1 A2 "
    assert isinstance(caught.value.__cause__, ServerError)


async def test_2_a_stream_without_an_end_marker_is_no_answer():
    class Cut(BaseProvider):
        async def open_stream(self, request):
            yield TextDelta("half an ans")

    with pytest.raises(StreamInterruptedError, match="end marker"):
        await pieces_of(first_available(Cut(ProviderConfig(name="cut"))).route_stream("x"))
    with pytest.raises(MalformedResponseError, match="end marker"):
        await first_available(Cut(ProviderConfig(name="cut")), retry=NO_RETRY).route("x")


async def test_3_every_lease_comes_back_from_cancelled_failed_and_abandoned_calls():
    steps = [Answer("ok", delay=1), Fail(ServerError("x"), delay=1), Hang(), BrokenStream(["a"], ServerError("x"))]
    router = first_available(
        mock("a", *steps * 5, max_concurrency=100), retry=NO_RETRY, breaker=NEVER_OPEN, timeouts=Timeouts(total=10),
    )
    plain = [asyncio.create_task(router.route("x")) for _ in range(12)]
    streams = [router.route_stream("x") for _ in range(8)]
    readers = [asyncio.create_task(anext(stream, None)) for stream in streams]
    await asyncio.sleep(0.5)
    for task in plain[:4] + readers[:2]:
        task.cancel()
    await asyncio.gather(*plain, *readers, return_exceptions=True)
    del streams, readers, plain
    gc.collect()
    await settle()
    assert in_flight(router) == 0


async def test_3_a_forgotten_stream_gives_its_lease_back_at_the_deadline():
    closed = []

    class Slow(BaseProvider):
        async def open_stream(self, request):
            try:
                yield TextDelta("one")
                yield TextDelta("two")
            finally:
                closed.append(asyncio.get_running_loop().time())

    router = first_available(Slow(ProviderConfig(name="a")), timeouts=Timeouts(total=10))
    stream = router.route_stream("x")
    assert await anext(stream) == "one"
    assert in_flight(router) == 1
    await asyncio.sleep(11)
    assert in_flight(router) == 0
    assert closed == [pytest.approx(10)]
    with pytest.raises(StreamInterruptedError) as caught:
        await anext(stream)
    assert caught.value.__cause__.phase == "total"
    assert router.snapshot()["a"].failures == 0


async def test_3_a_connection_comes_back_when_its_reader_leaves():
    class Body(httpx.AsyncByteStream):
        closed = False

        async def __aiter__(self):
            for _ in range(1000):
                yield b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'

        async def aclose(self):
            Body.closed = True

    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())
    )
    async with httpx.AsyncClient(transport=transport) as client:
        config = ProviderConfig(name="a", base_url="http://localhost:1/v1", model="m")
        router = first_available(OpenAICompatibleProvider(config, http_client=client))
        stream = router.route_stream("x")
        await anext(stream)
        await stream.aclose()
    assert Body.closed
    assert in_flight(router) == 0


async def test_4_nothing_after_the_answer_can_lose_the_answer():
    def bad_listener(event):
        raise RuntimeError(f"cannot handle {type(event).__name__}")

    router = first_available(mock("a"), listeners=[bad_listener])
    assert await router.route("x") == "a"
    assert await pieces_of(router.route_stream("x")) == ["a"]


async def test_5_the_callers_fault_is_not_sent_to_a_second_provider():
    second = mock("b")
    router = first_available(mock("a", Fail(InvalidRequestError("bad field"))), second)
    with pytest.raises(InvalidRequestError, match="bad field"):
        await router.route("x")
    assert second.calls == []
    assert router.snapshot()["a"].failures == 0
    assert router.snapshot()["a"].breaker == "closed"


async def test_5_the_providers_fault_is_not_blamed_on_the_caller():
    class Buggy(BaseProvider):
        async def complete(self, request):
            return Completion({}["text"])

    router = first_available(Buggy(ProviderConfig(name="buggy")), mock("b"))
    answer = await router.complete("x")
    assert answer.text == "b"
    assert type(answer.attempts[0].error).__name__ == "ProviderError"
    assert isinstance(answer.attempts[0].error.__cause__, KeyError)


async def test_6_no_attempt_starts_after_the_deadline_and_no_wait_is_longer_than_what_is_left():
    starts: list[float] = []
    loop = asyncio.get_running_loop()

    def note(event):
        if isinstance(event, AttemptStarted):
            starts.append(event.at)

    slow_failure = [Fail(ServerError("x"), delay=3)]
    providers = [mock(name, *slow_failure) for name in "abcd"]
    router = first_available(*providers, timeouts=Timeouts(total=10), listeners=[note])
    begun = loop.time()
    with pytest.raises(OrchestratorError):
        await router.route("x")
    assert loop.time() - begun <= 10.001
    assert all(at - begun < 10 for at in starts)


async def test_6_the_deadline_of_a_call_replaces_the_configured_one():
    router = first_available(mock("a", Hang()))
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError) as caught:
        await router.route("x", timeout=2)
    assert caught.value.phase == "total"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("error", [ServerError("x"), RateLimitError("x", retry_after=0.1)], ids=["500", "429"])
async def test_7_attempts_are_bounded_by_the_requests_and_the_retry_budget(error):
    down = mock("a", Fail(error))
    router = first_available(down, breaker=NEVER_OPEN, timeouts=Timeouts(total=5))
    calls = []
    for _ in range(2000):
        calls.append(asyncio.create_task(router.route("x")))
        await asyncio.sleep(0.02)
    await asyncio.gather(*calls, return_exceptions=True)
    assert len(down.calls) <= 2000 * 1.25 + 10


async def test_7_in_a_total_outage_the_breakers_keep_the_wire_quiet():
    providers = [mock(name, Fail(ConnectionFailedError("x"), delay=0.05)) for name in "abc"]
    router = first_available(*providers, timeouts=Timeouts(total=1))
    calls = []
    for _ in range(2000):
        calls.append(asyncio.create_task(router.route("x")))
        await asyncio.sleep(0.01)
    await asyncio.gather(*calls, return_exceptions=True)
    assert sum(len(provider.calls) for provider in providers) < 200


def run_with_seed(seed: int) -> list[tuple[object, ...]]:
    from orchestrator.testing.loop import VirtualTimeLoop

    history: list[tuple[object, ...]] = []

    def note(event):
        if isinstance(event, AttemptEnded):
            history.append((event.at, event.attempt.provider, event.outcome, event.attempt.duration))

    async def run():
        flaky = [Fail(ServerError("x"), delay=0.1), Answer("ok", delay=0.3), Fail(ServerError("y"), delay=0.2)] * 20
        router = Router("random", [mock("a", *flaky), mock("b", *flaky), mock("c")], seed=seed, listeners=[note])
        for _ in range(30):
            await router.route("x")

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())
    return history


def test_8_the_same_seed_gives_the_same_run():
    assert run_with_seed(7) == run_with_seed(7)
    assert run_with_seed(7) != run_with_seed(8)


async def test_9_a_key_appears_in_no_event_log_line_error_or_repr(caplog):
    caplog.set_level(logging.DEBUG)
    key = "sk-thesecretkey0123456789"
    body = {"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}
    transport = httpx.MockTransport(lambda _: httpx.Response(401, json=body))
    events: list[object] = []
    async with httpx.AsyncClient(transport=transport) as client:
        config = ProviderConfig(name="a", api_key=key, base_url="http://localhost:1/v1", model="m")
        provider = OpenAICompatibleProvider(config, http_client=client)
        router = first_available(provider, listeners=[events.append])
        with pytest.raises(AuthenticationError) as caught:
            await router.route("x")
    shown = [repr(events), str(caught.value), repr(caught.value), repr(provider), repr(config), str(router.snapshot())]
    shown += [record.getMessage() for record in caplog.records]
    assert [text for text in shown if key in text] == []


async def test_10_swapping_providers_drops_no_call_in_flight():
    closed = []

    class Closing(Echo):
        async def generate(self, prompt, params=None):
            await asyncio.sleep(5)
            return await super().generate(prompt)

        async def aclose(self):
            closed.append(self.name)

    old = Closing(ProviderConfig(name="old"))
    router = Router(providers=[old])
    call = asyncio.create_task(router.route("x"))
    await asyncio.sleep(1)
    await router.update_providers([Closing(ProviderConfig(name="new"))])
    assert closed == []
    assert await call == "old: x"
    await settle()
    assert closed == ["old"]
    assert await router.route("y") == "new: y"


async def test_11_memory_does_not_follow_what_a_provider_sends():
    chunk = b"x" * 65536
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            nonlocal sent
            while sent < 2**31:
                sent += len(chunk)
                yield chunk

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
    async with httpx.AsyncClient(transport=transport) as client:
        config = ProviderConfig(name="a", base_url="http://localhost:1/v1", model="m")
        router = first_available(OpenAICompatibleProvider(config, http_client=client), retry=NO_RETRY)
        tracemalloc.start()
        with pytest.raises(MalformedResponseError):
            await router.route("x")
        with pytest.raises(MalformedResponseError):
            await pieces_of(router.route_stream("x"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sent < 200 * 2**20
    assert peak < 200 * 2**20
