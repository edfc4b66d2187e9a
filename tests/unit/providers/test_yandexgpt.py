"""YandexGPTProvider against a server in memory: its two kinds of key, and every answer and error it may get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from orchestrator.core.config import GenerationParams, ProviderConfig, Timeouts
from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.core.types import (
    Finished,
    ImagePart,
    Message,
    Request,
    StreamEvent,
    TextDelta,
    Tool,
    ToolCall,
    Usage,
)
from orchestrator.providers.yandexgpt import YandexGPTProvider

KEY = "AQVN-not-a-key"
HOST = "https://llm.api.cloud.yandex.net"


def line(text: str, status: str = "FINAL", count: int = 4, **message: Any) -> dict[str, Any]:
    return {"result": {
        "alternatives": [
            {"message": {"role": "assistant", "text": text, **message}, "status": f"ALTERNATIVE_STATUS_{status}"}
        ],
        "usage": {"inputTextTokens": "19", "completionTokens": str(count), "totalTokens": str(19 + count)},
        "modelVersion": "18.02.2026",
    }}


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


STREAM = lines(line("При", "PARTIAL", 1), line("Привет, мир", "PARTIAL", 3), line("Привет, мир!"))


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in pieces of ``size`` bytes, and knows whether it was closed."""

    def __init__(self, body: bytes, size: int = 64) -> None:
        self.body, self.size = body, size
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), self.size):
            yield self.body[start:start + self.size]

    async def aclose(self) -> None:
        self.closed = True


class YandexServer(httpx.AsyncBaseTransport):
    """Answers what ``script`` says (a response, a status, an exception), else a greeting, after ``delay`` seconds.

    Where ``good`` names authorizations, others are refused.
    """

    def __init__(self, *script: object, delay: float = 0.1, good: set[str] | None = None) -> None:
        self.script = list(script)
        self.delay = delay
        self.good = good
        self.calls: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        await asyncio.sleep(self.delay)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return refusal(step, 2, "as scripted")
        if isinstance(step, httpx.Response):
            return step
        if self.good is not None and request.headers["authorization"] not in self.good:
            return refusal(401, 16, "The token is invalid or has expired")
        if request.method == "GET":
            return httpx.Response(200, json={"object": "list", "data": []})
        headers = {"x-request-id": "req-7", "content-type": "application/json"}
        if json.loads(request.content)["completionOptions"]["stream"]:
            return httpx.Response(200, stream=Pieces(STREAM), headers=headers)
        return httpx.Response(200, json=line("Привет"), headers=headers)


def refusal(status: int, grpc: int, message: str) -> httpx.Response:
    error = {"grpcCode": grpc, "httpCode": status, "message": message, "httpStatus": "-", "details": []}
    return httpx.Response(status, json={"error": error}, headers={"x-request-id": "req-9"})


class Iam:
    """Hands out ``t1.token1``, ``t1.token2``, …; each takes ``delay`` seconds."""

    def __init__(self, delay: float = 0.1) -> None:
        self.delay = delay
        self.asked = 0
        self.script: list[object] = []

    async def __call__(self) -> str:
        self.asked += 1
        number = self.asked
        await asyncio.sleep(self.delay)
        step = self.script.pop(0) if self.script else f"t1.token{number}"
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[return-value]  # what it wrongly may return is what is tested


def provider(
    server: YandexServer, *, iam: Iam | None = None, routed: bool = False, **config: Any
) -> YandexGPTProvider:
    fields = {"name": "yandex", "folder_id": "b1gfolder", "max_retries": 0, "api_key": None if iam else KEY} | config
    made = YandexGPTProvider(
        ProviderConfig(**fields), http_client=httpx.AsyncClient(transport=server), iam_token=iam
    )
    made.routed = routed
    return made


async def events_of(yandex: YandexGPTProvider, request: Request | None = None) -> list[StreamEvent]:
    return [event async for event in yandex.open_stream(request or Request("Hi", stream=True))]


