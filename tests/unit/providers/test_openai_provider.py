"""The OpenAI-compatible provider over HTTP: alone and in a router, whole and streamed, well and ill."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from fake_http import DONE, Chunks, FakeHttp, Step, frame, streamed
from orchestrator import Router, Timeouts
from orchestrator.core.config import GenerationParams, ProviderConfig, RetryPolicy
from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    MalformedResponseError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
    TimeoutError,
)
from orchestrator.core.types import Finished, Request, ResponseFormat, StreamEvent, TextDelta, Usage
from orchestrator.providers import openai_compatible
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider

KEY = "sk-test-0123456789"
USAGE = {"prompt_tokens": 9, "completion_tokens": 1}


def provider(*answers: Any, vendor: str | None = None, **config: Any) -> tuple[OpenAICompatibleProvider, FakeHttp]:
    fake = FakeHttp(*answers)
    settings = ProviderConfig(**{"name": "p", "api_key": KEY, "model": "m", **config})
    return OpenAICompatibleProvider(settings, http_client=fake.client, vendor=vendor), fake


def answer(text: str = "Hi", **headers: str) -> httpx.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return httpx.Response(200, json={"model": "m-1", "choices": [choice], "usage": USAGE}, headers=headers)


def piece(text: str, reason: str | None = None, **fields: Any) -> bytes:
    return frame({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **fields})


def failure(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": f"no, {KEY}", "code": "c"}}, headers=headers)


async def stream_of(provider: OpenAICompatibleProvider, prompt: str = "hi") -> list[StreamEvent]:
    return [event async for event in provider.open_stream(Request(prompt, stream=True))]


async def text_of(*steps: Step, **headers: str) -> str:
    source, _ = provider(streamed(*steps, **headers))
    return "".join([event.text for event in await stream_of(source) if isinstance(event, TextDelta)])


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "vendor", "message"), [
    ({"base_url": "api.example/v1"}, None, "base_url of 'p' must begin with http"),
    ({"base_url": "ftp://api.example"}, None, "must begin with http"),
    ({"base_url": "https:///v1"}, None, "name a host"),
    ({"model": None, "base_url": "https://api.example/v1"}, None, "model of 'p' is not set"),
    ({"model": None}, "vllm", "model of 'p' is not set, and vllm has no default"),
    ({}, "yandex", "folder_id of 'p' is not set"),
    ({}, "gork", "unknown vendor 'gork'"),
])
def test_settings_that_cannot_work_are_refused_at_once(config, vendor, message):
    with pytest.raises(ValueError, match=message):
        provider(answer(), vendor=vendor, **config)


async def test_a_call_goes_where_the_settings_say_with_their_key_headers_and_extra_fields():
    source, fake = provider(
        answer(), base_url="https://api.example/v1/", api_key=f" {KEY}\n", headers={"X-Title": "t"},
        extra_body={"top_k": 5},
    )
    await source.complete(Request("hi", GenerationParams(seed=3)))
    sent = fake.requests[0]
    assert (sent.method, str(sent.url)) == ("POST", "https://api.example/v1/chat/completions")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert (sent.headers["content-type"], sent.headers["x-title"]) == ("application/json", "t")
    message = {"role": "user", "content": "hi"}
    assert fake.bodies == [{"model": "m", "top_k": 5, "messages": [message], "seed": 3, "stream": False}]


async def test_without_a_key_none_is_sent_and_without_a_model_the_vendor_s_own():
    source, fake = provider(answer(), vendor="deepseek", api_key=None, model=None)
    await source.complete(Request("hi"))
    assert "authorization" not in fake.requests[0].headers
    assert fake.bodies[0]["model"] == "deepseek-v4-flash"


@pytest.mark.parametrize(("model", "sent"), [
    ("yandexgpt", "gpt://b1g/yandexgpt/latest"), ("yandexgpt/rc", "gpt://b1g/yandexgpt/rc"),
    ("gpt://other/x/latest", "gpt://other/x/latest"), (None, "gpt://b1g/yandexgpt-lite/latest"),
])
async def test_yandex_models_and_calls_belong_to_the_folder(model, sent):
    source, fake = provider(answer(), vendor="yandex", folder_id="b1g", model=model)
    await source.complete(Request("hi"))
    assert fake.bodies[0]["model"] == sent
    assert fake.requests[0].headers["openai-project"] == "b1g"


async def test_an_assigned_setting_counts_from_the_next_call_and_an_impossible_one_is_refused():
    source, fake = provider(lambda request: answer())
    await source.complete(Request("hi"))
    source.config.api_key = "other"
    source.config.model = "n"
    await source.complete(Request("hi"))
    with pytest.raises(ValueError, match="base_url"):
        source.config.base_url = "nonsense"
    await source.complete(Request("hi"))
    assert [request.headers["authorization"] for request in fake.requests] == \
        [f"Bearer {KEY}", "Bearer other", "Bearer other"]
    assert [body["model"] for body in fake.bodies] == ["m", "n", "n"]
    assert {str(request.url) for request in fake.requests} == {"https://api.openai.com/v1/chat/completions"}


async def test_a_closed_provider_no_longer_follows_its_settings():
    source, _ = provider(answer())
    await source.aclose()
    await source.aclose()
    source.config.base_url = "nonsense"


# --- whole answers --------------------------------------------------------------------------------------------------


async def test_an_answer_is_read_whole():
    source, _ = provider(answer("Hello", **{"x-request-id": "req-7"}))
    found = await source.complete(Request("hi"))
    assert (found.text, found.model, found.provider, found.usage) == ("Hello", "m-1", "p", Usage(9, 1))
    assert (found.request_id, found.raw["model"]) == ("req-7", "m-1")


async def test_blank_lines_before_the_answer_are_keep_alives():
    source, _ = provider(httpx.Response(200, content=b"\n\n \n" + answer().content))
    assert await source.generate("hi") == "Hi"


@pytest.mark.parametrize(("response", "kind", "message"), [
    (httpx.Response(200, html="<html>login</html>"), MalformedResponseError, "not JSON (text/html"),
    (httpx.Response(200, content=b""), MalformedResponseError, "not JSON (no content type, 0 bytes)"),
    (httpx.Response(204), MalformedResponseError, "not JSON"),
    (httpx.Response(200, content=b"null"), MalformedResponseError, "reply is null"),
    (answer(""), MalformedResponseError, "empty answer"),
    (httpx.Response(200, json={"error": {"message": "x", "code": 502}}), ServerError, "x"),
    (failure(401), AuthenticationError, "no, ***"),
    (httpx.Response(301, headers={"location": "https://new.example/"}), Exception, "redirects are not followed"),
])
async def test_what_is_no_answer_is_an_error_of_this_provider_without_its_key(response, kind, message):
    source, _ = provider(response, max_retries=0)
    with pytest.raises(kind) as caught:
        await source.complete(Request("hi"))
    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.provider == "p"


@pytest.mark.parametrize("method", ["complete", "open_stream"])
async def test_a_feature_the_vendor_lacks_is_refused_by_name_before_anything_is_sent(method):
    source, fake = provider(answer(), vendor="lmstudio")
    request = Request("hi", response_format=ResponseFormat())
    with pytest.raises(InvalidRequestError, match="json_object: lmstudio does not take it"):
        await (source.complete(request) if method == "complete" else anext(source.open_stream(request)))
    assert fake.requests == []


# --- alone ----------------------------------------------------------------------------------------------------------


async def test_alone_it_retries_what_may_pass_and_waits_as_asked():
    source, fake = provider(failure(429, **{"retry-after": "7"}), failure(503), answer())
    assert await source.generate("hi") == "Hi"
    assert len(fake.requests) == 3
    assert asyncio.get_running_loop().time() >= 7


async def test_alone_it_does_not_retry_what_will_not_pass():
    source, fake = provider(failure(400), answer())
    with pytest.raises(InvalidRequestError):
        await source.generate("hi")
    assert len(fake.requests) == 1


@pytest.mark.parametrize(("timeout", "waited"), [(None, 60), (5, 5)])
async def test_alone_an_answer_has_a_limit(timeout, waited):
    source, _ = provider(streamed(3600.0), timeout=timeout)
    with pytest.raises(TimeoutError):
        await source.generate("hi")
    assert asyncio.get_running_loop().time() == waited


async def test_alone_it_judges_its_answer_and_retries_what_is_none_and_a_router_does_so_instead(monkeypatch):
    source, fake = provider(answer(""), answer())
    assert (await source.complete(Request("hi"))).text == "Hi"
    assert len(fake.requests) == 2
    monkeypatch.setattr(openai_compatible, "check_completion", None)
    source, fake = provider(answer(""), answer())
    async with Router(providers=[source], retry=RetryPolicy(max_retries=1)) as router:
        assert await router.route("hi") == "Hi"
    assert len(fake.requests) == 2


async def test_in_a_router_the_router_s_guard_is_the_only_limit_and_its_loop_the_only_retry():
    source, fake = provider(lambda request: failure(500))
    async with Router(providers=[source], retry=RetryPolicy(max_retries=2)) as router:
        with pytest.raises(ServerError):
            await router.route("hi")
    assert len(fake.requests) == 3
    assert {request.extensions["timeout"]["connect"] for request in fake.requests} == {5.0}
    assert {request.extensions["timeout"]["read"] for request in fake.requests} == {None}


async def test_alone_the_opening_of_a_stream_is_retried_and_failed_responses_are_closed():
    refused = Chunks(b"{}")
    source, fake = provider(httpx.Response(503, stream=refused), streamed(piece("Hi", "stop"), DONE))
    texts = [event for event in await stream_of(source) if isinstance(event, TextDelta)]
    assert texts == [TextDelta("Hi")]
    assert len(fake.requests) == 2
    assert refused.closed == 1
    assert fake.requests[0].extensions["timeout"]["read"] == 60.0


# --- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_asks_for_one_and_ends_with_the_whole_account():
    source, fake = provider(streamed(
        b": PROCESSING\n\n", piece("H"), piece("i"), piece("", "stop"), frame({"choices": [], "usage": USAGE}), DONE,
        x_request_id="req-7",
    ))
    *pieces, last = await stream_of(source)
    assert pieces == [TextDelta("H"), TextDelta("i")]
    assert isinstance(last, Finished)
    found = last.completion
    assert (found.finish_reason, found.usage, found.request_id) == ("stop", Usage(9, 1), "req-7")
    assert fake.bodies[0]["stream"] is True


async def test_a_stream_split_anywhere_is_the_same_stream():
    body = piece("при") + piece("вет", "stop") + DONE
    assert await text_of(*(body[i : i + 1] for i in range(len(body)))) == "привет"


async def test_a_server_that_does_not_stream_is_understood():
    source, _ = provider(answer("whole"))
    pieces = await stream_of(source)
    assert pieces[0] == TextDelta("whole")
    assert isinstance(pieces[1], Finished)
    source, _ = provider(httpx.Response(200, json={"error": {"message": "x", "code": 429}}), max_retries=0)
    with pytest.raises(RateLimitError):
        await stream_of(source)


@pytest.mark.parametrize(("response", "kind"), [
    (httpx.Response(200, html="<html>login</html>"), MalformedResponseError), (streamed(), MalformedResponseError),
    (streamed(DONE), MalformedResponseError), (streamed(piece("Hi")), MalformedResponseError),
    (streamed(b"data: {\n\n"), MalformedResponseError), (streamed(httpx.ReadError("x")), MalformedResponseError),
    (streamed(frame({"error": {"message": "x"}})), ServerError), (failure(429), RateLimitError),
    (httpx.ConnectError("x"), ConnectionFailedError),
])
async def test_a_stream_that_is_none_or_was_cut_is_an_error(response, kind):
    source, _ = provider(response, max_retries=0)
    with pytest.raises(kind) as caught:
        await stream_of(source)
    assert caught.value.provider == "p"


async def test_an_error_within_a_stream_comes_after_the_pieces_before_it():
    source, _ = provider(streamed(piece("Hi") + frame({"error": {"message": "died", "code": 500}}), DONE))
    seen: list[StreamEvent] = []
    with pytest.raises(ServerError, match="died"):
        await take(source, seen)
    assert seen == [TextDelta("Hi")]


async def take(source: OpenAICompatibleProvider, seen: list[StreamEvent]) -> None:
    async for event in source.open_stream(Request("hi")):
        seen.append(event)


END = piece("Hi", "stop")
ACCOUNT = frame({"choices": [], "usage": USAGE})


@pytest.mark.parametrize(("steps", "waited"), [
    ([END, ACCOUNT, DONE], 0), ([END], 0), ([END, DONE], 0), ([END, 1.5, ACCOUNT, DONE], 1.5),
    ([END, ACCOUNT, 3600.0], 0.1), ([END, DONE, 3600.0], 0.1), ([END, 3600.0], 2),
    ([END, ACCOUNT, *[0.05, b": x\n"] * 99], 0.1), ([END, httpx.ReadError("reset")], 0),
    ([END, ACCOUNT, httpx.RemoteProtocolError("cut")], 0), ([END, b"data: {\n\n"], 0),
    ([piece("Hi", "stop", usage=USAGE), 3600.0], 0.1),
], ids=[
    "whole", "no end marker", "no usage", "late usage", "left open", "left open after the marker", "usage never comes",
    "comments for ever", "reset", "cut", "nonsense", "usage at the end",
])
async def test_once_the_text_is_whole_nothing_can_lose_the_answer_nor_delay_it_for_long(steps, waited):
    body = Chunks(*steps)
    source, _ = provider(httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body))
    *pieces, last = await stream_of(source)
    assert pieces == [TextDelta("Hi")]
    assert isinstance(last, Finished)
    told = any(b"prompt_tokens" in step for step in steps if isinstance(step, bytes))
    assert last.completion.usage == (Usage(9, 1) if told else None)
    assert asyncio.get_running_loop().time() == pytest.approx(waited)
    assert body.closed == 1


async def test_text_that_follows_its_own_end_is_not_lost():
    assert await text_of(piece("a", "stop"), piece("b"), DONE) == "ab"


async def test_a_stream_left_early_gives_its_connection_back():
    body = Chunks(*[piece("x")] * 9)
    source, _ = provider(httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body))
    async with aclosing(source.open_stream(Request("hi"))) as events:
        assert await anext(events) == TextDelta("x")
    assert (body.closed, body.taken) == (1, 1)


async def test_in_a_router_a_stream_fails_over_until_its_first_piece_and_never_after():
    broken, _ = provider(streamed(httpx.ReadError("x")), name="broken", priority=1)
    cut, _ = provider(streamed(piece("He"), httpx.ReadError("x")), name="cut", priority=2)
    async with Router("first-available", [broken, cut], retry=RetryPolicy(max_retries=0)) as router:
        with pytest.raises(StreamInterruptedError) as caught:
            async for _ in router.route_stream("hi"):
                pass
    assert (caught.value.provider, caught.value.partial) == ("cut", "He")


async def test_keep_alive_comments_do_not_count_as_an_answer():
    source, _ = provider(streamed(*[b": keep-alive\n\n", 1.0] * 100))
    async with Router(providers=[source], timeouts=Timeouts(first_token=5), retry=RetryPolicy(max_retries=0)) as router:
        with pytest.raises(TimeoutError) as caught:
            async for _ in router.route_stream("hi"):
                pass
    assert caught.value.phase == "first_token"


# --- health ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("response", "healthy"), [
    (httpx.Response(200, json={"data": []}), True), (httpx.Response(401), False), (httpx.Response(503), False),
    (httpx.ConnectError("x"), False), (httpx.ConnectTimeout("x"), False), (streamed(3600.0), False),
])
async def test_health_is_whether_the_service_answers_and_takes_the_key(response, healthy):
    source, fake = provider(response)
    assert await source.health_check() is healthy
    assert (fake.requests[0].method, fake.requests[0].url.path) == ("GET", "/v1/models")
    assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert asyncio.get_running_loop().time() <= 10
