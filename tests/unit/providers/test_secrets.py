"""No key, token, password or prompt in what is shown of a failure: errors, logs, events, spans, tracebacks' locals."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import asynccontextmanager, suppress
from types import TracebackType

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import ProviderConfig, RetryPolicy, Router, Timeouts
from orchestrator.core.types import Message, Request, Tool
from orchestrator.providers import GigaChatProvider, OpenAICompatibleProvider, YandexGPTProvider
from orchestrator.telemetry import LoggingListener, OpenTelemetryListener
from orchestrator.testing import Recorder

pytestmark = pytest.mark.real_time

KEY = "kEy-5e1f7a90c2"
TOKEN = "tOkEn-77d0b3e4f1"
PASSWORD = "pAsSw0rd-44aa"
EXTRA = "eXtRa-9b8c7d"
PROMPT = "PrOmPt of the user"
CREDENTIALS = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = (KEY, TOKEN, PASSWORD, EXTRA, CREDENTIALS)


def shown(error):
    """Everything a tool could show of an error: its text and the locals of our frames, causes and contexts included."""
    seen, waiting = set(), [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        waiting += [attempt.error for attempt in getattr(one, "attempts", ())]
        yield "text", f"{one} {one!r} {vars(one)!r}"
        yield from of_frames(one.__traceback__)


def of_frames(traceback: TracebackType | None):
    while traceback is not None:
        frame = traceback.tb_frame
        if "/orchestrator/" in frame.f_code.co_filename:
            for name, value in frame.f_locals.items():
                yield f"{frame.f_code.co_filename}:{traceback.tb_lineno} {name}", repr(value)
        traceback = traceback.tb_next


def leaks(error, *words):
    return [(where, word) for where, text in shown(error) for word in words if word.lower() in text.lower()]


# --- a server that fails in every way, and repeats what it was sent -------------------------------------------------

HEAD = "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nset-cookie: k={key}\r\nx-key: {key}\r\n\r\n"
ECHO = f"{KEY} {PASSWORD} {EXTRA} {CREDENTIALS} {PROMPT}"
REPLIES = {
    "401": (401, json.dumps({"error": {"message": f"Incorrect API key provided: {ECHO}", "code": KEY}})),
    "403": (403, f"forbidden: {ECHO}"),
    "400": (400, json.dumps({"error": {"message": f"wrong: {ECHO}", "param": ECHO}})),
    "500": (500, json.dumps({"message": f"failed: {ECHO}"})),
    "307": (307, ECHO),
    "garbage": (200, f"<html>{ECHO}"),
    "broken JSON": (200, f'{{"choices": [{{"message": {{"content": "{ECHO}'),
    "deep": (200, "[" * 200 + json.dumps(ECHO) + "]" * 200),
    "no choices": (200, json.dumps({"echo": ECHO, "result": {"echo": ECHO}})),
    "error inside": (200, json.dumps({"error": {"message": ECHO, "code": KEY}})),
    "error in an event": (200, f'data: {json.dumps({"error": {"message": ECHO}})}\n\n'),
    "broken event": (200, f'data: {{"echo": "{ECHO}"\n\n'),
    "odd finish": (200, f'data: {{"choices": [{{"delta": {{"content": "x"}}, "finish_reason": ["{ECHO}"]}}]}}\n\n'),
    "content is a list": (200, json.dumps({"choices": [{"message": {"content": {"echo": ECHO}}, "echo": ECHO}]})),
    "not UTF-8": (200, f"data: {ECHO} \udcff\n\n"),
    "cut": (200, f'data: {{"choices": [{{"delta": {{"content": "{PROMPT}"}}}}]}}\n\n'),
    "wrong length": (200, f'\0data: {{"choices": [{{"delta": {{"content": "{ECHO}'),
    "hang": (200, None),
    "no HTTP": (0, ECHO),
}


def as_told(vendor, status, body):
    """The reply as this vendor's server can give it: it repeats what it was sent, which is a token or a key."""
    return status, body.replace(KEY, TOKEN) if body and vendor == "yandex iam" else body


@asynccontextmanager
async def server(status, body, *, token_status=200, token_body=None):
    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            if asked.startswith(b"POST /oauth"):
                told = token_body or json.dumps({"access_token": TOKEN, "expires_at": 2e12})
                writer.write(f"HTTP/1.1 {token_status} X\r\nconnection: close\r\n\r\n{told}".encode())
            elif status:
                head = HEAD.format(status=status, key=KEY)
                if body and body.startswith("\0"):
                    head = head.replace("\r\n\r\n", "\r\ncontent-length: 9999\r\n\r\n")
                writer.write(head.encode() + (body or "").lstrip("\0").encode(errors="surrogateescape"))
            else:
                writer.write(body.encode())
            await writer.drain()
            if body is None:
                await reader.read()  # until the client leaves
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://user:{PASSWORD}@127.0.0.1:{port}"
    finally:
        listening.close()
        if serving:
            await asyncio.wait(serving, timeout=5)  # until each has seen that the client is gone


async def iam():
    return TOKEN


def provider(vendor, url, **more):
    config = ProviderConfig(**({
        "name": "p", "api_key": None if vendor == "yandex iam" else KEY, "base_url": f"{url}/v1", "model": "m",
        "auth_url": f"{url}/oauth", "folder_id": "f", "max_retries": 0, "timeout": 0.3,
        "headers": {"x-extra-key": EXTRA},
    } | more))
    if vendor == "openai":
        return OpenAICompatibleProvider(config)
    if vendor == "gigachat":
        return GigaChatProvider(config)
    return YandexGPTProvider(config, iam_token=iam if vendor == "yandex iam" else None)


async def failure(asking):
    try:
        await asking
    except Exception as error:  # noqa: BLE001  # all of them are looked at
        return error
    return None