class TestOneCall:
    async def test_the_request_and_the_answer(self):
        server = YandexServer()
        completion = await provider(server).complete(Request("Hi", GenerationParams(max_tokens=500, temperature=0.5)))
        assert (completion.text, completion.finish_reason, completion.usage) == ("Привет", "stop", Usage(19, 4))
        assert (completion.provider, completion.model) == ("yandex", "yandexgpt-lite")
        assert completion.request_id == "req-7"
        assert completion.raw == line("Привет")
        [call] = server.calls
        assert (call.method, str(call.url)) == ("POST", f"{HOST}/foundationModels/v1/completion")
        assert call.headers["authorization"] == f"Api-Key {KEY}"
        assert call.headers["x-folder-id"] == "b1gfolder"
        assert call.headers["content-type"] == "application/json"
        assert json.loads(call.content) == {
            "modelUri": "gpt://b1gfolder/yandexgpt-lite/latest",
            "completionOptions": {"stream": False, "temperature": 0.5, "maxTokens": "500"},
            "messages": [{"role": "user", "text": "Hi"}],
        }

    async def test_a_key_that_begins_with_t1_is_an_iam_token(self):
        server = YandexServer()
        await provider(server, api_key="t1.not-a-token").generate("Hi")
        assert server.calls[0].headers["authorization"] == "Bearer t1.not-a-token"

    async def test_a_changed_model_leaves_the_token(self):
        server, iam = YandexServer(), Iam()
        yandex = provider(server, iam=iam)
        await yandex.generate("Hi")
        yandex.config.model = "yandexgpt"
        await yandex.generate("Hi")
        assert json.loads(server.calls[1].content)["modelUri"] == "gpt://b1gfolder/yandexgpt/latest"
        assert iam.asked == 1

    @pytest.mark.parametrize("base", [
        "http://host.test", "http://host.test/", "http://host.test/foundationModels/v1",
        "http://host.test/foundationModels/v1/",
    ])
    async def test_the_base_url_with_or_without_the_path_of_the_api(self, base: str):
        server = YandexServer()
        yandex = provider(server, base_url=base)
        await yandex.generate("Hi")
        await yandex.health_check()
        assert [str(call.url) for call in server.calls] == [
            "http://host.test/foundationModels/v1/completion", "http://host.test/v1/models",
        ]

    async def test_model_headers_and_fields_of_the_configuration(self):
        server = YandexServer()
        yandex = provider(
            server, model="yandexgpt/rc", headers={"x-data-logging-enabled": "false"},
            extra_body={"completionOptions": {"reasoningOptions": {"mode": "DISABLED"}}},
        )
        await yandex.generate("Hi")
        yandex.config.model = "gpt://other/tuned/latest@x"
        await yandex.generate("Hi")
        first, second = (json.loads(call.content) for call in server.calls)
        assert (first["modelUri"], second["modelUri"]) == ("gpt://b1gfolder/yandexgpt/rc", "gpt://other/tuned/latest@x")
        assert first["completionOptions"] == {"stream": False, "reasoningOptions": {"mode": "DISABLED"}}
        assert server.calls[0].headers["x-data-logging-enabled"] == "false"

    async def test_a_call_of_a_tool_and_its_result(self):
        listed = {"toolCalls": [{"functionCall": {"name": "weather", "arguments": {"city": "Томск"}}}]}
        server = YandexServer(httpx.Response(200, json=line("", "TOOL_CALLS", toolCallList=listed)))
        yandex = provider(server)
        question = Message("user", "Weather?")
        answer = await yandex.complete(Request(messages=(question,), tools=(Tool("weather"),)))
        assert answer.finish_reason == "tool_calls"
        assert answer.tool_calls == (ToolCall("call_0", "weather", '{"city": "Томск"}'),)
        turn = Message("assistant", "", answer.tool_calls)
        await yandex.complete(Request(messages=(question, turn, Message("tool", "-20", (), "call_0"))))
        assert json.loads(server.calls[1].content)["messages"][1:] == [
            {"role": "assistant", "toolCallList": listed},
            {"role": "user", "toolResultList": {"toolResults": [
                {"functionResult": {"name": "weather", "content": "-20"}},
            ]}},
        ]

    @pytest.mark.parametrize(("fields", "message"), [
        ({"api_key": KEY}, "folder_id of 'yandex'"),
        ({"folder_id": "b1gfolder"}, "either api_key or iam_token"),
        ({"folder_id": "b1gfolder", "api_key": KEY, "base_url": "host.test"}, "base_url of 'yandex'"),
    ])
    def test_a_wrong_configuration_is_refused_by_its_field(self, fields: dict[str, str], message: str):
        with pytest.raises(ValueError, match=message):
            YandexGPTProvider(ProviderConfig(name="yandex", **fields))

    def test_a_key_and_a_source_of_tokens_are_one_too_many(self):
        with pytest.raises(ValueError, match="either api_key or iam_token"):
            provider(YandexServer(), iam=Iam(), api_key=KEY)


