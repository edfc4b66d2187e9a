"""Each limit against a real server on loopback that floods: a typed error that names the limit, and flat memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from contextlib import asynccontextmanager

import httpx
import pytest

from fake_http import FakeHttp
from orchestrator import ConnectionFailedError, MalformedResponseError, ProviderConfig, ProviderError, TimeoutError
from orchestrator.core.types import Request, TextDelta
from orchestrator.providers import GigaChatProvider, OpenAICompatibleProvider, WireLimits, YandexGPTProvider
from orchestrator.testing import SimulatedProvider

MIB = 2**20
FLAT = 200 * MIB

pytestmark = pytest.mark.real_time


@asynccontextmanager
async def server(*parts, times=1, head=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", seen=None):
    """A server that sends ``head``, the first part, the second one so many times, and the rest, until nobody reads."""

    async def serve(reader, writer):
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(asked)
            writer.write(head)
            for number, part in enumerate(parts):
                for _ in range(times if number == 1 else 1):
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def provider(vendor, url, **limits):
    config = ProviderConfig(
        name="p", api_key="key", base_url=url, auth_url=url, model="m", folder_id="f", max_retries=0, timeout=60
    )
    if vendor == "gigachat":
        made = GigaChatProvider(config, limits=WireLimits(**limits))
        made._tokens._value, made._tokens._renew_at = "token", float("inf")
        return made
    kind = OpenAICompatibleProvider if vendor == "openai" else YandexGPTProvider
    return kind(config, limits=WireLimits(**limits))


async def flood(vendor, mode, url, **limits):
    """How a call ends at a server that floods, and the peak of the memory it took."""
    one = provider(vendor, url, **limits)
    tracemalloc.start()
    try:
        async with one:
            if mode == "plain":
                return await one.complete(Request("hi"))
            async for _ in one.open_stream(Request("hi", stream=True)):
                pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < FLAT
    return None


def delta(content="", **more):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": content, **more}}]}).encode() + b"\n\n"


def calls(part):
    return [{"index": n, "id": f"{n}", "function": {"name": "f"}} for n in range(part * 200, part * 200 + 200)]


CALL = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "x" * 30_000}}]}
EMOJI = "🌍".encode()
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
GZIP_HEAD = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n"

FLOODS = {
    "a body": ("plain", (b'{"choices": ["', b"x" * MIB), 100, "the body is longer than 16777216 bytes"),
    "a body with an emoji": ("plain", (EMOJI, b"x" * MIB), 15, "the body is not JSON"),
    "a text with emojis": (
        "plain", (b'{"choices":[{"message":{"content":"' + EMOJI, b"x" * MIB, b'"}}'), 15, "the body is not JSON"),
    "values": ("plain", (b'{"choices": [', b"{},[]," * 100_000, b"0]}"), 20, "more than 1000000 JSON values"),
    "depth": ("plain", (b"", b"[" * 100_000), 9, "nested deeper than 100 levels"),
    "brackets beside each other": ("plain", (b"[", b"[]," * 1000, b"0]"), 400, "the reply is list, not an object"),
    "a line": ("stream", (delta(), b"x" * MIB), 100, "a line of the stream is longer than 1048576 bytes"),
    "lines of one event": ("stream", (delta(), b"data:\n" * 10_000), 1000, "an event of the stream is longer than"),
    "comment lines": ("stream", (delta(), b":\n" * 10_000), 100, "the stream was cut"),  # a million, and no harm done
    "blank lines": ("stream", (delta(), b"\r\n" * 10_000), 100, "the stream was cut"),
    "comments for ever": ("stream", (delta(), b": keep-alive\n" * 10_000), 1000, "stream is longer than 8388608 bytes"),
    "empty deltas": ("stream", (b"", delta() * 1000), 1000, "the stream has more than 50000 events"),
    "deltas": ("stream", (b"", delta("x" * 60_000) * 10), 1_000, "the stream is longer than 67108864 bytes"),
    "tool calls": ("stream", [delta(tool_calls=calls(part)) for part in range(10)], 1, "has more than 1000 tool calls"),
    "arguments": ("stream", (b"", delta(**CALL)), 1000, "arguments of the tool calls are longer than 4194304 char"),
    "a bomb": ("plain", (gzip.compress(b" " * 100 * MIB, 1),), 1, "the body is longer than 16777216 bytes"),
    "a bomb in a stream": ("stream", (gzip.compress(b"\n" * 100 * MIB, 1),), 1, "stream is longer than 8388608 bytes"),
}
SOONER = {  # where the default takes long to reach
    "lines of one event": {"line": 100_000}, "comments for ever": {"stream": 8 * MIB},
    "empty deltas": {"events": 50_000}, "a bomb in a stream": {"stream": 8 * MIB},
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_a_typed_error_that_names_the_limit_and_memory_stays_flat(name):
    mode, parts, times, message = FLOODS[name]
    head = GZIP_HEAD if "bomb" in name else SSE_HEAD
    async with server(*parts, times=times, head=head) as url:
        with pytest.raises(MalformedResponseError, match=message) as caught:
            await flood("openai", mode, url, **SOONER.get(name, {}))
    assert "xxx" not in str(caught.value)


NDJSON = b'{"result":{"alternatives":[{"message":{"text":"%s"},"status":"ALTERNATIVE_STATUS_PARTIAL"}]}}\n'
GIGA_CALL = b'data: {"choices":[{"delta":{"function_call":{"name":"f","arguments":{"a":"%s"}}}}]}\n\n'


@pytest.mark.parametrize(("vendor", "mode", "part", "message"), [
    ("yandex", "stream", NDJSON % b"", "the stream has more than 1000 events"),
    ("yandex", "stream", b"x" * 9999, "a line of the stream is longer than 5000 bytes"),
    ("yandex", "stream", NDJSON % (b"x" * 4000), "the stream is longer than 900000 bytes"),
    ("yandex", "plain", b"x" * 9999, "the body is longer than 800000 bytes"),
    ("yandex", "plain", b"[" * 9999, "the body is longer than 800000 bytes"),
    ("gigachat", "stream", delta(), "the stream has more than 1000 events"),
    ("gigachat", "stream", b"x" * 9999, "a line of the stream is longer than 5000 bytes"),
    ("gigachat", "stream", delta("x" * 3000), "the stream is longer than 900000 bytes"),
    ("gigachat", "stream", GIGA_CALL % (b"x" * 600), "the arguments of a tool call are longer than 500 characters"),
    ("gigachat", "plain", b"x" * 9999, "the body is longer than 800000 bytes"),
])
async def test_what_is_configured_bounds_every_wire_format(vendor, mode, part, message):
    limits = {"body": 800_000, "line": 5_000, "stream": 900_000, "events": 1000, "arguments": 500}
    async with server(b"", part, times=10_000, head=SSE_HEAD) as url:
        with pytest.raises(MalformedResponseError, match=message):
            await flood(vendor, mode, url, **limits)


@pytest.mark.parametrize("vendor", ["openai", "gigachat", "yandex"])
@pytest.mark.parametrize("mode", ["plain", "stream"])
@pytest.mark.parametrize(("block", "error"), [
    (b"x: " + b"y" * 90_000 + b"\r\n", MalformedResponseError), (b"x: " + b"y" * MIB + b"\r\n", ConnectionFailedError),
    (b"x: y\r\n" * 12_000, MalformedResponseError), (b"x: y\r\n" * 100_000, ConnectionFailedError),
])
async def test_a_block_of_headers_is_bounded(vendor, mode, block, error):
    head = b"HTTP/1.1 200 OK\r\n" + block + b"\r\n"
    async with server(head=head) as url:
        with pytest.raises(error) as caught:
            await flood(vendor, mode, url)
    if error is MalformedResponseError:
        assert caught.value.message == "the headers are longer than 65536 bytes"


async def test_headers_of_an_injected_client_are_bounded_and_its_connection_is_given_back():
    response = httpx.Response(200, headers=[(f"x-{n}", "") for n in range(100_000)], content=b"{}")
    one = OpenAICompatibleProvider(
        ProviderConfig(name="p", model="m", max_retries=0), http_client=FakeHttp(response).client)
    with pytest.raises(MalformedResponseError, match="the headers are longer than 65536 bytes"):
        await one.complete(Request("hi"))
    assert response.is_closed


@pytest.mark.parametrize(("index", "count"), [(10**9, 1), (-1, 1), (10**400, 1), ("null", 1), ("1e999", 1), ('"0"', 1)])
async def test_a_tool_call_may_have_any_number(index, count):
    call = '{"index": %s, "id": "a", "function": {"name": "f", "arguments": "{}"}}' % index  # noqa: UP031
    frame = 'data: {"choices":[{"delta":{"tool_calls":[%s]},"finish_reason":"stop"}]}\n\n' % call  # noqa: UP031
    async with server(frame.encode()) as url, provider("openai", url) as one:
        events = [event async for event in one.open_stream(Request("hi", stream=True))]
    assert [event.index for event in events[:-1]] == [0] * count


async def test_a_plain_answer_that_comes_as_a_stream_is_read_as_one():
    frame = delta("Hel") + delta("lo") + b"data: [DONE]"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    async with server(frame, head=head) as url, provider("openai", url) as one:
        assert (await one.complete(Request("hi"))).text == "Hello"
    async with server(delta("Hel")) as url, provider("openai", url) as one:
        with pytest.raises(MalformedResponseError, match="cut"):
            await one.complete(Request("hi"))


async def test_a_stream_that_comes_as_json_is_read_as_that_and_bounded():
    body = b'\xef\xbb\xbf\n {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}'
    async with server(*[body[n:n + 1] for n in range(len(body))]) as url, provider("openai", url) as one:
        events = [event async for event in one.open_stream(Request("hi", stream=True))]
    assert events[0] == TextDelta("Hello")
    async with server(body, b" " * 1000, times=1000) as url:
        with pytest.raises(MalformedResponseError, match="the body is longer than 9000 bytes"):
            await flood("openai", "stream", url, body=9000)


async def test_a_silent_server_of_headers_is_ended_by_the_limit_of_time():
    async with server(b"", b"", times=0, head=b"HTTP/1.1 200 OK\r\n") as url:
        one = OpenAICompatibleProvider(ProviderConfig(name="p", model="m", base_url=url, max_retries=0, timeout=0.05))
        async with one:
            with pytest.raises((TimeoutError, ConnectionFailedError)):
                await one.complete(Request("hi"))


# --- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("mode", ["plain", "stream", "health"])
@pytest.mark.parametrize("vendor", ["openai", "gigachat", "yandex"])
async def test_a_redirect_is_not_followed_and_nobody_else_gets_the_key(vendor, mode, status):
    seen, elsewhere = [], []
    async with server(b"{}", seen=elsewhere) as other:
        head = f"HTTP/1.1 {status} X\r\nlocation: {other}/v1\r\ncontent-length: 0\r\n\r\n".encode()
        async with server(head=head, seen=seen) as url, provider(vendor, url) as one:
            if mode == "health":
                assert not await one.health_check()
            else:
                with pytest.raises(ProviderError, match="redirects are not followed"):
                    await flood(vendor, mode, url)
    assert (len(seen), elsewhere) == (1, [])
    assert b"authorization:" in seen[0].lower()


@pytest.mark.parametrize("mode", ["plain", "stream"])
async def test_a_redirect_of_the_oauth_endpoint_is_not_followed(mode):
    elsewhere, seen = [], []
    async with server(b'{"access_token": "t", "expires_at": 1e12}', seen=elsewhere) as other:
        head = f"HTTP/1.1 307 X\r\nlocation: {other}\r\ncontent-length: 0\r\n\r\n".encode()
        async with server(head=head, seen=seen) as auth, SimulatedProvider("gigachat") as chat:
            one = GigaChatProvider(chat.config(auth_url=auth, max_retries=0))
            with pytest.raises(ProviderError, match="redirects are not followed"):
                if mode == "plain":
                    await one.complete(Request("hi"))
                else:
                    [event async for event in one.open_stream(Request("hi", stream=True))]
            await one.aclose()
            assert chat.received == 0
    assert (len(seen), elsewhere) == (1, [])
