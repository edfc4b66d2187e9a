"""GigaChatProvider against a server in memory: its token over virtual hours, and every answer and error it may get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import httpx
import pytest

from orchestrator.core.clock import new_random
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
    ResponseFormat,
    StreamEvent,
    TextDelta,
    Tool,
    ToolChoice,
    Usage,
)
from orchestrator.providers.gigachat import GigaChatProvider

KEY = "bm90LWEta2V5OmJ1dC1hLXRlc3Q="
EPOCH = 1_790_000_000
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "Да"}, "index": 0, "finish_reason": "stop"}],
    "created": EPOCH, "model": "GigaChat-2:2.0.28.2", "object": "chat.completion",
    "usage": {"prompt_tokens": 17, "completion_tokens": 2, "total_tokens": 19, "precached_prompt_tokens": 0},
}
STREAM = (
    'data: {"choices":[{"delta":{"content":"Вот, ","role":"assistant"},"index":0}],"model":"GigaChat-2:2.0.28.2"}\n\n'
    'data: {"choices":[{"delta":{"content":"так"},"index":0}],"model":"GigaChat-2:2.0.28.2"}\n\n'
    'data: {"choices":[{"delta":{"content":""},"index":0,"finish_reason":"stop"}],"model":"GigaChat-2:2.0.28.2",'
    '"usage":{"prompt_tokens":17,"completion_tokens":4,"total_tokens":21,"precached_prompt_tokens":0}}\n\n'
    "data: [DONE]\n\n"
).encode()
MILLISECONDS = "access_token", "expires_at", 1000
SECONDS = "tok", "exp", 1


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in pieces of ``size`` bytes, and knows whether it was read to its end, and closed."""

    def __init__(self, body: bytes, size: int = 64, hang: float = 0.0) -> None:
        self.body, self.size, self.hang = body, size, hang
        self.read = self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), self.size):
            yield self.body[start:start + self.size]
        await asyncio.sleep(self.hang)
        self.read = True

    async def aclose(self) -> None:
        self.closed = True


class GigaServer(httpx.AsyncBaseTransport):
    """Issues tokens that live ``life`` seconds and answers calls that show a good one, each after ``delay`` seconds.

    ``oauth`` and ``chat`` are played first: a response, a status, or an exception.
    """

    def __init__(self, *, delay: float = 0.1, life: float = 1800.0, form: tuple[str, str, int] = MILLISECONDS) -> None:
        self.delay, self.life, self.form = delay, life, form
        self.oauth: list[Any] = []
        self.chat: list[Any] = []
        self.tokens: list[httpx.Request] = []
        self.calls: list[httpx.Request] = []
        self.refused = 0
        self.expiry: dict[str, float] = {}
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        asked = self.tokens if request.url.path.endswith("/oauth") else self.calls
        asked.append(request)
        await asyncio.sleep(self.delay)
        script = self.oauth if asked is self.tokens else self.chat
        step = script.pop(0) if script else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return httpx.Response(step, json={"status": step, "message": "as scripted"})
        if isinstance(step, httpx.Response):
            return step
        return self._token() if asked is self.tokens else self._answer(request)

    def _token(self) -> httpx.Response:
        value, expires, unit = self.form
        token = f"token-{len(self.expiry) + 1}"
        at = asyncio.get_running_loop().time()
        self.expiry[f"Bearer {token}"] = at + self.life
        return httpx.Response(
            200, json={value: token, expires: int((EPOCH + at + self.life) * unit)},
            headers={"date": formatdate(EPOCH + at, usegmt=True)},
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        at = asyncio.get_running_loop().time()
        if self.expiry.get(request.headers["authorization"], 0.0) <= at:
            self.refused += 1
            return httpx.Response(401, json={"status": 401, "message": "Token has expired"})
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"object": "list", "data": []})
        headers = {"x-request-id": "req-7"}
        if json.loads(request.content).get("stream"):
            return httpx.Response(200, stream=Pieces(STREAM), headers=headers | {"content-type": "text/event-stream"})
        return httpx.Response(200, json=ANSWER, headers=headers)

    async def aclose(self) -> None:
        self.closed = True


