"""Both providers against the simulated servers: in memory, through virtual hours and every fault, and over HTTP."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any

import pytest

from orchestrator.core.accumulate import Accumulator
from orchestrator.core.config import GenerationParams
from orchestrator.core.errors import AuthenticationError, OrchestratorError, ServerError
from orchestrator.core.types import Completion, Message, Request, ResponseFormat, TextDelta, Tool, ToolChoice
from orchestrator.providers.base import BaseProvider
from orchestrator.testing import SimulatedProvider
from orchestrator.testing import faults as f

VENDORS = ["gigachat", "yandex"]
TEXT = "Ёжик в тумане ищет друга."
WEATHER = Tool("weather", "Weather", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(params=VENDORS)
def server(request: pytest.FixtureRequest) -> SimulatedProvider:
    return SimulatedProvider(request.param, answer=TEXT)


async def whole(provider: BaseProvider, request: Request) -> Completion:
    answer = Accumulator()
    async for event in provider.open_stream(request):
        answer.add(event)
    return answer.completion(provider.name)


async def asked(provider: BaseProvider, stream: bool, **fields: Any) -> Completion:
    request = Request(None if "messages" in fields else "Hi", stream=stream, **fields)
    return await (whole(provider, request) if stream else provider.complete(request))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
class TestInMemory:
    async def test_an_answer(self, server: SimulatedProvider, stream: bool):
        answer = await asked(server.provider(), stream, params=GenerationParams(temperature=0.5, max_tokens=100))
        assert (answer.text, answer.finish_reason) == (TEXT, "stop")
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0

    async def test_the_token_limit(self, server: SimulatedProvider, stream: bool):
        answer = await asked(server.provider(), stream, params=GenerationParams(max_tokens=2))
        assert answer.finish_reason == "length"
        assert TEXT.startswith(answer.text)

    async def test_a_tool_and_its_result(self, server: SimulatedProvider, stream: bool):
        provider = server.provider()
        question = Message("user", "weather?")
        choice = ToolChoice("named", "weather")
        answer = await asked(provider, stream, messages=(question,), tools=(WEATHER,), tool_choice=choice)
        assert answer.finish_reason == "tool_calls"
        [call] = answer.tool_calls
        assert call.name == "weather"
        result = Message("tool", "-20 °C", (), call.id)
        again = (question, Message("assistant", "", answer.tool_calls), result)
        assert (await asked(provider, stream, messages=again)).text == TEXT

    async def test_json_by_schema(self, server: SimulatedProvider, stream: bool):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        answer = await asked(server.provider(), stream, response_format=ResponseFormat(schema))
        assert '"city"' in answer.text

    @pytest.mark.parametrize("fault", [
        f.Status(500), f.Status(401), f.Status(429), f.Status(502, body="<html></html>"), f.RateLimited(),
        f.Body(""), f.Hang(), f.Hang(after=1), f.Disconnect(), f.Disconnect(reset=True),
        f.Cut(after=2), f.Cut(after=2, how="reset"), f.Cut(after=2, how="end"), f.Cut(after=0, how="end"),
        f.ShortBody(), f.ErrorInside(after=0), f.ErrorInside(after=2), f.Endless(), f.KeepAliveOnly(),
        f.Split(1), f.Split(3), f.Crlf(), f.Repeat("finish"), f.Repeat("end"), f.Drop("end"), f.Drop("finish"),
        f.MALFORMED_JSON, f.HTML, f.NULL, f.EMPTY_ANSWER, f.NO_USAGE, f.Altered(finish="content_filter"),
    ], ids=repr)
    async def test_whatever_happens_the_end_is_the_whole_answer_or_an_error_of_ours(
        self, server: SimulatedProvider, stream: bool, fault: f.Fault
    ):
        provider = server.provider(max_retries=0, timeout=20)
        renewed = fault == f.Status(401) and server.vendor == "gigachat"  # by a new token, once
        server.fail_next(fault, times=2 if renewed else 1)
        [outcome] = await asyncio.gather(asked(provider, stream), return_exceptions=True)
        if isinstance(outcome, Completion):
            # A router takes an empty or filtered answer of a stream for the error it stands for.
            assert outcome.text == TEXT or outcome.finish_reason == "content_filter" or fault == f.EMPTY_ANSWER
        else:
            assert isinstance(outcome, OrchestratorError)
        assert (await asked(provider, stream)).text == TEXT
        assert server.connections == 0


class TestTokens:
    async def test_hours_of_calls_with_tokens_that_expire(self):
        server = SimulatedProvider("gigachat", answer=TEXT, latency=0.3)
        provider = server.provider(max_retries=0)
        for minute in range(3 * 60):
            if minute == 100:
                server.expire_tokens()
            assert await provider.generate("Hi") == TEXT
            await asyncio.sleep(60)
        paths = [request.path for request in server.requests]
        assert sum(path.endswith("/oauth") for path in paths) in (7, 8)
        assert len(paths) - 3 * 60 in (8, 9)

    async def test_a_key_of_another_scope(self):
        provider = SimulatedProvider("gigachat", scope="GIGACHAT_API_CORP").provider(max_retries=0)
        with pytest.raises(AuthenticationError, match="scope"):
            await provider.generate("Hi")
        assert not await provider.health_check()
        provider.config.scope = "GIGACHAT_API_CORP"
        assert await provider.health_check()

    async def test_an_outage_of_the_oauth_server_is_survived_on_the_token_that_is_still_good(self):
        server = SimulatedProvider("gigachat", answer=TEXT)
        provider = server.provider(max_retries=0)
        await provider.generate("Hi")
        server.fail_next(f.Status(503), times=4, on="token")
        await asyncio.sleep(1800 - 55)
        for _ in range(50):
            assert await provider.generate("Hi") == TEXT
            await asyncio.sleep(1)


@pytest.mark.real_time
class TestOverSockets:
    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
    async def test_an_answer_through_torn_bytes(self, server: SimulatedProvider, stream: bool):
        async with server, server.provider() as provider:
            assert await provider.health_check()
            server.fail_next(f.Split(5))
            assert (await asked(provider, stream)).text == TEXT

    async def test_many_at_once_share_a_token_and_connections_are_used_again(self, server: SimulatedProvider):
        async with server, server.provider() as provider:
            for _ in range(3):
                answers = await asyncio.gather(*(asked(provider, n % 2 == 0) for n in range(10)))
                assert {answer.text for answer in answers} == {TEXT}
            assert server.connections <= 10
            assert sum(request.path.endswith("/oauth") for request in server.requests) <= 1

    async def test_an_error_and_an_abandoned_stream_leave_nothing_behind(self, server: SimulatedProvider):
        server.behave(tokens_per_second=20.0)
        async with server, server.provider(max_retries=0) as provider:
            server.fail_next(f.Status(500))
            with pytest.raises(ServerError):
                await provider.generate("Hi")
            events = provider.open_stream(Request("Hi", stream=True))
            assert isinstance(await anext(events), TextDelta)
            await events.aclose()
            with pytest.raises(builtins.TimeoutError):
                async with asyncio.timeout(0.05):
                    await provider.generate("Hi")
            server.behave(tokens_per_second=None)
            assert await provider.generate("Hi") == TEXT
