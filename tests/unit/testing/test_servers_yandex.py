"""The simulated YandexGPT API: string counts, a stream that repeats itself, tools, JSON and refusals."""

from __future__ import annotations

import json

import httpx
import pytest

from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import NO_USAGE

TOOL = {"function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}


@pytest.fixture
def server():
    return SimulatedProvider("yandex", answer="раз два")


async def ask(server, *, status=200, authorization=None, options=None, **fields):
    body = {
        "modelUri": f"gpt://{server.config().folder_id}/yandexgpt-lite/latest", "completionOptions": options or {},
        "messages": [{"role": "system", "text": "Ты"}, {"role": "user", "text": "Привет"}],
    } | fields
    headers = {"authorization": authorization or f"Api-Key {server.api_key}"}
    async with httpx.AsyncClient(transport=server.transport(), headers=headers) as client:
        response = await client.post(f"{server.base_url}/completion", json=body)
    assert response.status_code == status, response.text
    return response


async def test_an_answer_is_wrapped_in_result_and_its_counts_are_strings(server):
    result = (await ask(server)).json()["result"]
    assert result["alternatives"] == [
        {"message": {"role": "assistant", "text": "раз два"}, "status": "ALTERNATIVE_STATUS_FINAL"}]
    assert result["usage"]["inputTextTokens"] == "2"
    assert result["usage"]["completionTokens"] == "2"
    assert result["usage"]["totalTokens"] == "4"


async def test_counts_may_be_missing(server):
    server.fail_next(NO_USAGE)
    assert "usage" not in (await ask(server)).json()["result"]


async def test_a_stream_is_lines_each_with_the_whole_text_so_far(server):
    response = await ask(server, options={"stream": True})
    lines = [json.loads(line)["result"] for line in response.text.splitlines()]
    assert response.headers["content-type"] == "application/json"
    assert [(line["alternatives"][0]["message"]["text"], line["alternatives"][0]["status"]) for line in lines] == [
        ("раз ", "ALTERNATIVE_STATUS_PARTIAL"), ("раз два", "ALTERNATIVE_STATUS_PARTIAL"),
        ("раз два", "ALTERNATIVE_STATUS_FINAL")]
    assert [line["usage"]["completionTokens"] for line in lines] == ["1", "2", "2"]


async def test_a_limit_given_as_a_string_truncates(server):
    alternative = (await ask(server, options={"maxTokens": "1"})).json()["result"]["alternatives"][0]
    assert alternative == {
        "message": {"role": "assistant", "text": "раз "}, "status": "ALTERNATIVE_STATUS_TRUNCATED_FINAL"}


@pytest.mark.parametrize("choice", [{"mode": "REQUIRED"}, {"functionName": "weather"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_tool_is_called_with_arguments_as_an_object(server, choice, stream):
    response = await ask(server, tools=[TOOL], toolChoice=choice, options={"stream": stream})
    (alternative,) = json.loads(response.text)["result"]["alternatives"]
    assert alternative["status"] == "ALTERNATIVE_STATUS_TOOL_CALLS"
    assert alternative["message"]["toolCallList"] == {
        "toolCalls": [{"functionCall": {"name": "weather", "arguments": {"city": "раз два"}}}]}


async def test_json_is_answered_by_schema_or_as_any_object(server):
    for fields, expected in (
        ({"jsonSchema": {"schema": {"properties": {"n": {"type": "integer"}}}}}, {"n": 1}),
        ({"jsonObject": True}, {"answer": "раз два"}),
    ):
        result = (await ask(server, **fields)).json()["result"]
        assert json.loads(result["alternatives"][0]["message"]["text"]) == expected


async def test_a_token_is_as_good_as_a_key(server):
    await ask(server, authorization=f"Bearer {server.api_key}")
    error = (await ask(server, authorization="Api-Key other", status=401)).json()["error"]
    assert (error["grpcCode"], error["httpCode"]) == (16, 401)


@pytest.mark.parametrize(("fields", "status"), [
    ({"modelUri": "yandexgpt"}, 400),
    ({"modelUri": "gpt://other/yandexgpt/latest"}, 403),
    ({"options": {"temperature": 1.5}}, 400),
    ({"options": {"maxTokens": "many"}}, 400),
    ({"messages": None}, 400),
])
async def test_a_wrong_request_is_refused(server, fields, status):
    assert (await ask(server, status=status, **fields)).json()["error"]["httpCode"] == status


async def test_models_are_listed_beside_the_native_api(server):
    headers = {"authorization": f"Api-Key {server.api_key}"}
    async with httpx.AsyncClient(transport=server.transport(), headers=headers) as client:
        listed = await client.get("http://127.0.0.1/v1/models")
        assert listed.json()["data"][0]["id"].startswith("gpt://")
        assert (await client.get("http://127.0.0.1/other")).status_code == 404