def provider(server: GigaServer, *, routed: bool = False, seed: int = 1, **config: Any) -> GigaChatProvider:
    client = httpx.AsyncClient(transport=server)
    fields = {"name": "giga", "api_key": KEY, "max_retries": 0} | config
    made = GigaChatProvider(ProviderConfig(**fields), http_client=client, random=new_random(seed))
    made.routed = routed
    return made


def body(request: httpx.Request) -> Any:
    return json.loads(request.content)


async def events_of(giga: GigaChatProvider, request: Request | None = None) -> list[StreamEvent]:
    return [event async for event in giga.open_stream(request or Request("Hi", stream=True))]


class TestOneCall:
    async def test_a_token_is_asked_for_then_the_answer(self):
        server = GigaServer()
        completion = await provider(server).complete(Request("Hi", GenerationParams(max_tokens=9)))
        assert (completion.text, completion.model) == ("Да", "GigaChat-2:2.0.28.2")
        assert (completion.provider, completion.request_id, completion.usage) == ("giga", "req-7", Usage(17, 2))
        assert completion.raw == ANSWER
        [call] = server.calls
        assert (call.method, str(call.url)) == ("POST", "https://api.giga.chat/v1/chat/completions")
        assert call.headers["authorization"] == "Bearer token-1"
        assert call.headers["content-type"] == "application/json"
        assert call.headers["user-agent"]
        assert body(call) == {
            "model": "GigaChat-2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9,
        }

    async def test_the_token_request(self):
        server = GigaServer()
        await provider(server).generate("Hi")
        [asked] = server.tokens
        assert (asked.method, str(asked.url)) == ("POST", "https://ngw.devices.sberbank.ru:9443/api/v2/oauth")
        assert asked.headers["authorization"] == f"Basic {KEY}"
        assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
        assert parse_qs(asked.content.decode()) == {"scope": ["GIGACHAT_API_PERS"]}
        assert UUID(asked.headers["rquid"]).version == 4

    async def test_every_token_request_has_an_id_of_its_own_and_the_seed_repeats_them(self):
        drawn = []
        for _ in range(2):
            server = GigaServer()
            server.oauth = [500, 500]
            giga = provider(server, seed=7)
            for _ in range(3):
                await asyncio.gather(giga.generate("Hi"), return_exceptions=True)
            drawn.append([asked.headers["rquid"] for asked in server.tokens])
        assert len(set(drawn[0])) == 3
        assert drawn[0] == drawn[1]

    async def test_the_configuration_names_hosts_scope_model_headers_and_fields(self):
        server = GigaServer()
        await provider(
            server, base_url="https://gigachat.devices.sberbank.ru/api/v1/", auth_url="http://auth.test/api/v2/oauth",
            scope="GIGACHAT_API_B2B", model="GigaChat-2-Max", headers={"X-Session-ID": "s-1"},
            extra_body={"profanity_check": True},
        ).generate("Hi")
        assert str(server.tokens[0].url) == "http://auth.test/api/v2/oauth"
        assert parse_qs(server.tokens[0].content.decode()) == {"scope": ["GIGACHAT_API_B2B"]}
        [call] = server.calls
        assert str(call.url) == "https://gigachat.devices.sberbank.ru/api/v1/chat/completions"
        assert call.headers["x-session-id"] == "s-1"
        assert (body(call)["model"], body(call)["profanity_check"]) == ("GigaChat-2-Max", True)

    async def test_a_changed_model_is_used_with_the_same_token_and_a_changed_key_with_a_new_one(self):
        server = GigaServer()
        giga = provider(server)
        await giga.generate("Hi")
        giga.config.model = "GigaChat-2-Pro"
        await giga.generate("Hi")
        assert (body(server.calls[1])["model"], len(server.tokens)) == ("GigaChat-2-Pro", 1)
        giga.config.api_key = "b3RoZXI6a2V5"
        await giga.generate("Hi")
        assert [asked.headers["authorization"] for asked in server.tokens] == [f"Basic {KEY}", "Basic b3RoZXI6a2V5"]
        assert server.calls[2].headers["authorization"] == "Bearer token-2"

    @pytest.mark.parametrize(("field", "value"), [
        ("api_key", None), ("base_url", "api.giga.chat/v1"), ("auth_url", "ftp://auth.test"),
    ])
    def test_a_wrong_configuration_is_refused_by_its_field(self, field: str, value: str | None):
        with pytest.raises(ValueError, match=f"{field} of 'giga'"):
            GigaChatProvider(ProviderConfig(**{"name": "giga", "api_key": KEY, field: value}))

    async def test_used_as_a_context_it_makes_and_closes_a_client_of_its_own(self):
        async with GigaChatProvider(ProviderConfig(name="giga", api_key=KEY, base_url="http://127.0.0.1:1/v1")) as giga:
            assert giga.name == "giga"