async def read(one, stream):
    request = Request(PROMPT, stream=stream)
    if stream:
        return [event async for event in one.open_stream(request)]
    return await one.complete(request)


VENDORS = pytest.mark.parametrize("vendor", ["openai", "gigachat", "yandex", "yandex iam"])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@STREAM
@VENDORS
@pytest.mark.parametrize("reply", REPLIES)
async def test_a_failure_shows_no_secret_even_of_a_server_that_repeats_them(vendor, reply, stream, caplog):
    caplog.set_level(logging.DEBUG)
    async with server(*as_told(vendor, *REPLIES[reply])) as url:
        one = provider(vendor, url)
        error = await failure(read(one, stream))
        assert PROMPT not in logged(caplog)
        if reply != "hang":  # it would take its time
            assert not await one.health_check() or REPLIES[reply][0] == 200
        await one.aclose()
    if error is None:
        assert (vendor, reply) == ("openai", "odd finish")
        return
    assert leaks(error, *SECRETS) == []
    assert [word for word in SECRETS if word in logged(caplog)] == []
    if not reply.isdecimal() and "error" not in reply:
        assert [leak for leak in leaks(error, PROMPT) if leak[0] != "text"] == []


def logged(caplog):
    """Our lines, and httpx's, which name the URL; httpcore logs, at DEBUG, the headers of a response."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("orch", "httpx")))


@STREAM
@VENDORS
@pytest.mark.parametrize("how", ["refused", "no TLS", "bad header", "closed", "bad bundle"])
async def test_a_failure_before_an_answer_shows_no_secret(vendor, how, stream):
    async with server(200, None) as url:
        pass
    more = {
        "no TLS": {"base_url": url.replace("http:", "https:") + "/v1"}, "bad bundle": {"ca_bundle": "/nowhere.pem"},
        "bad header": {"headers": {"x-extra-key": f"{EXTRA}\n"}},
    }.get(how, {})
    one = provider(vendor, url, **more)
    if how == "closed":
        await one.aclose()
    error = await failure(read(one, stream))
    await one.aclose()
    assert error is not None
    assert leaks(error, *SECRETS, PROMPT) == []


@STREAM
@pytest.mark.parametrize(("status", "body"), [
    (401, f'{{"code": 6, "message": "credentials: {ECHO}"}}'), (400, ECHO), (500, ECHO), (307, ECHO), (200, ECHO),
    (200, json.dumps({"access_token": TOKEN, "expires_at": ECHO})), (200, json.dumps({"access_token": [TOKEN]})),
    (200, json.dumps([TOKEN])),
])
async def test_a_refusal_of_a_token_shows_no_secret(status, body, stream, caplog):
    caplog.set_level(logging.DEBUG)
    async with server(200, "{}", token_status=status, token_body=body) as url:
        one = provider("gigachat", url)
        error = await failure(read(one, stream))
        assert PROMPT not in logged(caplog)
        assert not await one.health_check()
        await one.aclose()
    assert leaks(error, *SECRETS) == []
    assert [word for word in SECRETS if word in logged(caplog)] == []


HALF = "\ud83d"


@VENDORS
@pytest.mark.parametrize("request_", [
    Request(f"{PROMPT} {HALF}"), Request(messages=[Message("user", PROMPT), Message("system", PROMPT)] * 2),
    Request(messages=[Message("user", PROMPT, name=PROMPT), Message("tool", PROMPT, tool_call_id="x")]),
    Request(PROMPT, tools=[Tool("f", parameters={"a": {1, 2}})]),
], ids=["half", "systems", "names", "set"])
async def test_a_request_that_cannot_be_encoded_shows_no_prompt(vendor, request_):
    one = provider(vendor, "http://127.0.0.1:1")
    for asking in (one.complete(request_), anext(one.open_stream(request_))):
        error = await failure(asking)
        assert leaks(error, *SECRETS, PROMPT) == []
    await one.aclose()


@STREAM
@VENDORS
async def test_events_logs_and_spans_of_a_router_hold_no_secret(vendor, stream, caplog):
    caplog.set_level(logging.DEBUG)
    spans = InMemorySpanExporter()
    tracer = TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(spans))
    for status, body in (REPLIES["401"], REPLIES["500"], REPLIES["broken JSON"], REPLIES["cut"], REPLIES["307"]):
        recorder = Recorder()
        async with server(*as_told(vendor, status, body)) as url:
            one = provider(vendor, url)
            listeners = [recorder, LoggingListener(), OpenTelemetryListener(tracer_provider=tracer)]
            async with Router(
                "first-available", [one], listeners=listeners, retry=RetryPolicy(base_delay=0.001),
                timeouts=Timeouts(total=2), seed=1,
            ) as router:
                asking = drain(router.route_stream(PROMPT)) if stream else router.route(PROMPT)
                error = await failure(asking)
        assert error is not None
        assert leaks(error, *SECRETS) == []
        assert [word for word in SECRETS if word in repr(recorder.events) + recorder.text()] == []
    told = logged(caplog) + "".join(span.to_json() for span in spans.get_finished_spans())
    assert len(spans.get_finished_spans()) >= 5
    assert [word for word in (*SECRETS, PROMPT) if word in told] == []


async def drain(stream):
    return [piece async for piece in stream]


def test_what_is_shown_of_a_provider_and_its_parts_holds_no_secret():
    for vendor in ("openai", "gigachat", "yandex"):
        one = provider(vendor, f"http://user:{PASSWORD}@127.0.0.1:1")
        told = repr(one.config) + repr(vars(one)) + repr(vars(one._http))
        assert [word for word in SECRETS if word in told.replace(repr(one.__dict__.get("_credentials")), "")] == []
