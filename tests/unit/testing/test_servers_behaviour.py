"""How a simulated provider behaves over time: pace, failures, limits, scripts, outages; and that it leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys

import httpx
import pytest

from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import Disconnect, Endless, Fault, Hang, Status


def client_of(server):
    """A client in memory, or over the socket once the server listens."""
    transport = None if server.port else server.transport()
    headers = {"authorization": f"Bearer {server.api_key}"}
    return httpx.AsyncClient(transport=transport, base_url=server.base_url, headers=headers, verify=False)


async def post(client, prompt="Hi", **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]} | fields
    return await client.post("/chat/completions", json=body, timeout=None)


async def statuses(server, count):
    async with client_of(server) as client:
        return [(await post(client)).status_code for _ in range(count)]


def now():
    return asyncio.get_running_loop().time()


async def test_an_answer_takes_the_latency_and_the_time_of_its_tokens():
    server = SimulatedProvider("openai", latency=2, tokens_per_second=4, answer="one two three four five")
    async with client_of(server) as client:
        await post(client)
        assert now() == 3
        times = []
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with client.stream("POST", "/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    times.append(now())
    assert times == [5, 5.25, 5.5, 5.75, 6]


async def test_concurrent_requests_get_ids_of_their_own():
    server = SimulatedProvider("openai", latency=1)
    async with client_of(server) as client:
        responses = await asyncio.gather(*(post(client) for _ in range(3)))
    assert [response.headers["x-request-id"] for response in responses] == ["request-1", "request-2", "request-3"]
    assert [response.json()["id"] for response in responses] == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]


async def test_jitter_and_failures_are_drawn_from_the_seed():
    async def run(seed):
        server = SimulatedProvider("openai", latency=1, jitter=0.5, failure_rate=0.3, seed=seed)
        started = now()
        return await statuses(server, 200), now() - started

    first, again, other = await run(1), await run(1), await run(2)
    assert first[0] == again[0]
    assert first[1] == pytest.approx(again[1])
    assert first[0] != other[0]
    assert 40 < first[0].count(500) < 80
    assert 180 < first[1] < 220


async def test_what_a_failure_is_can_be_chosen_and_changed():
    server = SimulatedProvider("openai", failure_rate=1, failure=Status(503))
    assert await statuses(server, 1) == [503]
    server.behave(failure=Disconnect())
    with pytest.raises(httpx.RemoteProtocolError):
        await statuses(server, 1)
    server.behave(failure_rate=0)
    assert await statuses(server, 1) == [200]
    with pytest.raises(TypeError, match="speed"):
        server.behave(speed=1)


async def test_a_rate_limit_tells_when_the_minute_is_over():
    server = SimulatedProvider("openai", rate_limit=2)
    assert await statuses(server, 1) == [200]
    await asyncio.sleep(20.5)
    async with client_of(server) as client:
        assert (await post(client)).status_code == 200
        limited = await post(client)
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "40")
        await asyncio.sleep(39)
        assert (await post(client)).headers["retry-after"] == "1"
        await asyncio.sleep(0.5)
        assert (await post(client)).status_code == 200
        assert (await post(client)).headers["retry-after"] == "21"


async def test_a_script_is_followed_step_by_step_and_the_next_failure_comes_before_it():
    server = SimulatedProvider("openai")
    server.script([None, Status(500), None, Status(503)])
    server.fail_next(Status(429), times=2)
    assert await statuses(server, 7) == [429, 429, 200, 500, 200, 503, 200]


async def test_each_endpoint_has_its_own_script():
    server = SimulatedProvider("openai")
    server.fail_next(Status(500), on="models")
    async with client_of(server) as client:
        assert (await post(client)).status_code == 200
        assert (await client.get("/models")).status_code == 500
        assert (await client.get("/models")).status_code == 200


async def test_only_the_last_thousand_requests_are_kept_but_all_are_counted():
    server = SimulatedProvider("openai")
    await statuses(server, 1001)
    assert (len(server.requests), server.received) == (1000, 1001)


def test_an_unknown_vendor_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="openai, gigachat, yandex"):
        SimulatedProvider("other")


@pytest.mark.parametrize(("vendor", "expected"), [
    ("openai", {"base_url": "http://127.0.0.1/v1", "model": "gpt-simulated"}),
    ("gigachat", {"base_url": "http://127.0.0.1/api/v1", "auth_url": "http://127.0.0.1/api/v2/oauth"}),
    ("yandex", {"base_url": "http://127.0.0.1/foundationModels/v1", "folder_id": "simulated-folder"}),
])
def test_the_configuration_leads_to_the_server(vendor, expected):
    config = SimulatedProvider(vendor, name="имя").config(weight=2)
    assert expected.items() <= config.model_dump().items()
    assert (config.name, config.weight) == ("имя", 2)
    assert config.api_key.isascii()


# Outages


async def test_in_memory_an_outage_refuses_breaks_and_ends():
    server = SimulatedProvider("openai", latency=10)
    async with client_of(server) as client:
        under_way = asyncio.create_task(post(client))
        await asyncio.sleep(1)
        assert server.connections == 1
        server.down()
        with pytest.raises(httpx.ReadError):
            await under_way
        with pytest.raises(httpx.ConnectError):
            await post(client)
        server.up()
        assert (await post(client)).status_code == 200
        assert server.connections == 0


@pytest.mark.parametrize("how", ["down", "closed"])
async def test_in_memory_a_stream_under_way_breaks_too(how):
    server = SimulatedProvider("openai", answer="one two three")
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with client_of(server) as client, client.stream("POST", "/chat/completions", json=body) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        if how == "down":
            server.down()
        else:
            await server.aclose()
        with pytest.raises(httpx.ReadError):
            await anext(chunks)
    assert server.connections == 0


async def test_in_memory_an_abandoned_stream_ends_at_once():
    ended = []

    class Watched(Fault):
        async def __call__(self, reply):
            async def watched(pieces):
                try:
                    async for piece in pieces:
                        yield piece
                finally:
                    ended.append(server.connections)

            reply.body = watched(reply.pieces())
            return reply

    server = SimulatedProvider("openai")
    server.fail_next(Watched())
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with client_of(server) as client, client.stream("POST", "/chat/completions", json=body) as response:
        await anext(response.aiter_raw())
        await response.aclose()
        assert (ended, server.connections) == ([1], 0)


async def test_an_outage_may_be_503_or_silence():
    server = SimulatedProvider("openai")
    async with client_of(server) as client:
        server.down("503")
        assert (await post(client)).json()["error"]["code"] == "server_is_overloaded"
        server.down("hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await post(client)
        server.up()
        assert (await post(client)).status_code == 200


@pytest.mark.real_time
async def test_over_a_socket_an_outage_refuses_connections_and_keeps_the_port():
    async with SimulatedProvider("openai", latency=30) as server, client_of(server) as client:
        under_way = asyncio.create_task(post(client))
        async with asyncio.timeout(5):
            while not server.received:  # noqa: ASYNC110
                await asyncio.sleep(0)
        port = server.port
        server.behave(latency=0)
        server.down()
        with pytest.raises(httpx.ReadError):
            await under_way
        for _ in range(2):
            async with client_of(server) as other:
                with pytest.raises(httpx.ConnectError):
                    await post(other)
            server.up()
            assert (await post(client)).status_code == 200
            server.down()
        assert server.port == port


@pytest.mark.real_time
async def test_an_outage_that_begins_before_the_server_is_ready_is_one():
    async with SimulatedProvider("openai") as server, client_of(server) as client:
        server.down()
        server.up()
        server.down()
        with pytest.raises(httpx.TransportError):
            await post(client)
        with pytest.raises(httpx.ConnectError):
            await post(client)
        server.down("503")
        assert (await post(client)).status_code == 503
        server.up()
        assert (await post(client)).status_code == 200


# Real connections


@pytest.mark.real_time
async def test_small_pieces_are_sent_at_once():
    async with SimulatedProvider("openai") as server, client_of(server) as client:
        await post(client)
        (connection,) = server._service.open
        assert connection._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.real_time
async def test_closing_ends_connections_and_tasks_of_hung_requests():
    before = asyncio.all_tasks()
    server = SimulatedProvider("openai", failure_rate=1, failure=Hang())
    async with server, httpx.AsyncClient(verify=False) as client:
        url, headers = f"{server.base_url}/chat/completions", {"authorization": f"Bearer {server.api_key}"}
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        hung = [asyncio.create_task(client.post(url, json=body, headers=headers, timeout=None)) for _ in range(5)]
        async with asyncio.timeout(5):
            while server.received < 5:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert server.connections == 5
        await server.aclose()
        assert server.connections == 0
        results = await asyncio.gather(*hung, return_exceptions=True)
    assert {type(result) for result in results} <= {httpx.ReadError, httpx.RemoteProtocolError}
    await server.aclose()
    assert asyncio.all_tasks() == before
    gc.collect()


@pytest.mark.real_time
async def test_a_client_that_leaves_ends_its_request():
    async with SimulatedProvider("openai", latency=60) as server:
        async with client_of(server) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/chat/completions", json={"model": "m", "messages": []}, timeout=0.05)
        async with asyncio.timeout(5):
            while server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0)


@pytest.mark.real_time
async def test_what_is_no_http_ends_the_connection_and_close_is_obeyed():
    async with SimulatedProvider("openai") as server:
        for sent, received in (
            (b"\x00nonsense\r\n\r\n", b""),
            (b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
            (b"GET /other HTTP/1.1\r\nHost: a\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
             b"HTTP/1.1 404"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            async with asyncio.timeout(5):
                got = await reader.read()
            assert got.startswith(received)
            assert got.count(b"HTTP/1.1") == sent.count(b"GET")
            writer.close()
            await writer.wait_closed()


@pytest.mark.real_time
async def test_a_request_that_comes_while_another_is_answered_waits_for_its_turn():
    async with SimulatedProvider("openai", latency=0.02) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {server.api_key}\r\n"
        writer.write(f"{request}\r\n".encode())
        async with asyncio.timeout(5):
            while not server.received:  # noqa: ASYNC110
                await asyncio.sleep(0)
            writer.write(f"{request}Connection: close\r\n\r\n".encode())
            assert (await reader.read()).count(b"HTTP/1.1 200") == 2
        writer.close()
        await writer.wait_closed()


@pytest.mark.real_time
async def test_a_client_that_reads_slowly_is_waited_for():
    class Flood(Endless):
        pieces = 0

        async def _then(self, reply):
            Flood.pieces += 1
            return await super()._then(reply) if Flood.pieces < 1000 else None

    async with SimulatedProvider("openai") as server, client_of(server) as client:
        server.fail_next(Flood())
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with client.stream("POST", "/chat/completions", json=body, timeout=5) as response:
            for _ in range(2000):
                await asyncio.sleep(0)
            assert Flood.pieces < 500  # what fits into the buffers of the sockets
            size = sum([len(chunk) async for chunk in response.aiter_raw()])
        assert size > 999 * 65536


@pytest.mark.real_time
async def test_a_connection_accepted_just_before_an_outage_is_reset():
    async with SimulatedProvider("openai") as server, client_of(server) as client:
        server._service.outage = "refuse"
        with pytest.raises(httpx.ReadError):
            await post(client)


@pytest.mark.real_time
async def test_a_server_may_be_closed_before_it_was_used():
    async with SimulatedProvider("openai") as server:
        assert server.connections == 0


@pytest.mark.real_time
async def test_an_answer_that_raises_is_reported_and_ends_the_connection():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    async with SimulatedProvider("openai", answer=lambda prompt: prompt.missing) as server, client_of(server) as client:
        with pytest.raises(httpx.TransportError):
            await post(client)
    (report,) = reports
    assert isinstance(report["exception"], AttributeError)


def test_without_h11_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "orchestrator.testing.servers._h11_server", raising=False)
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(ModuleNotFoundError, match=r"resilient-orchestrator\[testing\]"):
        asyncio.run(SimulatedProvider("openai").__aenter__())