class TestIamToken:
    async def test_a_hundred_first_calls_ask_for_one_token(self):
        server, iam = YandexServer(), Iam()
        assert await asyncio.gather(*(provider_calls(server, iam, 100))) == ["Привет"] * 100
        assert iam.asked == 1
        assert {call.headers["authorization"] for call in server.calls} == {"Bearer t1.token1"}

    async def test_it_is_renewed_every_hour(self):
        iam = Iam()
        yandex = provider(YandexServer(), iam=iam)
        for _ in range(5 * 60):
            await yandex.generate("Hi")
            await asyncio.sleep(60)
        assert iam.asked in (5, 6)

    async def test_a_refused_one_is_renewed_once_for_all(self):
        server, iam = YandexServer(good={"Bearer t1.token2"}), Iam()
        assert await asyncio.gather(*(provider_calls(server, iam, 50))) == ["Привет"] * 50
        assert (iam.asked, len(server.calls)) == (2, 100)

    async def test_one_that_is_refused_again_fails(self):
        server, iam = YandexServer(good=set()), Iam()
        with pytest.raises(AuthenticationError, match="invalid or has expired"):
            await provider(server, iam=iam).generate("Hi")
        assert (iam.asked, len(server.calls)) == (2, 2)

    async def test_a_stream_is_refused_and_opened_again(self):
        server, iam = YandexServer(good={"Bearer t1.token2"}), Iam()
        assert len(await events_of(provider(server, iam=iam))) == 4
        assert (iam.asked, len(server.calls)) == (2, 2)

    @pytest.mark.parametrize("key", [KEY, "t1.not-a-token"])
    async def test_a_key_that_is_refused_is_not_tried_again(self, key: str):
        server = YandexServer(good=set())
        with pytest.raises(AuthenticationError):
            await provider(server, api_key=key).generate("Hi")
        assert len(server.calls) == 1

    @pytest.mark.parametrize(("step", "kind"), [
        (AuthenticationError("no service account"), AuthenticationError),
        (KeyError("iamToken"), ProviderError),
        (ConnectionRefusedError("metadata service"), ConnectionFailedError),
        ("", AuthenticationError),
        (None, AuthenticationError),
    ])
    async def test_a_source_that_fails(self, step: object, kind: type[ProviderError]):
        server, iam = YandexServer(), Iam()
        iam.script = [step]
        yandex = provider(server, iam=iam)
        with pytest.raises(kind) as caught:
            await yandex.generate("Hi")
        assert (type(caught.value), caught.value.provider) == (kind, "yandex")
        assert not server.calls
        assert await yandex.generate("Hi") == "Привет"

    async def test_the_caller_who_asked_for_it_may_be_cancelled(self):
        server, iam = YandexServer(), Iam()
        calls = [asyncio.create_task(call) for call in provider_calls(server, iam, 3)]
        await asyncio.sleep(0.05)
        calls[0].cancel()
        assert await asyncio.gather(*calls[1:]) == ["Привет"] * 2
        assert calls[0].cancelled()
        assert iam.asked == 1


def provider_calls(server: YandexServer, iam: Iam, count: int) -> list[Any]:
    yandex = provider(server, iam=iam)
    return [yandex.generate("Hi") for _ in range(count)]