class TestToken:
    async def test_a_hundred_first_calls_make_one_token_request(self):
        server = GigaServer()
        giga = provider(server)
        assert await asyncio.gather(*(giga.generate("Hi") for _ in range(100))) == ["Да"] * 100
        assert (len(server.tokens), len(server.calls)) == (1, 100)

    @pytest.mark.parametrize("form", [MILLISECONDS, SECONDS], ids=["milliseconds", "seconds"])
    async def test_over_hours_it_is_renewed_early_and_never_refused(self, form: tuple[str, str, int]):
        server = GigaServer(form=form)
        giga = provider(server)
        for _ in range(4 * 60):
            await giga.generate("Hi")
            await asyncio.sleep(60)
        assert server.refused == 0
        assert len(server.tokens) in (8, 9)

    async def test_a_call_in_the_last_minute_does_not_wait_for_the_new_token(self):
        server = GigaServer(delay=0.5)
        giga = provider(server)
        await giga.generate("Hi")
        await asyncio.sleep(1800 - 30)
        before = asyncio.get_running_loop().time()
        await giga.generate("Hi")
        assert asyncio.get_running_loop().time() - before == pytest.approx(0.5)
        await asyncio.sleep(0.1)
        await giga.generate("Hi")
        assert [call.headers["authorization"] for call in server.calls[1:]] == ["Bearer token-1", "Bearer token-2"]

    async def test_a_refused_token_is_renewed_once_and_the_call_repeated(self):
        server = GigaServer()
        giga = provider(server)
        await giga.generate("Hi")
        server.expiry.clear()
        server.expiry["Bearer none"] = 0.0
        assert await giga.generate("Hi") == "Да"
        assert (len(server.tokens), len(server.calls), server.refused) == (2, 3, 1)

    async def test_a_call_refused_twice_fails(self):
        server = GigaServer()
        server.chat = [401, 401]
        giga = provider(server)
        with pytest.raises(AuthenticationError, match="as scripted"):
            await giga.generate("Hi")
        assert (len(server.tokens), len(server.calls)) == (2, 2)
        assert await giga.generate("Hi") == "Да"
        assert len(server.tokens) == 2

    async def test_fifty_refused_calls_make_one_token_request(self):
        server = GigaServer()
        giga = provider(server)
        await giga.generate("Hi")
        server.expiry = dict.fromkeys(server.expiry, 0.0)
        assert await asyncio.gather(*(giga.generate("Hi") for _ in range(50))) == ["Да"] * 50
        assert (len(server.tokens), server.refused) == (2, 50)

    async def test_a_late_refusal_of_the_old_token_leaves_the_new_one(self):
        server = GigaServer()
        giga = provider(server)
        await giga.generate("Hi")
        server.expiry = dict.fromkeys(server.expiry, 0.0)
        late = asyncio.create_task(giga.generate("Hi"))
        await asyncio.sleep(0.05)
        server.delay = 0.01
        await giga.generate("Hi")
        assert await late == "Да"
        assert (len(server.tokens), server.refused) == (2, 2)

    async def test_the_caller_who_fetches_it_may_be_cancelled_without_harm_to_the_others(self):
        server = GigaServer()
        giga = provider(server)
        first = asyncio.create_task(giga.generate("Hi"))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(giga.generate("Hi")) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == ["Да"] * 5
        assert first.cancelled()
        assert (len(server.tokens), len(server.calls)) == (1, 5)

    async def test_a_failed_fetch_fails_all_who_wait_and_the_next_call_tries_afresh(self):
        server = GigaServer()
        server.oauth = [503]
        giga = provider(server)
        failures = await asyncio.gather(*(giga.generate("Hi") for _ in range(10)), return_exceptions=True)
        assert {type(failure) for failure in failures} == {OverloadedError}
        assert len({id(failure) for failure in failures}) == 10
        assert await giga.generate("Hi") == "Да"
        assert (len(server.tokens), len(server.calls)) == (2, 1)

    @pytest.mark.parametrize(("status", "content", "kind"), [
        (400, {"code": 1, "message": "scope data format invalid"}, AuthenticationError),
        (400, {"code": 4, "message": "Can't decode 'Authorization' header"}, AuthenticationError),
        (401, {"code": 4, "message": "Can't decode 'Authorization' header"}, AuthenticationError),
        (400, {"code": 5, "message": "scope is empty"}, AuthenticationError),
        (401, {"code": 6, "message": "credentials doesn't match db data"}, AuthenticationError),
        (400, {"code": 7, "message": "scope from db not fully includes consumed scope"}, AuthenticationError),
        (401, {"code": 7, "message": "scope from db not fully includes consumed scope"}, AuthenticationError),
        (404, "<html><title>404 Not Found</title></html>", AuthenticationError),
        (403, "<html><title>403 Forbidden</title></html>", AuthenticationError),
        (429, {"code": 429, "message": "Too many requests"}, RateLimitError),
        (500, {"code": 500, "message": "Internal Server Error"}, ServerError),
        (502, "<html><title>502 Bad Gateway</title></html>", ServerError),
        (503, "", OverloadedError),
        (200, "<html>", MalformedResponseError),
        (200, [], MalformedResponseError),
        (200, {"expires_at": 1}, MalformedResponseError),
        (200, {"access_token": "", "expires_at": 1}, MalformedResponseError),
        (200, {"access_token": "token-9"}, MalformedResponseError),
        (200, {"access_token": "token-9", "expires_at": "soon"}, MalformedResponseError),
    ])
    async def test_what_the_oauth_server_may_answer(self, status: int, content: object, kind: type[ProviderError]):
        server = GigaServer()
        text = content if isinstance(content, str) else json.dumps(content)
        server.oauth = [httpx.Response(status, text=text, headers={"x-request-id": "auth-1"})]
        with pytest.raises(kind) as caught:
            await provider(server).generate("Hi")
        assert type(caught.value) is kind
        assert caught.value.provider == "giga"
        assert not server.calls
        if status != 200:
            assert (caught.value.status_code, caught.value.request_id) == (status, "auth-1")
        if isinstance(content, dict) and status != 200:
            assert caught.value.message == content["message"]

    async def test_a_fetch_that_hangs_ends_with_the_callers_limit_and_serves_the_next(self):
        server = GigaServer(delay=3.0)
        giga = provider(server, timeout=2.0)
        with pytest.raises(TimeoutError, match="no answer within 2 s"):
            await giga.generate("Hi")
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)
        server.delay = 0.5
        await asyncio.sleep(1.0)
        assert await giga.generate("Hi") == "Да"
        assert len(server.tokens) == 1

    async def test_no_key_and_no_token_is_shown(self):
        server = GigaServer()
        giga = provider(server)
        secret = "token-1"
        server.chat = [httpx.Response(400, json={"status": 400, "message": f"bad: {KEY} {secret}"})]
        with pytest.raises(InvalidRequestError) as caught:
            await giga.generate("Hi")
        server.oauth = [httpx.Response(400, json={"code": 4, "message": f"bad: {KEY}"})]
        with pytest.raises(AuthenticationError) as refused:
            await provider(server).generate("Hi")
        for shown in (str(refused.value), str(caught.value), repr(caught.value), repr(giga), repr(giga.config)):
            assert KEY not in shown
            assert secret not in shown


