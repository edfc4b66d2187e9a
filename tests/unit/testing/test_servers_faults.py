"""Each fault of a simulated server, over a socket and in memory, as an HTTP client meets it."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx
import pytest

from orchestrator.testing import SimulatedProvider, faults

SOCKET = "socket"
MEMORY = "memory"
ANSWER = "Один два три"


@dataclass
class Outcome:
    status: int | None = None
    headers: httpx.Headers | None = None
    body: bytes = b""
    error: type[Exception] | None = None

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def said(self):
        """The text of the whole events of a stream."""
        events = [event for event in self.body.decode().split("\n\n")[:-1] if event.startswith("data: {")]
        choices = [choice for event in events for choice in json.loads(event[6:]).get("choices", ())]
        return "".join(choice["delta"].get("content", "") for choice in choices)


async def fetch(fault, how, *, stream, limit=200_000, timeout=None, vendor_answer=ANSWER):
    """What becomes of one request that meets the fault; reads at most about ``limit`` bytes."""
    server = SimulatedProvider("openai", answer=vendor_answer)
    server.fail_next(fault)
    outcome = Outcome()
    if how == SOCKET:
        async with server, httpx.AsyncClient(verify=False) as client:
            await _exchange(server, client, stream, limit, timeout, outcome)
    else:
        async with httpx.AsyncClient(transport=server.transport()) as client:
            await _exchange(server, client, stream, limit, timeout, outcome)
    assert server.connections == 0
    return outcome


async def _exchange(server, client, stream, limit, timeout, outcome):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    headers = {"authorization": f"Bearer {server.api_key}"}
    url = f"{server.base_url}/chat/completions"
    try:
        async with client.stream("POST", url, json=body, headers=headers, timeout=timeout) as response:
            outcome.status, outcome.headers = response.status_code, response.headers
            async for chunk in response.aiter_raw():
                outcome.body += chunk
                if len(outcome.body) > limit:
                    break
    except httpx.HTTPError as exc:
        outcome.error = type(exc)


EVERYWHERE = pytest.mark.parametrize("how", [pytest.param(SOCKET, marks=pytest.mark.real_time), MEMORY])
BOTH = pytest.mark.parametrize("stream", [False, True])


@EVERYWHERE
@BOTH
async def test_without_a_fault_the_answer_is_whole(how, stream):
    outcome = await fetch(None, how, stream=stream)
    assert (outcome.status, outcome.error) == (200, None)
    assert (outcome.said if stream else outcome.json["choices"][0]["message"]["content"]) == ANSWER


@EVERYWHERE
@BOTH
@pytest.mark.parametrize(("fault", "status", "kind", "code"), [
    (faults.Status(500), 500, "server_error", "server_error"),
    (faults.Status(503), 503, "service_unavailable_error", "server_is_overloaded"),
    (faults.Status(529), 529, "server_error", None),
    (faults.Status(404), 404, "invalid_request_error", "model_not_found"),
    (faults.Status(400, code="context_length_exceeded"), 400, "invalid_request_error", "context_length_exceeded"),
    (faults.Status(429, code="insufficient_quota"), 429, "insufficient_quota", "insufficient_quota"),
])
async def test_a_status_comes_with_the_vendors_own_error(how, stream, fault, status, kind, code):
    outcome = await fetch(fault, how, stream=stream)
    assert outcome.status == status
    assert (outcome.json["error"]["type"], outcome.json["error"]["code"]) == (kind, code)
    assert outcome.headers["x-request-id"]


async def test_a_status_may_have_any_body_message_and_headers():
    outcome = await fetch(faults.Status(502, body="<html>Bad</html>", headers={"x-edge": "1"}), MEMORY, stream=True)
    assert (outcome.status, outcome.body, outcome.headers["x-edge"]) == (502, b"<html>Bad</html>", "1")
    assert outcome.headers["content-type"] == "text/html"
    outcome = await fetch(faults.Status(418, "short and stout"), MEMORY, stream=False)
    assert outcome.json["error"]["message"] == "short and stout"
    assert (await fetch(faults.Status(599), MEMORY, stream=False)).json["error"]["message"] == "Error 599"


@pytest.mark.parametrize(("form", "headers"), [
    ("seconds", {"retry-after": "2.5"}),
    ("milliseconds", {"retry-after-ms": "2500"}),
    ("reset", {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2.5s"}),
    ("epoch", {"x-ratelimit-remaining": "0"}),
])
async def test_a_rate_limit_tells_the_wait_in_each_form(form, headers):
    outcome = await fetch(faults.RateLimited(2.5, form), MEMORY, stream=False)
    assert outcome.status == 429
    assert headers.items() <= dict(outcome.headers).items()


async def test_a_rate_limit_may_tell_a_date_or_nothing():
    outcome = await fetch(faults.RateLimited(60, "date"), MEMORY, stream=False)
    assert parsedate_to_datetime(outcome.headers["retry-after"])
    outcome = await fetch(faults.RateLimited(60, "epoch"), MEMORY, stream=False)
    assert float(outcome.headers["x-ratelimit-reset"]) > 1_700_000_000
    outcome = await fetch(faults.RateLimited(None), MEMORY, stream=False)
    assert not any("retry" in name or "ratelimit" in name for name in outcome.headers)


async def test_a_rate_limit_may_tell_the_wait_in_its_body():
    outcome = await fetch(faults.RateLimited(2.5, "prose"), MEMORY, stream=False)
    assert outcome.json["error"]["message"].endswith("try again in 2.5s.")
    outcome = await fetch(faults.RateLimited(2.5, "details"), MEMORY, stream=True)
    assert outcome.status == 429
    assert [detail["retryDelay"] for detail in outcome.json["error"]["details"]] == ["2.5s"]


@EVERYWHERE
@BOTH
async def test_a_good_answer_may_have_other_headers(how, stream):
    told = {"x-ratelimit-remaining-requests": "0", "content-type": "text/plain"}
    outcome = await fetch(faults.Headers(told), how, stream=stream)
    assert (outcome.status, outcome.error) == (200, None)
    assert told.items() <= dict(outcome.headers).items()
    assert (outcome.said if stream else outcome.json["choices"][0]["message"]["content"]) == ANSWER


@EVERYWHERE
@BOTH
@pytest.mark.parametrize(("fault", "body"), [
    (faults.NULL, b"null"), (faults.HTML, b"<!DOCTYPE"), (faults.MALFORMED_JSON, b'{"choices"'), (faults.Body(), b""),
])
async def test_a_success_status_may_come_with_any_body(how, stream, fault, body):
    outcome = await fetch(fault, how, stream=stream)
    assert (outcome.status, outcome.error) == (200, None)
    assert outcome.body.startswith(body)
    assert bool(outcome.body) == bool(body)


@EVERYWHERE
@BOTH
async def test_an_answer_may_be_empty(how, stream):
    outcome = await fetch(faults.EMPTY_ANSWER, how, stream=stream)
    assert (outcome.said if stream else outcome.json["choices"][0]["message"]["content"]) == ""
    assert b'"finish_reason":"stop"' in outcome.body


async def test_an_answer_may_be_filtered_or_come_without_usage():
    outcome = await fetch(faults.Altered(finish="content_filter"), MEMORY, stream=False)
    assert outcome.json["choices"][0]["finish_reason"] == "content_filter"
    assert "usage" not in (await fetch(faults.NO_USAGE, MEMORY, stream=False)).json


@EVERYWHERE
@BOTH
async def test_silence_before_the_headers_lasts_until_the_client_gives_up(how, stream):
    outcome = await fetch(faults.Hang(), how, stream=stream, timeout=0.05)
    assert (outcome.status, outcome.error) == (None, httpx.ReadTimeout)


@EVERYWHERE
async def test_silence_after_the_first_token(how):
    outcome = await fetch(faults.Hang(after=1), how, stream=True, timeout=0.05)
    assert (outcome.status, outcome.said, outcome.error) == (200, "Один ", httpx.ReadTimeout)


@EVERYWHERE
@BOTH
@pytest.mark.parametrize(("reset", "error"), [(False, httpx.RemoteProtocolError), (True, httpx.ReadError)])
async def test_a_connection_may_end_before_an_answer(how, stream, reset, error):
    outcome = await fetch(faults.Disconnect(reset=reset), how, stream=stream)
    assert (outcome.status, outcome.error) == (None, error)


@EVERYWHERE
@BOTH
async def test_the_answer_may_be_no_http(how, stream):
    outcome = await fetch(faults.NoHttp(), how, stream=stream)
    assert (outcome.status, outcome.error) == (None, httpx.RemoteProtocolError)


@EVERYWHERE
@pytest.mark.parametrize(("after", "said"), [(0, ""), (2, "Один два ")])
async def test_a_body_may_go_on_in_no_http(how, after, said):
    outcome = await fetch(faults.NoHttp(after), how, stream=True)
    assert (outcome.status, outcome.said, outcome.error) == (200, said, httpx.RemoteProtocolError)


@EVERYWHERE
@pytest.mark.parametrize(("after", "said"), [(0, ""), (2, "Один два "), (99, ANSWER)])
async def test_a_stream_may_be_cut_after_any_piece_and_never_looks_whole(how, after, said):
    outcome = await fetch(faults.Cut(after), how, stream=True)
    assert (outcome.status, outcome.said, outcome.error) == (200, said, httpx.RemoteProtocolError)
    assert b"stop" not in outcome.body


@EVERYWHERE
async def test_a_stream_may_be_reset(how):
    outcome = await fetch(faults.Cut(how="reset"), how, stream=True)
    # Over a socket the headers themselves may be lost, as a reset discards what was not read yet.
    assert outcome.error is httpx.ReadError


@EVERYWHERE
async def test_a_stream_may_end_in_good_order_but_without_its_end(how):
    outcome = await fetch(faults.Cut(how="end"), how, stream=True)
    assert (outcome.said, outcome.error) == ("Один ", None)
    assert b"DONE" not in outcome.body


@EVERYWHERE
async def test_a_plain_answer_is_cut_in_its_middle(how):
    outcome = await fetch(faults.Cut(), how, stream=False)
    assert outcome.error is httpx.RemoteProtocolError
    assert outcome.body.startswith(b'{"id":')
    assert b"usage" not in outcome.body


@EVERYWHERE
async def test_a_plain_answer_may_be_cut_before_its_first_byte(how):
    outcome = await fetch(faults.Cut(0), how, stream=False)
    assert (outcome.status, outcome.body, outcome.error) == (200, b"", httpx.RemoteProtocolError)


@EVERYWHERE
@BOTH
async def test_a_body_may_be_shorter_than_it_says(how, stream):
    outcome = await fetch(faults.ShortBody(), how, stream=stream)
    assert outcome.error is httpx.RemoteProtocolError
    if not stream:
        assert int(outcome.headers["content-length"]) == len(outcome.body) + 16


@EVERYWHERE
async def test_an_error_may_hide_in_a_success(how):
    outcome = await fetch(faults.ErrorInside(), how, stream=False)
    assert (outcome.status, outcome.json["error"]["code"]) == (200, "server_error")
    outcome = await fetch(faults.ErrorInside(after=2, status=429, message="slow"), how, stream=True)
    assert (outcome.status, outcome.said, outcome.error) == (200, "Один два ", None)
    last = outcome.body.split(b"\n\n")[-2]
    assert json.loads(last[6:])["error"] == {
        "message": "slow", "type": "requests", "param": None, "code": "rate_limit_exceeded"}


@EVERYWHERE
@BOTH
async def test_a_body_without_end_flows_as_fast_as_it_is_read(how, stream):
    outcome = await fetch(faults.Endless(), how, stream=stream, limit=1_000_000)
    assert outcome.error is None
    assert outcome.body.endswith(b"x" * 65536)
    assert len(outcome.body) < 10_000_000


async def test_keep_alive_comments_may_be_all_that_comes():
    outcome = await fetch(faults.KeepAliveOnly(after=1, interval=10), MEMORY, stream=True, timeout=11, limit=700)
    assert (outcome.said, outcome.error) == ("Один ", None)
    assert outcome.body.count(b": keep-alive\n\n") > 10
    assert asyncio.get_running_loop().time() > 100


@EVERYWHERE
@BOTH
async def test_bytes_may_come_one_by_one(how, stream):
    outcome = await fetch(faults.Split(), how, stream=stream)
    assert (outcome.said if stream else outcome.json["choices"][0]["message"]["content"]) == ANSWER


async def test_bytes_may_drip():
    outcome = await fetch(faults.Split(100, delay=3), MEMORY, stream=True)
    assert outcome.said == ANSWER
    assert asyncio.get_running_loop().time() >= len(outcome.body) // 100 * 3


@BOTH
async def test_bytes_may_come_before_the_body(stream):
    outcome = await fetch(faults.Before(), MEMORY, stream=stream)
    assert outcome.body.startswith(b"\xef\xbb\xbfdata: {" if stream else b"\xef\xbb\xbf{")
    outcome = await fetch(faults.Before(b"\n\n"), MEMORY, stream=stream)
    assert (outcome.said if stream else outcome.json["choices"][0]["message"]["content"]) == ANSWER


async def test_comments_may_stand_between_events_and_never_in_a_plain_answer():
    outcome = await fetch(faults.Comments(), MEMORY, stream=True)
    assert outcome.said == ANSWER
    assert outcome.body.count(b": keep-alive\n\n") == outcome.body.count(b"data: ")
    assert (await fetch(faults.Comments(b"data: \n\n"), MEMORY, stream=True)).body.startswith(b"data: \n\n")
    assert (await fetch(faults.Comments(), MEMORY, stream=False)).json["choices"][0]["message"]["content"] == ANSWER


@EVERYWHERE
async def test_a_small_body_may_inflate_to_a_large_one(how):
    outcome = await fetch(faults.Bomb(3_000_000), how, stream=False)
    assert outcome.headers["content-encoding"] == "gzip"
    assert len(outcome.body) < 20_000
    assert gzip.decompress(outcome.body) == b" " * 3_000_000


async def test_a_split_body_tears_characters_apart():
    server = SimulatedProvider("openai", answer=ANSWER)
    server.fail_next(faults.Split(3))
    headers = {"authorization": f"Bearer {server.api_key}"}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    client = httpx.AsyncClient(transport=server.transport(), headers=headers)
    async with client, client.stream("POST", f"{server.base_url}/chat/completions", json=body) as response:
        chunks = [chunk async for chunk in response.aiter_raw()]
    assert {len(chunk) for chunk in chunks} <= {1, 2, 3}
    with pytest.raises(UnicodeDecodeError):
        [chunk.decode() for chunk in chunks]


async def test_lines_may_end_in_crlf():
    outcome = await fetch(faults.Crlf(), MEMORY, stream=True)
    assert outcome.body.count(b"\r\n") == outcome.body.count(b"\n") > 5


async def test_events_may_come_twice_or_be_left_out():
    outcome = await fetch(faults.Repeat("finish"), MEMORY, stream=True)
    assert outcome.body.count(b'"finish_reason":"stop"') == 2
    outcome = await fetch(faults.Drop("finish"), MEMORY, stream=True)
    assert outcome.body.count(b'"finish_reason":"stop"') == 0
    outcome = await fetch(faults.Drop(), MEMORY, stream=True)
    assert b"DONE" not in outcome.body


async def test_a_reply_may_be_late_or_slow():
    loop = asyncio.get_running_loop()
    await fetch(faults.Latency(30), MEMORY, stream=False)
    assert loop.time() == 30
    await fetch(faults.Altered(tokens_per_second=0.1), MEMORY, stream=True)
    assert loop.time() == 50
    await fetch(faults.Altered(tokens_per_second=0.1), MEMORY, stream=False)
    assert loop.time() == 70


async def test_an_own_fault_is_a_class_with_one_method():
    class Teapot(faults.Fault):
        async def __call__(self, reply):
            reply.status = 418
            return reply

    assert (await fetch(Teapot(), MEMORY, stream=False)).status == 418


async def test_gigachat_tells_an_error_inside_a_stream_in_its_own_way():
    server = SimulatedProvider("gigachat", answer=ANSWER)
    async with httpx.AsyncClient(transport=server.transport(), base_url=server.base_url) as client:
        headers = {"authorization": f"Basic {server.api_key}", "rquid": "6f0b1291-c7f3-43c6-bb2e-9f3efb2dc98e"}
        data = {"scope": "GIGACHAT_API_PERS"}
        token = (await client.post(server.config().auth_url, data=data, headers=headers)).json()["access_token"]
        server.fail_next(faults.ErrorInside())
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        reply = await client.post("/chat/completions", json=body, headers={"authorization": f"Bearer {token}"})
    first, error, nothing = reply.text.split("\n\n")
    assert json.loads(first[6:])["choices"][0]["delta"]["content"] == "Один "
    assert json.loads(error[6:]) == {"status": 500, "message": faults.ErrorInside.message}
    assert nothing == ""


async def test_yandex_tells_an_error_inside_a_stream_in_its_own_way_and_idles_with_blank_lines():
    server = SimulatedProvider("yandex", answer=ANSWER)
    server.script([faults.ErrorInside(), faults.KeepAliveOnly()])
    body = {
        "modelUri": f"gpt://{server.config().folder_id}/m", "completionOptions": {"stream": True},
        "messages": [{"role": "user", "text": "Hi"}],
    }
    headers = {"authorization": f"Api-Key {server.api_key}"}
    url = f"{server.base_url}/completion"
    async with httpx.AsyncClient(transport=server.transport(), headers=headers) as client:
        first, error = (await client.post(url, json=body)).text.splitlines()
        async with client.stream("POST", url, json=body) as response:
            assert await anext(response.aiter_raw()) == b"\n"
    assert json.loads(first)["result"]["alternatives"][0]["message"]["text"] == "Один "
    assert json.loads(error)["error"]["httpCode"] == 500


async def test_yandex_may_rewrite_its_text_in_the_last_line():
    server = SimulatedProvider("yandex", answer=ANSWER)
    server.fail_next(faults.Altered(last="Раз"))
    body = {
        "modelUri": f"gpt://{server.config().folder_id}/m", "completionOptions": {"stream": True},
        "messages": [{"role": "user", "text": "Hi"}],
    }
    async with httpx.AsyncClient(transport=server.transport()) as client:
        reply = await client.post(
            f"{server.base_url}/completion", json=body, headers={"authorization": f"Api-Key {server.api_key}"})
    texts = [json.loads(line)["result"]["alternatives"][0]["message"]["text"] for line in reply.text.splitlines()]
    assert texts == ["Один ", "Один два ", ANSWER, "Раз"]


async def test_gigachats_tokens_may_expire_while_an_answer_is_on_its_way():
    server = SimulatedProvider("gigachat", answer=ANSWER)
    server.fail_next(faults.TokensExpire())
    provider = server.provider()
    assert [await provider.generate("Hi") for _ in range(2)] == [ANSWER, ANSWER]
    kinds = [request.path.rpartition("/")[2] for request in server.requests]
    assert kinds == ["oauth", "completions", "completions", "oauth", "completions"]