ERRORS = [
    (400, 3, "number of input tokens must be no more than 8192, got 9000", ContextWindowExceededError),
    (400, 3, "invalid model_uri", ModelNotFoundError),
    (400, 3, "Failed to get model: model not found in URI", ModelNotFoundError),
    (400, 3, "temperature must be in [0, 1]", InvalidRequestError),
    (401, 16, "Unknown api key 'abc'", AuthenticationError),
    (403, 7, "Permission denied on folder b1gfolder", AuthenticationError),
    (403, 7, "The billing account is inactive", QuotaExceededError),
    (403, 7, "The cloud b1c is blocked", QuotaExceededError),
    (404, 5, "Not found", ModelNotFoundError),
    (429, 8, "ai.textGenerationCompletionSessionsCount.count gauge quota limit exceed: allowed 10 requests",
     RateLimitError),
    (429, 8, "ai.textGenerationCompletionRequestsPerHour.rate rate quota limit exceed: allowed 100 requests",
     RateLimitError),
    (500, 13, "Internal error", ServerError),
    (503, 14, "Service unavailable", OverloadedError),
    (504, 4, "Deadline exceeded", TimeoutError),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "grpc", "message", "kind"), ERRORS)
    @pytest.mark.parametrize("flat", [False, True], ids=["wrapped", "flat"])
    async def test_every_status(self, status: int, grpc: int, message: str, kind: type[ProviderError], flat: bool):
        response = refusal(status, grpc, message)
        if flat:
            body = {"code": grpc, "message": message, "details": []}
            response = httpx.Response(status, json=body, headers=response.headers.multi_items()[-1:])
        with pytest.raises(kind) as caught:
            await provider(YandexServer(response)).generate("Hi")
        assert type(caught.value) is kind
        assert (caught.value.provider, caught.value.model) == ("yandex", "yandexgpt-lite")
        assert caught.value.status_code == status

    @pytest.mark.parametrize(("status", "grpc", "message", "kind"), ERRORS)
    async def test_every_error_in_the_middle_of_a_stream(
        self, status: int, grpc: int, message: str, kind: type[ProviderError]
    ):
        body = STREAM[:STREAM.index(b"\n") + 1] + refusal(status, grpc, message).content + b"\n"
        events = provider(YandexServer(httpx.Response(200, content=body))).open_stream(Request("Hi"))
        assert await anext(events) == TextDelta("При")
        with pytest.raises(kind) as caught:
            await anext(events)
        assert (type(caught.value), caught.value.provider) == (kind, "yandex")

    @pytest.mark.parametrize(("status", "kind"), [
        (200, MalformedResponseError), (502, ServerError), (503, OverloadedError), (403, AuthenticationError),
    ])
    async def test_a_page_of_the_balancer(self, status: int, kind: type[ProviderError]):
        server = YandexServer(httpx.Response(status, text="<html><title>balancer</title></html>"))
        with pytest.raises(kind):
            await provider(server).generate("Hi")

    async def test_the_filter(self):
        server = YandexServer(httpx.Response(200, json=line("Давайте сменим тему", "CONTENT_FILTER")))
        with pytest.raises(ContentFilteredError):
            await provider(server).generate("Hi")

    async def test_no_key_is_shown(self):
        yandex = provider(YandexServer(refusal(400, 3, f"bad key {KEY}")))
        with pytest.raises(InvalidRequestError) as caught:
            await yandex.generate("Hi")
        assert KEY not in str(caught.value)
        assert KEY not in repr(yandex.config)

    async def test_alone_it_retries_with_backoff_and_driven_by_a_router_it_does_not(self):
        assert await provider(YandexServer(500, 503), max_retries=2).generate("Hi") == "Привет"
        with pytest.raises(ServerError):
            await provider(YandexServer(500), max_retries=2, routed=True).generate("Hi")

    async def test_alone_it_judges_its_answer_and_driven_by_a_router_it_leaves_that_to_it(self):
        empty = httpx.Response(200, json=line(""))
        with pytest.raises(MalformedResponseError, match="empty answer"):
            await provider(YandexServer(empty)).generate("Hi")
        assert await provider(YandexServer(empty), routed=True).generate("Hi") == ""

    async def test_alone_its_timeout_caps_the_wait_for_a_token_and_for_the_answer_together(self):
        with pytest.raises(TimeoutError, match="no answer within 5 s"):
            await provider(YandexServer(delay=3.0), iam=Iam(delay=3.0), timeout=5.0).generate("Hi")
        assert asyncio.get_running_loop().time() == pytest.approx(5.0)

    async def test_driven_by_a_router_it_has_no_limit_of_its_own(self):
        yandex = provider(YandexServer(delay=9.0), timeout=5.0, routed=True)
        assert await yandex.complete(Request("Hi", timeouts=Timeouts(connect=3)))