class TestErrors:
    @pytest.mark.parametrize(("status", "content", "kind"), [
        (400, {"status": 400, "message": "Bad request"}, InvalidRequestError),
        (402, {"status": 402, "message": "Payment Required"}, QuotaExceededError),
        (403, {"status": 403, "message": "Permission denied"}, AuthenticationError),
        (403, {"message": "Unauthorized"}, AuthenticationError),
        (404, {"status": 404, "message": "No such model"}, ModelNotFoundError),
        (413, {"status": 413, "message": "Payload too large"}, ContextWindowExceededError),
        (422, {"status": 422, "message": "Invalid params: system message must be the first message"},
         InvalidRequestError),
        (422, {"status": 422, "message": "Invalid params: too many tokens, the limit is 32768"},
         ContextWindowExceededError),
        (429, {"status": 429, "message": "Too many requests"}, RateLimitError),
        (500, {"status": 500, "message": "Internal Server Error"}, ServerError),
        (502, "<html><title>502 Bad Gateway</title></html>", ServerError),
        (503, "<html></html>", OverloadedError),
        (504, "<html></html>", TimeoutError),
        (200, "<html></html>", MalformedResponseError),
        (200, {"status": 500, "message": "Internal Server Error"}, ServerError),
        (200, {"choices": []}, MalformedResponseError),
    ])
    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
    async def test_every_status(self, status: int, content: object, kind: type[ProviderError], stream: bool):
        server = GigaServer()
        text = content if isinstance(content, str) else json.dumps(content)
        if status == 200 and stream:
            text = f"data: {text}\n\n"
        server.chat = [httpx.Response(status, text=text, headers={"x-request-id": "req-9"})]
        giga = provider(server)
        with pytest.raises(kind) as caught:
            await (events_of(giga) if stream else giga.generate("Hi"))
        assert type(caught.value) is kind
        assert (caught.value.provider, caught.value.model) == ("giga", "GigaChat-2")
        if status != 200:
            assert (caught.value.status_code, caught.value.request_id) == (status, "req-9")

    async def test_retry_after_is_read(self):
        server = GigaServer()
        server.chat = [httpx.Response(429, json={"status": 429, "message": "Too many"}, headers={"retry-after": "7"})]
        with pytest.raises(RateLimitError) as caught:
            await provider(server).generate("Hi")
        assert caught.value.retry_after == 7.0

    async def test_a_blacklisted_answer_is_filtered(self):
        server = GigaServer()
        choice = {"message": {"content": "Не люблю менять тему"}, "finish_reason": "blacklist"}
        server.chat = [httpx.Response(200, json={**ANSWER, "choices": [choice]})]
        with pytest.raises(ContentFilteredError):
            await provider(server).generate("Hi")

    async def test_an_empty_answer_is_none(self):
        server = GigaServer()
        server.chat = [httpx.Response(200, json={**ANSWER, "choices": [{"message": {"content": ""}}]})]
        with pytest.raises(MalformedResponseError, match="empty"):
            await provider(server).generate("Hi")

    @pytest.mark.parametrize(("exc", "kind"), [
        (httpx.ConnectError("refused"), ConnectionFailedError),
        (httpx.ConnectTimeout("slow"), TimeoutError),
        (httpx.ReadError("reset"), ConnectionFailedError),
    ])
    @pytest.mark.parametrize("where", ["oauth", "chat"])
    async def test_a_broken_connection(self, exc: Exception, kind: type[ProviderError], where: str):
        server = GigaServer()
        getattr(server, where).append(exc)
        with pytest.raises(kind) as caught:
            await provider(server).generate("Hi")
        assert caught.value.provider == "giga"

    async def test_alone_it_retries_with_backoff(self):
        server = GigaServer()
        server.chat = [500, 502]
        assert await provider(server, max_retries=2).generate("Hi") == "Да"
        assert (len(server.tokens), len(server.calls)) == (1, 3)

    async def test_driven_by_a_router_it_does_not(self):
        server = GigaServer()
        server.chat = [500]
        with pytest.raises(ServerError):
            await provider(server, max_retries=2, routed=True).generate("Hi")

    async def test_alone_it_judges_its_answer_and_driven_by_a_router_it_leaves_that_to_it(self):
        empty = httpx.Response(200, json={"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})
        server = GigaServer()
        server.chat = [empty, empty]
        with pytest.raises(MalformedResponseError, match="empty answer"):
            await provider(server).generate("Hi")
        assert await provider(server, routed=True).generate("Hi") == ""

    async def test_alone_its_timeout_caps_a_plain_answer(self):
        server = GigaServer()
        giga = provider(server, timeout=5.0)
        await giga.generate("Hi")
        server.delay = 100.0
        with pytest.raises(TimeoutError, match="within 5 s"):
            await giga.generate("Hi")
        assert asyncio.get_running_loop().time() == pytest.approx(5.2)

    async def test_driven_by_a_router_it_has_no_limit_of_its_own(self):
        server = GigaServer(delay=20.0)
        assert await provider(server, timeout=5.0, routed=True).generate("Hi") == "Да"

    async def test_the_connect_timeout_of_the_request_is_used(self):
        server = GigaServer()
        await provider(server).complete(Request("Hi", timeouts=Timeouts(connect=3)))
        assert server.calls[0].extensions["timeout"]["connect"] == 3
        assert server.tokens[0].extensions["timeout"]["connect"] == 5


class TestRefusals:
    @pytest.mark.parametrize(("request_", "field"), [
        (Request("Hi", GenerationParams(stop="x")), "stop"),
        (Request("Hi", GenerationParams(seed=1)), "seed"),
        (Request(messages=(Message("user", (ImagePart("https://img.test/a.png"),)),)), "images"),
        (Request("Hi", response_format=ResponseFormat()), "json_object"),
        (Request("Hi", tools=(Tool("x"),), tool_choice=ToolChoice("required")), "tool_choice"),
        (Request(messages=(Message("user", "Hi"), Message("system", "Be short."))), "messages[1].role"),
    ])
    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
    async def test_what_it_has_not_is_refused_by_name_before_anything_is_sent(
        self, request_: Request, field: str, stream: bool
    ):
        server = GigaServer()
        giga = provider(server)
        assert giga.unsupported(request_) == field
        with pytest.raises(InvalidRequestError) as caught:
            await (events_of(giga, request_) if stream else giga.complete(request_))
        assert caught.value.message.startswith(f"{field}: ")
        assert caught.value.provider == "giga"
        assert not server.tokens
        assert not server.calls

    def test_a_plain_prompt_is_supported(self):
        assert provider(GigaServer()).unsupported(Request("Hi")) is None

    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
    async def test_half_a_surrogate_pair_is_refused(self, text: str):
        with pytest.raises(InvalidRequestError, match="surrogate"):
            await provider(GigaServer()).generate(text)


class TestStream:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
    @pytest.mark.parametrize("change", [
        lambda stream: stream,
        lambda stream: stream.replace(b"\n", b"\r\n"),
        lambda stream: b": comment\n\n" + stream.replace(b"data: ", b"data:"),
    ], ids=["LF", "CRLF", "comment"])
    async def test_pieces_however_the_bytes_are_cut(self, size: int, change: Callable[[bytes], bytes]):
        server = GigaServer()
        stream = Pieces(change(STREAM), size)
        server.chat = [httpx.Response(200, stream=stream, headers={"x-request-id": "req-7"})]
        events = await events_of(provider(server))
        assert events[:-1] == [TextDelta("Вот, "), TextDelta("так")]
        last = events[-1]
        assert isinstance(last, Finished)
        assert (last.completion.model, last.completion.usage) == ("GigaChat-2:2.0.28.2", Usage(17, 4))
        assert (last.completion.provider, last.completion.request_id) == ("giga", "req-7")
        assert stream.read  # only then can its connection be used again
        assert stream.closed
        assert body(server.calls[0])["stream"] is True

    async def test_as_texts(self):
        assert [text async for text in provider(GigaServer()).generate_stream("Hi")] == ["Вот, ", "так"]

    async def test_a_refused_token_is_renewed_once(self):
        server = GigaServer()
        refusal = Pieces(b'{"status":401,"message":"Token has expired"}')
        server.chat = [httpx.Response(401, stream=refusal)]
        assert len(await events_of(provider(server))) == 3
        assert (len(server.tokens), len(server.calls)) == (2, 2)
        assert refusal.closed

    async def test_a_stream_refused_twice_fails(self):
        server = GigaServer()
        server.chat = [401, 401]
        with pytest.raises(AuthenticationError):
            await events_of(provider(server))
        assert (len(server.tokens), len(server.calls)) == (2, 2)

    async def test_an_error_in_the_middle_comes_after_the_pieces_before_it(self):
        server = GigaServer()
        start = STREAM[:STREAM.index(b"\n\n") + 2]
        server.chat = [httpx.Response(200, stream=Pieces(start + b'data: {"status":500,"message":"broken"}\n\n', 9999))]
        events = provider(server).open_stream(Request("Hi", stream=True))
        assert await anext(events) == TextDelta("Вот, ")
        with pytest.raises(ServerError, match="broken"):
            await anext(events)
        assert len(server.calls) == 1

    @pytest.mark.parametrize("cut", [STREAM.index(b"\n\n") + 2, STREAM.index(b"finish_reason"), 40, 0])
    async def test_a_stream_that_just_ends_was_cut(self, cut: int):
        server = GigaServer()
        server.chat = [httpx.Response(200, stream=Pieces(STREAM[:cut]))]
        with pytest.raises(MalformedResponseError, match="cut"):
            await events_of(provider(server))

    async def test_a_finished_stream_that_is_not_closed_does_not_keep_its_end_back(self):
        server = GigaServer()
        server.chat = [httpx.Response(200, stream=Pieces(STREAM, hang=3600.0))]
        assert isinstance((await events_of(provider(server)))[-1], Finished)
        assert asyncio.get_running_loop().time() < 1.0

    async def test_alone_its_timeout_caps_a_stream_too_but_never_in_the_callers_code(self):
        server = GigaServer()
        unfinished = STREAM[:STREAM.index(b"finish_reason")]
        server.chat = [httpx.Response(200, stream=Pieces(unfinished, hang=3600.0)) for _ in range(2)]
        giga = provider(server, timeout=5.0)
        with pytest.raises(TimeoutError, match="no answer within 5 s"):
            await events_of(giga)
        assert asyncio.get_running_loop().time() == pytest.approx(5.2)
        events = giga.open_stream(Request("Hi", stream=True))
        assert await anext(events) == TextDelta("Вот, ")
        await asyncio.sleep(60)
        assert await anext(events) == TextDelta("так")
        with pytest.raises(TimeoutError, match="no answer within 5 s"):
            await anext(events)

    async def test_an_abandoned_stream_gives_its_connection_back(self):
        server = GigaServer()
        stream = Pieces(STREAM, hang=3600.0)
        server.chat = [httpx.Response(200, stream=stream)]
        events = provider(server).open_stream(Request("Hi", stream=True))
        assert await anext(events) == TextDelta("Вот, ")
        await events.aclose()
        assert stream.closed

    async def test_opening_is_retried_alone_and_each_refusal_gives_its_connection_back(self):
        server = GigaServer()
        refusal = Pieces(b'{"status":500,"message":"broken"}')
        server.chat = [httpx.Response(500, stream=refusal)]
        giga = provider(server, max_retries=2)
        events = giga.open_stream(Request("Hi", stream=True))
        assert await anext(events) == TextDelta("Вот, ")
        assert refusal.closed
        await events.aclose()

    async def test_the_filters_end(self):
        server = GigaServer()
        last = {"choices": [{"delta": {"content": "Не люблю"}, "finish_reason": "blacklist"}]}
        server.chat = [httpx.Response(200, text=f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n")]
        [event] = await events_of(provider(server))
        assert isinstance(event, Finished)
        assert event.completion.finish_reason == "content_filter"


class TestHealthAndEnd:
    async def test_healthy_with_a_token_and_the_list_of_models(self):
        server = GigaServer()
        assert await provider(server).health_check()
        [call] = server.calls
        assert (call.method, str(call.url)) == ("GET", "https://api.giga.chat/v1/models")
        assert call.headers["authorization"] == "Bearer token-1"

    async def test_an_expired_token_is_no_illness(self):
        server = GigaServer()
        giga = provider(server)
        await giga.generate("Hi")
        server.expiry = dict.fromkeys(server.expiry, 0.0)
        assert await giga.health_check()

    @pytest.mark.parametrize(("oauth", "chat"), [
        ([401], []), ([500], []), ([httpx.ConnectError("refused")], []),
        ([], [401, 401]), ([], [403]), ([], [503]), ([], [httpx.ReadTimeout("slow")]),
    ])
    async def test_unhealthy(self, oauth: list[object], chat: list[object]):
        server = GigaServer()
        server.oauth, server.chat = list(oauth), list(chat)
        assert await provider(server).health_check() is False

    async def test_a_service_that_hangs_is_unhealthy_in_ten_seconds(self):
        assert await provider(GigaServer(delay=3600.0)).health_check() is False
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)

    async def test_closing_leaves_an_injected_client_open_and_ends_a_fetch(self):
        server = GigaServer()
        giga = provider(server)
        waiting = asyncio.create_task(giga.generate("Hi"))
        await asyncio.sleep(0.05)
        await giga.aclose()
        with pytest.raises(ConnectionFailedError, match="closed"):
            await waiting
        await giga.aclose()
        assert not server.closed
        giga.config.api_key = None  # which it would refuse if it still listened
        with pytest.raises(ProviderError, match="closed"):
            await giga.generate("Hi")
