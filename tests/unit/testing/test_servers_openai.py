"""The simulated OpenAI API: its answers, streams, tools, JSON, models and refusals, as an HTTP client sees them."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from orchestrator.testing import SimulatedProvider

TOOL = {"type": "function", "function": {
    "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}


@pytest.fixture
def server():
    return SimulatedProvider("openai", name="alpha")


def client_of(server, **headers):
    headers = {"authorization": f"Bearer {server.api_key}"} | headers
    return httpx.AsyncClient(transport=server.transport(), base_url=server.base_url, headers=headers)


async def ask(server, prompt="Hello there", *, status=200, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]} | fields
    async with client_of(server) as client:
        response = await client.post("/chat/completions", json=body)
    assert response.status_code == status, response.text
    return response


def events(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_an_answer_names_the_server_repeats_the_prompt_and_counts_tokens(server):
    body = (await ask(server)).json()
    choice = body["choices"][0]
    assert "alpha" in choice["message"]["content"]
    assert "Hello there" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert (body["model"], body["usage"]["prompt_tokens"]) == ("m", 2)
    assert body["usage"]["total_tokens"] == 2 + body["usage"]["completion_tokens"]


async def test_the_answer_may_be_a_text_or_a_function_of_the_prompt(server):
    server.behave(answer="Да, конечно")
    assert (await ask(server)).json()["choices"][0]["message"]["content"] == "Да, конечно"
    server.behave(answer=str.upper)
    assert (await ask(server)).json()["choices"][0]["message"]["content"] == "HELLO THERE"


async def test_parts_of_text_are_read_as_one_prompt(server):
    server.behave(answer=str.upper)
    image = {"type": "image_url", "image_url": {"url": "x"}}
    parts = [{"type": "text", "text": "a "}, image, {"type": "text", "text": "b"}]
    reply = await ask(server, messages=[{"role": "user", "content": parts}])
    assert reply.json()["choices"][0]["message"]["content"] == "A B"


async def test_the_last_thing_a_user_said_is_the_prompt(server):
    server.behave(answer=str.upper)
    said = [{"role": role, "content": role + str(n)} for n, role in enumerate(["system", "user", "user", "assistant"])]
    reply = (await ask(server, messages=said)).json()
    assert (reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"]) == ("USER2", 4)


async def test_a_stream_ends_with_a_finish_reason_and_done_and_has_no_usage_unless_asked(server):
    server.behave(answer="one two  three")
    response = await ask(server, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "one two  three"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_that_was_asked_for_comes_in_a_chunk_of_its_own(server):
    *chunks, last = events(await ask(server, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 2
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_max_tokens_cut_the_answer(server):
    server.behave(answer="one two three")
    choice = (await ask(server, max_completion_tokens=2)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "length")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_required_tool_is_called_with_arguments_of_its_schema(server, choice):
    reply = (await ask(server, tools=[TOOL], tool_choice=choice)).json()["choices"][0]
    assert reply["finish_reason"] == "tool_calls"
    assert reply["message"]["content"] is None
    (call,) = reply["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert list(json.loads(call["function"]["arguments"])) == ["city"]


async def test_a_streamed_tool_call_comes_in_fragments(server):
    chunks = events(await ask(server, stream=True, tools=[TOOL], tool_choice="required"))
    fragments = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks if "tool_calls" in
                 chunk["choices"][0]["delta"]]
    assert [fragment.get("id") for fragment in fragments] == ["call_1", None, None]
    assert "city" in json.loads("".join(fragment["function"]["arguments"] for fragment in fragments))
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_offered_tools_are_not_called_unless_required(server):
    assert (await ask(server, tools=[TOOL])).json()["choices"][0]["finish_reason"] == "stop"
    await ask(server, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}, status=400)
    await ask(server, tool_choice="required", status=400)


async def test_a_schema_is_answered_with_json_that_fits_it(server):
    schema = {"type": "object", "properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]},
        "list": {"type": "array", "items": {"type": "string"}}, "none": {"type": "null"}, "any": {"type": "array"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    server.behave(answer="text")
    said = json.loads((await ask(server, response_format=wanted)).json()["choices"][0]["message"]["content"])
    assert said == {"n": 1, "x": 1.5, "ok": True, "kind": "a", "list": ["text"], "none": None, "any": []}
    said = (await ask(server, response_format={"type": "json_object"})).json()["choices"][0]["message"]["content"]
    assert json.loads(said) == {"answer": "text"}


async def test_models_are_listed_for_who_has_the_key(server):
    async with client_of(server) as client:
        assert (await client.get("/models")).json()["data"][0]["id"] == server.config().model
    async with client_of(server, authorization="Bearer other") as client:
        response = await client.get("/models")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("fields", [
    {"messages": []}, {"model": None}, {"messages": "text"}, {"tools": [{}]},
    {"response_format": {"type": "json_schema"}},
])
async def test_a_wrong_request_is_refused_with_400(server, fields):
    error = (await ask(server, status=400, **fields)).json()["error"]
    assert error["type"] == "invalid_request_error"


async def test_what_is_no_json_and_what_is_not_served_is_refused(server):
    async with client_of(server) as client:
        assert (await client.post("/chat/completions", content=b"{")).status_code == 400
        assert (await client.get("/chat/completions")).status_code == 404
        assert (await client.post("/other")).json()["error"]["code"] == "model_not_found"


@pytest.mark.real_time
async def test_it_speaks_http_on_loopback_and_keeps_the_connection(server):
    async with server, httpx.AsyncClient(headers={"authorization": f"Bearer {server.api_key}"}) as client:
        assert server.base_url == f"http://127.0.0.1:{server.port}/v1"
        for number in range(3):
            body = {"model": "m", "messages": [{"role": "user", "content": str(number)}], "stream": number == 1}
            response = await client.post(f"{server.base_url}/chat/completions", json=body)
            assert str(number) in response.text
            assert response.headers["x-request-id"] == f"request-{number + 1}"
            assert server.connections == 1
    assert server.connections == 0
    assert [request.json["messages"][0]["content"] for request in server.requests] == ["0", "1", "2"]
    assert (server.requests[0].method, server.requests[0].path) == ("POST", "/v1/chat/completions")
    assert server.requests[0].headers["authorization"].endswith(server.api_key)
    assert server.received == 3
    assert server.api_key not in repr(server) + repr(server.requests)


@pytest.mark.real_time
async def test_many_clients_are_answered_at_once_each_with_its_own_answer(server):
    server.behave(answer=lambda prompt: f"<{prompt}>", jitter=0.01)

    async def one(client, number):
        body = {"model": "m", "messages": [{"role": "user", "content": str(number)}]}
        response = await client.post(f"{server.base_url}/chat/completions", json=body)
        return response.json()["choices"][0]["message"]["content"]

    async with server, httpx.AsyncClient(headers={"authorization": f"Bearer {server.api_key}"}) as client:
        answers = await asyncio.gather(*(one(client, number) for number in range(20)))
    assert answers == [f"<{number}>" for number in range(20)]
