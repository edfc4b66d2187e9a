"""Every fault of a simulated provider × plain or streamed × alone or with a healthy second one × every wire format:
the exact answer, or the exact error in bounded time, and nothing left behind.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from fault_table import ANSWER, CASES, VENDORS, Broken, Case, End, Filtered, Whole
from orchestrator import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilteredError,
    Finished,
    InvalidRequestError,
    MalformedResponseError,
    OrchestratorError,
    OverloadedError,
    RateLimitError,
    Router,
    ServerError,
    StreamInterruptedError,
    TextDelta,
    TimeoutError,
)
from orchestrator.testing import Recorder, SimulatedProvider, faults
from orchestrator.testing._exchange import Piece
from orchestrator.testing._fault import BodyFault
from support import settle
from wire import EACH_ENGINE

DEADLINE = 120.0  # Timeouts.total
PATIENCE = 0.25  # RetryPolicy.patience
HEALTHY = "Здоровый ответ"
NEIGHBOUR = {"openai": "gigachat", "gigachat": "yandex", "yandex": "openai"}
TRIES = {ConnectionFailedError: 2, MalformedResponseError: 2, ServerError: 3, OverloadedError: 3}  # others: 1
CALLERS_OWN = {InvalidRequestError, ContentFilteredError}  # no other provider is asked


@dataclass(frozen=True)
class Expected:
    """How a request ends, who is said to have answered, and how many attempts each of the two sees."""

    end: End
    answered_by: str | None
    faulty: int
    healthy: int


def expected(case: Case, vendor: str, mode: str, times: str, company: str) -> Expected:
    end = case.end(vendor, mode)
    if isinstance(end, Whole):
        return Expected(end, "faulty", 1, 0)
    if isinstance(end, Broken | Filtered) or end in CALLERS_OWN:
        return Expected(end, None, 1, 0)
    alone = company == "alone"
    tries = TRIES.get(end, 1)
    if end is RateLimitError:
        in_place = alone or (case.wait is not None and case.wait <= PATIENCE)
        tries = 3 if in_place and (case.wait or 0) < DEADLINE / 3 else 1
    if times == "once" and vendor in case.renewed:
        return Expected(Whole(), "faulty", 1, 0)
    if times == "once" and tries > 1:
        return Expected(Whole(), "faulty", 2, 0)
    return Expected(end, None, tries, 0) if alone else Expected(Whole(HEALTHY), "healthy", tries, 1)


class World:
    """A provider that misbehaves, a healthy one if there shall be company, a router, and what came of a request."""

    def __init__(
        self, vendor: str, company: str, *, servers: Sequence[SimulatedProvider] = (), engine: str | None = None,
        **options: object,
    ) -> None:
        self.faulty, self.healthy = servers or (
            SimulatedProvider(vendor, name="faulty", answer=ANSWER),
            SimulatedProvider(NEIGHBOUR[vendor], name="healthy", answer=HEALTHY),
        )
        self.servers = [self.faulty] if company == "alone" else [self.faulty, self.healthy]
        self.recorder = Recorder()
        self.problems: list[object] = []
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.providers = [server.provider(engine=engine) for server in self.servers]
        self.router = Router("first-available", self.providers, listeners=[self.recorder], seed=1, **options)

    async def ask(self, mode: str) -> tuple[End, str | None]:
        """How a request ends, and who answered; whatever is no error of ours passes through."""
        begun = self.loop.time()
        pieces: list[str] = []
        try:
            return await self._answer(mode, pieces)
        except OrchestratorError as error:
            return self._end_by(error, "".join(pieces)), None
        finally:
            assert self.loop.time() - begun <= DEADLINE + 0.01

    def _end_by(self, error: OrchestratorError, handed_out: str) -> End:
        assert error.attempts == self.recorder.requests[-1].attempts
        if isinstance(error, StreamInterruptedError | ContentFilteredError):
            assert error.partial == handed_out
        if isinstance(error, StreamInterruptedError):
            return Broken(handed_out, type(error.__cause__))
        return Filtered(handed_out) if isinstance(error, ContentFilteredError) and handed_out else type(error)

    async def _answer(self, mode: str, pieces: list[str]) -> tuple[End, str | None]:
        if mode != "stream":
            answer = await self.router.complete("Считай")
            return Whole(answer.text), answer.provider
        ends = []
        async for event in self.router.stream("Считай"):
            if isinstance(event, TextDelta):
                assert not ends
                pieces.append(event.text)
            elif isinstance(event, Finished):
                ends.append(event.completion)
        assert len(ends) == 1
        assert ends[0].text == "".join(pieces)
        return Whole(ends[0].text), ends[0].provider

    def attempts(self, name: str) -> int:
        return sum(attempt.provider == name for attempt in self.recorder.attempts)

    async def check_that_nothing_is_left(self, *, kept: int = 0) -> None:
        """``kept``: connections that each server may keep alive, until the router is closed."""
        await settle()
        assert [one.in_flight for one in self.router.snapshot().values()] == [0] * len(self.servers)
        if kept:
            await self.until(lambda: all(server.connections <= kept for server in self.servers))
        else:
            assert [server.connections for server in self.servers] == [0] * len(self.servers)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        self.recorder.check_invariants()
        assert self.problems == []
        await self.router.aclose()
        await self.until(lambda: not any(server.connections for server in self.servers))

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # the other end of a socket takes its time


EACH_FORMAT = pytest.mark.parametrize(("case", "vendor"), [
    pytest.param(case, vendor, id=f"{case.name}-{vendor}".replace(" ", "_"))
    for case in CASES for vendor in case.vendors
])


@pytest.mark.parametrize("company", ["alone", "in_company"])
@pytest.mark.parametrize("mode", ["plain", "stream"])
@EACH_FORMAT
async def test_a_fault_costs_no_answer_that_could_be_had(case, vendor, mode, company):
    for times in ("once", "always"):
        world = World(vendor, company)
        if times == "once":
            world.faulty.fail_next(case.fault)
        else:
            world.faulty.behave(failure=case.fault, failure_rate=1)
        end, who = await world.ask(mode)
        met = Expected(end, who, world.attempts("faulty"), world.attempts("healthy"))
        assert met == expected(case, vendor, mode, times, company), f"{times}:\n{world.recorder.text()}"
        await world.check_that_nothing_is_left()


@EACH_FORMAT
async def test_a_plain_call_read_as_a_stream_goes_on_elsewhere_whenever_it_breaks(case, vendor):
    world = World(vendor, "in_company", stream_plain_calls=True)
    world.faulty.behave(failure=case.fault, failure_rate=1)
    begun = world.loop.time()
    end, who = await world.ask("hidden")
    met = Expected(end, who, world.attempts("faulty"), world.attempts("healthy"))
    assert met == expected(case, vendor, "hidden", "always", "in_company"), world.recorder.text()
    assert world.loop.time() - begun <= 45
    await world.check_that_nothing_is_left()


SILENT = [case for case in CASES if isinstance(case.fault, faults.Hang | faults.KeepAliveOnly | faults.Latency)]
SILENT = [case for case in SILENT if case.plain is TimeoutError]


@pytest.mark.parametrize("mode", ["plain", "stream"])
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("case", SILENT, ids=lambda case: case.name.replace(" ", "_"))
async def test_a_caller_who_leaves_a_silent_provider_leaves_nothing_behind(case, vendor, mode):
    world = World(vendor, "in_company")
    world.faulty.behave(failure=case.fault, failure_rate=1)
    asking = asyncio.create_task(world.ask(mode))
    await asyncio.sleep(5)
    assert asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.healthy.received == 0
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("fault", [faults.Hang(1), faults.Cut(1), faults.Endless(1), faults.KeepAliveOnly(1)], ids=repr)
async def test_a_reader_who_leaves_before_the_stream_breaks_leaves_nothing_behind(fault, vendor):
    world = World(vendor, "in_company")
    world.faulty.fail_next(fault)
    stream = world.router.route_stream("Считай")
    assert await anext(stream) == "Один "
    await stream.aclose()
    assert world.healthy.received == 0
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize("mode", ["plain", "stream"])
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("how", "error"), [
    ("refuse", ConnectionFailedError), ("503", OverloadedError), ("hang", TimeoutError)])
async def test_an_outage_costs_no_answer(how, error, vendor, mode):
    world = World(vendor, "in_company")
    world.faulty.down(how)
    assert await world.ask(mode) == (Whole(HEALTHY), "healthy")
    assert {type(attempt.error) for attempt in world.recorder.attempts[:-1]} == {error}
    await asyncio.sleep(30)  # the fetch of a token belongs to no caller, and has a limit of its own
    await world.check_that_nothing_is_left()
    alone = World(vendor, "alone")
    alone.faulty.down(how)
    assert await alone.ask(mode) == (error, None)
    await asyncio.sleep(30)
    await alone.check_that_nothing_is_left()


@pytest.mark.parametrize("mode", ["plain", "stream"])
@pytest.mark.parametrize(("fault", "error", "tries"), [
    (faults.Status(500), ServerError, 3), (faults.Status(503), OverloadedError, 3),
    (faults.Status(401), AuthenticationError, 1), (faults.Status(400, code=7), AuthenticationError, 1),
    (faults.RateLimited(600), RateLimitError, 1), (faults.Hang(), TimeoutError, 1),
    (faults.Disconnect(), ConnectionFailedError, 2), (faults.Cut(), MalformedResponseError, 2),
    (faults.NoHttp(), ConnectionFailedError, 2), (faults.NULL, MalformedResponseError, 2),
    (faults.HTML, MalformedResponseError, 2), (faults.Body("{}"), MalformedResponseError, 2),
    (faults.Endless(0, chunk=2**20), MalformedResponseError, 2),
], ids=repr)
async def test_gigachats_oauth_may_fail_in_every_way(fault, error, tries, mode):
    for company, end in [("alone", (error, None)), ("in_company", (Whole(HEALTHY), "healthy"))]:
        world = World("gigachat", company)
        world.faulty.script([fault] * 3, on="token")
        assert await world.ask(mode) == end
        assert world.attempts("faulty") == tries
        assert {type(attempt.error) for attempt in world.recorder.attempts[:tries]} == {error}
        await asyncio.sleep(30)
        await world.check_that_nothing_is_left()
    world = World("gigachat", "in_company")
    world.faulty.fail_next(fault, on="token")
    assert await world.ask(mode) == ((Whole(), "faulty") if tries > 1 else (Whole(HEALTHY), "healthy"))
    await asyncio.sleep(30)
    await world.check_that_nothing_is_left()


async def test_tokens_that_expire_while_answers_are_on_their_way_are_renewed_unseen():
    world = World("gigachat", "in_company")
    world.faulty.behave(latency=1, tokens_per_second=1)
    world.faulty.script([None, faults.TokensExpire(), None, faults.TokensExpire()] * 3)
    for mode in ("plain", "stream", "stream", "plain"):
        asked = await asyncio.gather(*(world.ask(how) for how in (mode, "plain", "stream")))
        assert asked == [(Whole(), "faulty")] * 3
    assert {attempt.error for attempt in world.recorder.attempts} == {None}
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize(("vendor", "after"), [("openai", 1), ("openai", 2), ("gigachat", 1)])
@pytest.mark.parametrize("fault", [faults.Cut, faults.Hang, faults.ErrorInside])
async def test_a_stream_that_breaks_within_a_tool_call_is_no_tool_call(fault, vendor, after):
    world = World(vendor, "in_company")
    world.faulty.fail_next(fault(after=after))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"name": "weather", "description": "The weather", "parameters": schema}]
    choice = {"type": "function", "function": {"name": "weather"}}
    ends = []
    with pytest.raises(StreamInterruptedError) as caught:
        async for event in world.router.stream("Погода?", tools=tools, tool_choice=choice):
            ends += [event] * isinstance(event, Finished)
    assert (caught.value.partial, ends, world.healthy.received) == ("", [], 0)
    del caught
    await world.check_that_nothing_is_left()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_filtered_answer_goes_to_the_next_provider_only_if_the_router_may(vendor):
    world = World(vendor, "in_company")
    router = Router("first-available", world.providers, failover_on_content_filter=True, listeners=[world.recorder])
    world.faulty.behave(failure=faults.Altered(finish="content_filter"), failure_rate=1)
    assert await router.route("Считай") == HEALTHY
    with pytest.raises(ContentFilteredError):  # what was handed out cannot be taken back
        [piece async for piece in router.route_stream("Считай")]
    await router.aclose()


@dataclass(frozen=True)
class InHalves(BodyFault):
    """The vendor cuts its text between UTF-16 units: of each emoji these halves come, as events of their own."""

    halves: Sequence[bytes] = (b"\\ud83c", b"\\udf0d")

    async def _stream(self, reply):
        emoji, whole = "🌍".encode(), b"".join(self.halves)
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                before, found, after = piece.data.rpartition(emoji)
                before = before.replace(emoji, whole)  # each line of YandexGPT has the whole text so far
                if found and piece.kind == "text":
                    for number, half in enumerate(self.halves[:-1], start=1):
                        sent = b"".join(self.halves[:number]) if reply.dialect.vendor == "yandex" else half
                        yield Piece(piece.kind, before + sent + after.removeprefix(b" "))
                part = self.halves[-1] if piece.kind == "text" and reply.dialect.vendor != "yandex" else whole
                yield Piece(piece.kind, before + part * bool(found) + after)


@pytest.mark.parametrize("mode", ["plain", "stream", "hidden"])
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("halves", "text"), [
    ((b"\\ud83c", b"\\udf0d"), "🌍"), ((b"\\ud83c",), "\ufffd"), ((b"\\udf0d",), "\ufffd"),
    ((b"\\udf0d", b"\\ud83c"), "\ufffd\ufffd"), ((b"\\ud83c", b"\\ud83c", b"\\udf0d"), "\ufffd🌍"),
])
@pytest.mark.parametrize("answer", ["🌍", "Мир 🌍", "Мир 🌍 и мир", "🌍 🌍"])
async def test_an_emoji_in_halves_is_one_emoji(vendor, mode, halves, text, answer):
    world = World(vendor, "in_company", stream_plain_calls=mode == "hidden")
    world.faulty.behave(answer=answer)
    world.faulty.fail_next(InHalves(halves=halves))
    assert await world.ask(mode) == (Whole(answer.replace("🌍", text)), "faulty")
    await world.check_that_nothing_is_left()


async def test_memory_does_not_follow_an_endless_body():
    floods = faults.Endless(0), faults.Endless(1), faults.Bomb(100 * 2**20), faults.Repeat("text", times=2000)
    worlds = {fault: [World("openai", "in_company") for _ in range(2)] for fault in floods}
    await World("openai", "alone").ask("plain")
    tracemalloc.start()
    try:
        for fault, pair in worlds.items():
            for world, mode in zip(pair, ("plain", "stream"), strict=True):
                world.faulty.fail_next(fault)
                await world.ask(mode)
                await world.check_that_nothing_is_left()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 * 2**20  # the largest body that is taken has 16 MiB


# Faults happen below the wire formats, which are decoded above the engines: one format shows each fault to an engine.
@pytest.mark.parametrize("mode", ["plain", "stream"])
@pytest.mark.parametrize("case", [case for case in CASES if "openai" in case.vendors], ids=lambda case: case.name)
@EACH_ENGINE
async def test_over_sockets_each_fault_is_the_same_to_both_engines(case, mode, engine):
    faulty = SimulatedProvider("openai", name="faulty", answer=ANSWER)
    healthy = SimulatedProvider("openai", name="healthy", answer=HEALTHY)
    async with faulty, healthy:  # both ends are in this loop: its clock is virtual all the same
        world = World("openai", "in_company", servers=[faulty, healthy], engine=engine)
        faulty.fail_next(case.fault)
        end, who = await world.ask(mode)
        met = Expected(end, who, world.attempts("faulty"), world.attempts("healthy"))
        assert met == expected(case, "openai", mode, "once", "in_company"), world.recorder.text()
        await world.check_that_nothing_is_left(kept=1)
