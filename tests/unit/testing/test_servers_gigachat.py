"""The simulated GigaChat API: tokens and their expiry, answers, streams, functions and refusals."""

from __future__ import annotations

import asyncio
import json
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx
import pytest

from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import Status

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture
def server():
    return SimulatedProvider("gigachat", name="giga", answer="Да, да", token_life=60)


def token_request(server, *, scope="GIGACHAT_API_PERS", **headers):
    headers = {"authorization": f"Basic {server.api_key}", "rquid": str(uuid4())} | headers
    client = httpx.AsyncClient(transport=server.transport())
    url = server.config().auth_url
    return client.post(url, data={"scope": scope} if scope else {}, headers={k: v for k, v in headers.items() if v})


async def token(server):
    return (await token_request(server)).json()["access_token"]


async def ask(server, access_token, *, status=200, headers=None, **fields):
    body = {"model": "GigaChat-2", "messages": [{"role": "user", "content": "Привет"}]} | fields
    headers = {"authorization": f"Bearer {access_token}"} | (headers or {})
    async with httpx.AsyncClient(transport=server.transport(), base_url=server.base_url, headers=headers) as client:
        if "user-agent" in headers and not headers["user-agent"]:
            del client.headers["user-agent"]
        response = await client.post("/chat/completions", json=body)
    assert response.status_code == status, response.text
    return response


async def test_a_token_expires_in_milliseconds_of_unix_time_counted_from_the_date_header(server):
    response = await token_request(server)
    told = response.json()["expires_at"] / 1000 - parsedate_to_datetime(response.headers["date"]).timestamp()
    assert told == 60


async def test_a_token_is_good_until_it_expires_by_the_loops_clock(server):
    access_token = await token(server)
    await asyncio.sleep(59)
    await ask(server, access_token)
    await asyncio.sleep(1)
    assert (await ask(server, access_token, status=401)).json() == {"status": 401, "message": "Token has expired"}
    await ask(server, await token(server))


async def test_all_tokens_can_be_made_to_expire(server):
    access_token = await token(server)
    server.expire_tokens()
    await ask(server, access_token, status=401)


async def test_the_key_itself_and_an_unknown_token_open_nothing(server):
    await ask(server, server.api_key, status=401)
    await ask(server, "other", status=401)


async def test_without_a_user_agent_nothing_is_answered(server):
    access_token = await token(server)
    assert (await ask(server, access_token, status=403, headers={"user-agent": ""})).json()["message"] == "Unauthorized"


@pytest.mark.parametrize(("wrong", "status", "code"), [
    ({"rquid": ""}, 400, 1),
    ({"rquid": "17"}, 400, 1),
    ({"authorization": ""}, 401, 6),
    ({"authorization": "Basic %"}, 401, 4),
    ({"authorization": "Basic b3RoZXI="}, 401, 6),
    ({"scope": ""}, 400, 5),
    ({"scope": "OTHER"}, 400, 1),
    ({"scope": "GIGACHAT_API_CORP"}, 400, 7),
])
async def test_a_wrong_token_request_is_refused_with_the_code_of_the_reason(server, wrong, status, code):
    response = await token_request(server, **wrong)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_server_of_another_scope_issues_tokens_for_that_one():
    server = SimulatedProvider("gigachat", scope="GIGACHAT_API_CORP")
    assert (await token_request(server, scope="GIGACHAT_API_CORP")).status_code == 200
    assert (await token_request(server)).status_code == 400


async def test_the_token_endpoint_can_fail_on_its_own(server):
    server.fail_next(Status(503), on="token")
    assert (await token_request(server)).status_code == 503
    await ask(server, await token(server))


async def test_an_answer_has_no_id_a_versioned_model_and_usage(server):
    body = (await ask(server, await token(server))).json()
    assert "id" not in body
    assert body["model"].startswith("GigaChat-2:")
    assert body["choices"][0] == {
        "message": {"role": "assistant", "content": "Да, да"}, "index": 0, "finish_reason": "stop"}
    assert body["usage"] == {
        "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "precached_prompt_tokens": 0}


async def test_a_stream_has_its_usage_in_the_last_chunk_and_a_finish_reason_only_there(server):
    response = await ask(server, await token(server), stream=True)
    *chunks, done, nothing = response.text.split("\n\n")
    assert nothing == ""
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert done == "data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in parsed) == "Да, да"
    assert ["finish_reason" in chunk["choices"][0] for chunk in parsed] == [False, False, True]
    assert ["usage" in chunk for chunk in parsed] == [False, False, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_function_is_called_with_arguments_as_an_object(server, stream):
    response = await ask(
        server, await token(server), functions=[FUNCTION], function_call={"name": "weather"}, stream=stream)
    if stream:
        first, last = (json.loads(event[6:])["choices"][0] for event in response.text.split("\n\n")[:2])
        message, reason = first["delta"], last["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
    assert reason == "function_call"
    assert message["content"] == ""
    assert message["function_call"] == {"name": "weather", "arguments": {"city": "Да, да"}}
    assert message["functions_state_id"]


async def test_offered_functions_are_not_called_on_auto(server):
    reply = await ask(server, await token(server), functions=[FUNCTION], function_call="auto")
    assert reply.json()["choices"][0]["finish_reason"] == "stop"


async def test_a_schema_stands_directly_in_the_response_format(server):
    wanted = {"type": "json_schema", "schema": {"properties": {"x": {"type": "string"}}}}
    reply = await ask(server, await token(server), response_format=wanted, max_tokens=100)
    assert json.loads(reply.json()["choices"][0]["message"]["content"]) == {"x": "Да, да"}


@pytest.mark.parametrize("messages", [
    [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
])
async def test_a_late_system_message_and_parts_of_content_are_refused(server, messages):
    assert (await ask(server, await token(server), messages=messages, status=422)).json()["status"] == 422


async def test_models_need_a_token(server):
    access_token = await token(server)
    async with httpx.AsyncClient(transport=server.transport(), base_url=server.base_url) as client:
        assert (await client.get("/models")).status_code == 401
        listed = await client.get("/models", headers={"authorization": f"Bearer {access_token}"})
        assert listed.json()["data"][0]["id"] == "GigaChat-2"
        assert (await client.get("/other")).status_code == 404