class TestRefusals:
    @pytest.mark.parametrize(("request_", "field"), [
        (Request("Hi", GenerationParams(top_p=0.5)), "top_p"),
        (Request("Hi", GenerationParams(stop="x")), "stop"),
        (Request("Hi", GenerationParams(seed=1)), "seed"),
        (Request("Hi", GenerationParams(temperature=1.5)), "temperature"),
        (Request(messages=(Message("user", (ImagePart("https://img.test/a.png"),)),)), "images"),
        (Request(messages=(Message("user", "Hi", name="ann"),)), "messages[0].name"),
    ])
    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
    async def test_what_it_has_not_is_refused_by_name_before_anything_is_sent(
        self, request_: Request, field: str, stream: bool
    ):
        server = YandexServer()
        yandex = provider(server)
        assert yandex.unsupported(request_) == field
        with pytest.raises(InvalidRequestError) as caught:
            await (events_of(yandex, request_) if stream else yandex.complete(request_))
        assert caught.value.message.startswith(f"{field}: ")
        assert not server.calls

    def test_what_it_has_is_not(self):
        yandex = provider(YandexServer())
        assert yandex.unsupported(Request("Hi")) is None
        assert yandex.unsupported(Request("Hi", GenerationParams(temperature=1.0, max_tokens=9))) is None


class TestStream:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
    @pytest.mark.parametrize("body", [
        STREAM, STREAM.replace(b"\n", b"\r\n"), STREAM.replace(b"\n", b"\n\n"), STREAM.rstrip(b"\n"),
    ], ids=["LF", "CRLF", "blank lines", "no last line end"])
    async def test_pieces_however_the_bytes_are_cut(self, body: bytes, size: int):
        stream = Pieces(body, size)
        server = YandexServer(httpx.Response(200, stream=stream, headers={"x-request-id": "req-7"}))
        events = await events_of(provider(server))
        assert events[:-1] == [TextDelta("При"), TextDelta("вет, мир"), TextDelta("!")]
        last = events[-1]
        assert isinstance(last, Finished)
        assert (last.completion.usage, last.completion.finish_reason) == (Usage(19, 4), "stop")
        assert (last.completion.model, last.completion.request_id) == ("yandexgpt-lite", "req-7")
        assert stream.closed
        assert json.loads(server.calls[0].content)["completionOptions"] == {"stream": True}

    @pytest.mark.parametrize("cut", [0, STREAM.index(b"\n") + 1, STREAM.rindex(b"{\"result")])
    async def test_a_stream_that_just_ends_was_cut(self, cut: int):
        server = YandexServer(httpx.Response(200, stream=Pieces(STREAM[:cut])))
        with pytest.raises(MalformedResponseError, match="cut"):
            await events_of(provider(server))

    async def test_a_line_cut_in_its_middle_is_no_end(self):
        server = YandexServer(httpx.Response(200, stream=Pieces(STREAM[:-40])))
        with pytest.raises(MalformedResponseError):
            await events_of(provider(server))

    async def test_a_rewritten_text_is_an_error_after_the_pieces_before_it(self):
        body = lines(line("Привет", "PARTIAL"), line("Здравствуй"))
        events = provider(YandexServer(httpx.Response(200, content=body))).open_stream(Request("Hi"))
        assert await anext(events) == TextDelta("Привет")
        with pytest.raises(MalformedResponseError, match="rewrites"):
            await anext(events)

    async def test_the_filters_end(self):
        body = lines(line("Как", "PARTIAL"), line("Давайте сменим тему", "CONTENT_FILTER"))
        first, last = await events_of(provider(YandexServer(httpx.Response(200, content=body))))
        assert first == TextDelta("Как")
        assert isinstance(last, Finished)
        assert last.completion.finish_reason == "content_filter"

    async def test_as_texts(self):
        assert [text async for text in provider(YandexServer()).generate_stream("Hi")] == ["При", "вет, мир", "!"]


class TestHealth:
    async def test_healthy_with_the_list_of_models(self):
        server = YandexServer()
        assert await provider(server).health_check()
        [call] = server.calls
        assert (call.method, str(call.url)) == ("GET", f"{HOST}/v1/models")
        assert call.headers["authorization"] == f"Api-Key {KEY}"
        assert call.headers["openai-project"] == "b1gfolder"

    @pytest.mark.parametrize("step", [401, 403, 503, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
    async def test_unhealthy(self, step: object):
        assert await provider(YandexServer(step)).health_check() is False

    async def test_a_source_of_tokens_that_fails_or_hangs_is_unhealthy(self):
        iam = Iam()
        iam.script = [KeyError("iamToken")]
        assert await provider(YandexServer(), iam=iam).health_check() is False
        assert await provider(YandexServer(), iam=Iam(delay=3600.0)).health_check() is False
        assert asyncio.get_running_loop().time() == pytest.approx(10.1)
