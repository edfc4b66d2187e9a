"""Both engines against servers that speak byte by byte: what HTTP allows is understood, what it forbids is an error."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import respx

from fake_http import FakeHttp
from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import ConnectionFailedError, MalformedResponseError, ProviderError, TimeoutError
from orchestrator.providers import OpenAICompatibleProvider, _dial, _exchange, _http
from orchestrator.providers._engine import Headers
from orchestrator.providers._http import HttpClient
from wire import EACH_ENGINE, FAST, connections

real_time = pytest.mark.real_time


@asynccontextmanager
async def listening(serve, tls=None):
    """A server that hands each connection to ``serve``, its address, and the connections so far."""
    connections = []

    async def connected(reader, writer):
        connections.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1", connections
    finally:
        listener.close()
        if connections:  # each is to see that the client is gone
            await asyncio.wait(connections, timeout=1000)


def server(*answers, tls=None, close=False, seen=None):
    """Answers each request of a connection with the next bytes, then waits or closes."""

    async def serve(reader, writer):
        for answer in answers:
            asked = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(asked)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return listening(serve, tls)


@asynccontextmanager
async def client(engine, **config):
    http = HttpClient(ProviderConfig(name="p", engine=engine, **config))
    try:
        yield http
    finally:
        await http.aclose()


async def get(http, url, **limits):
    return (await http.send("GET", url, headers={}, **limits)).body


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\nx-trailer: 1\r\n\r\n"

# --- what HTTP allows -----------------------------------------------------------------------------------------------


@real_time
@EACH_ENGINE
@pytest.mark.parametrize(("answer", "body"), [
    (OK, b"ok"), (HINTS + OK, b"ok"), (CHUNKS, b"ok"), (HINTS + CHUNKS, b"ok"), (EMPTY, b""),
    (OK.replace(b"\r\n", b"\r\nContent-Type: a/b\r\n", 1), b"ok"),
])
async def test_the_connection_is_used_again_after_an_answer_whose_end_is_known(engine, answer, body):
    async with server(*[answer] * 3) as (url, connections), client(engine) as http:
        for _ in range(3):
            assert await get(http, url) == body
        assert len(connections) == 1


@real_time
@EACH_ENGINE
async def test_headers_are_told_whatever_their_case_and_trailers_are_none(engine):
    answer = CHUNKS.replace(b"\r\n", b"\r\nX-Twice: a\r\nx-twice: b\r\n", 1)
    async with server(answer) as (url, _), client(engine) as http:
        response = await http.send("GET", url, headers={})
    assert response.headers["X-TWICE"] == "a, b"
    assert "x-trailer" not in response.headers


@real_time
@EACH_ENGINE
@pytest.mark.parametrize("answer", [
    OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1), b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    OK + OK, OK + b"?",
], ids=["it closes", "HTTP/1.0", "more than was asked for", "rubbish behind it"])
async def test_after_such_an_answer_the_connection_is_not_used_again(engine, answer):
    async with server(answer) as (url, connections), client(engine) as http:
        assert [await get(http, url) for _ in range(3)] == [b"ok"] * 3
        assert len(connections) == 3


@real_time
@EACH_ENGINE
async def test_a_body_may_end_with_its_connection(engine):
    async with server(b"HTTP/1.1 200 OK\r\n\r\nok", close=True) as (url, connections), client(engine) as http:
        assert [await get(http, url) for _ in range(2)] == [b"ok"] * 2
        assert len(connections) == 2


@real_time
@EACH_ENGINE
async def test_what_is_sent_is_http(engine):
    seen = []
    async with server(OK, OK, seen=seen) as (url, _), client(engine) as http:
        await http.send("POST", f"{url}/a b?c=%20", headers={"X-One": "1"}, body=b"")
        await get(http, url)
    line, *lines = seen[0].decode().strip().split("\r\n")
    told = dict(one.split(": ", 1) for one in lines)
    assert line == "POST /v1/a%20b?c=%20 HTTP/1.1"
    assert {name.lower(): told[name] for name in told}.items() >= {
        "host": url.split("/")[2], "content-length": "0", "x-one": "1", "accept-encoding": "identity", "accept": "*/*",
    }.items()
    assert b"content-length" not in seen[1].lower()


@real_time
@EACH_ENGINE
async def test_a_header_of_the_configuration_replaces_even_the_host(engine):
    seen = []
    async with server(OK, seen=seen) as (url, _), client(engine, headers={"Host": "other.example"}) as http:
        await get(http, url)
    lines = seen[0].decode().lower().split("\r\n")
    assert [line for line in lines if line.startswith("host:")] == ["host: other.example"]


@real_time
@EACH_ENGINE
async def test_an_answer_that_comes_before_the_whole_request_was_sent_is_taken(engine):
    answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"
    async with server(answer) as (url, _), client(engine) as http:
        response = await http.send("POST", url, headers={}, body=b"x" * 20_000_000)
        assert (response.status, response.body) == (413, b"no")
        assert [those.idle for those in connections(http)] == [[]]


# --- what HTTP forbids ----------------------------------------------------------------------------------------------


@real_time
@EACH_ENGINE
@pytest.mark.parametrize(("answer", "error"), [
    (b"", ConnectionFailedError), (b"HTTP/1.1 200", ConnectionFailedError), (b"hello\r\n\r\n", ConnectionFailedError),
    (HINTS, ConnectionFailedError), (OK[:-1], MalformedResponseError), (CHUNKS[:-5], MalformedResponseError),
    (CHUNKS.replace(b"1;x=y", b"zz"), MalformedResponseError),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", ConnectionFailedError),
    (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ProviderError),
], ids=["nothing", "half a line", "no HTTP", "hints only", "short", "cut", "no chunk", "two lengths", "upgrade"])
async def test_what_is_no_whole_answer_is_an_error(engine, answer, error):
    async with server(answer, close=True) as (url, _), client(engine) as http:
        with pytest.raises(error):
            await get(http, url, timeout=5)


@real_time
@EACH_ENGINE
async def test_a_server_that_hangs_up_before_it_was_asked_is_an_error(engine):
    async def serve(reader, writer):
        writer.transport.abort()

    async with listening(serve) as (url, _), client(engine) as http:
        for _ in range(5):
            with pytest.raises(ConnectionFailedError):
                await get(http, url, timeout=5)


class Closed(asyncio.Transport):
    def abort(self):
        pass


@FAST
async def test_a_connection_that_is_lost_before_it_is_used_tells_it(monkeypatch):
    async def connect(make, host, port):
        connection = make()
        connection.connection_made(Closed())
        connection.connection_lost(None)
        return None, connection

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", connect)
    async with client("fast") as http:
        with pytest.raises(ConnectionFailedError, match="disconnected without sending a response"):
            await get(http, "http://127.0.0.1:9/")


@real_time
@EACH_ENGINE
async def test_a_body_that_ends_with_a_reset_is_cut(engine):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)  # no time to linger: closing sends RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with listening(serve) as (url, _), client(engine) as http:
        with pytest.raises(MalformedResponseError, match="the answer was cut"):
            await get(http, url)


@real_time
@EACH_ENGINE
@pytest.mark.parametrize("begin", [
    b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n0\r\nx-trailer: ",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=",
], ids=["a header", "hints", "a trailer", "a chunk extension"])
async def test_what_is_no_body_may_not_go_on_for_ever(engine, begin):
    async with server(begin + b"x" * 400_000) as (url, _), client(engine) as http:
        with pytest.raises(ProviderError):
            await get(http, url, timeout=5)


# --- limits of time -------------------------------------------------------------------------------------------------


@EACH_ENGINE
async def test_silence_is_limited_and_each_byte_begins_it_anew(engine):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(40)
            writer.write(b"x")
        await reader.read()

    loop = asyncio.get_running_loop()
    async with listening(serve) as (url, _), client(engine) as http:
        received = []
        with pytest.raises(TimeoutError) as caught:
            async with http.stream("GET", url, headers={}, read=60) as stream:
                async for chunk in stream.chunks():
                    received.append(chunk)
        assert (b"".join(received), caught.value.phase) == (b"xxx", "attempt")
        assert 180 <= loop.time() < 181


@EACH_ENGINE
async def test_silence_before_the_headers_is_limited_too_and_the_next_exchange_has_its_own_limit(engine):
    async def serve(reader, writer):
        for wait in (50, 50, 300):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(wait)
            writer.write(OK)

    loop = asyncio.get_running_loop()
    async with listening(serve) as (url, _), client(engine) as http:
        for _ in range(2):
            async with http.stream("GET", url, headers={}, read=60) as stream:
                assert await stream.read() == b"ok"
        with pytest.raises(TimeoutError):
            async with http.stream("GET", url, headers={}, read=60):
                pass
        assert loop.time() == pytest.approx(160, abs=1)


@EACH_ENGINE
async def test_a_shorter_limit_of_silence_counts_at_once(engine):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    loop = asyncio.get_running_loop()
    async with listening(serve) as (url, _), client(engine) as http:
        async with http.stream("GET", url, headers={}, read=60) as stream:
            await stream.read()
        with pytest.raises(TimeoutError):
            async with http.stream("GET", url, headers={}, read=5):
                pass
        assert loop.time() == pytest.approx(5, abs=1)


@EACH_ENGINE
async def test_connecting_is_limited(engine, monkeypatch):
    async def never(*_, **__):
        await asyncio.sleep(1e6)

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    async with client(engine) as http:
        with pytest.raises(TimeoutError) as caught:
            await get(http, "http://127.0.0.1:9/", connect=5)
    assert (caught.value.phase, asyncio.get_running_loop().time()) == ("connect", 5)


@real_time
@EACH_ENGINE
async def test_who_closes_while_somebody_connects_ends_that_too(engine, monkeypatch):
    loop = asyncio.get_running_loop()
    may_connect, connecting, connect = asyncio.Event(), asyncio.Event(), loop.create_connection

    async def late(*arguments, **options):
        connecting.set()
        await may_connect.wait()
        return await connect(*arguments, **options)

    monkeypatch.setattr(loop, "create_connection", late)
    async with server(OK) as (url, _):
        http = HttpClient(ProviderConfig(name="p", engine=engine))
        call = asyncio.create_task(get(http, url))
        await connecting.wait()
        await http.aclose()
        may_connect.set()
        with pytest.raises(ConnectionFailedError):
            await call


@real_time
@EACH_ENGINE
async def test_a_reader_who_is_slow_makes_the_server_wait(engine):
    sent = 0

    async def serve(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(600):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with listening(serve) as (url, _), client(engine) as http, http.stream("GET", url, headers={}) as stream:
        chunks = stream.chunks()
        taken = len(await anext(chunks))
        await asyncio.sleep(0.2)
        held = sent - taken
        assert held < 30_000_000  # what the system and the client hold, not all of it
        async for chunk in chunks:
            taken += len(chunk)
        assert taken == 60_000_000


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of a server of our own, and where it is."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run([
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
        "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
    ], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, str(folder / "cert.pem")


@real_time
@EACH_ENGINE
async def test_a_certificate_is_verified_with_the_bundle_or_not_at_all(engine, certificate):
    context, bundle = certificate
    async with server(OK, OK, tls=context) as (url, connections):
        async with client(engine, ca_bundle=bundle) as http:
            assert [await get(http, url) for _ in range(2)] == [b"ok"] * 2
            assert len(connections) == 1
        async with client(engine, verify_ssl=False) as http:
            assert await get(http, url) == b"ok"
        async with client(engine) as http:
            with pytest.raises(ConnectionFailedError, match="set ca_bundle to a PEM file"):
                await get(http, url)
        async with client(engine, ca_bundle=bundle) as http:
            with pytest.raises(ConnectionFailedError):
                await get(http, url.replace("127.0.0.1", "localhost"))


@real_time
@EACH_ENGINE
async def test_a_server_without_tls_is_no_server_with_it(engine):
    async def serve(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(serve) as (url, _), client(engine) as http:
        with pytest.raises(ConnectionFailedError):
            await get(http, url.replace("http:", "https:"), connect=5)


# --- addresses ------------------------------------------------------------------------------------------------------


@EACH_ENGINE
@pytest.mark.parametrize("url", ["ftp://host/", "//host/", "https://a:port/"])
async def test_an_address_that_is_none_is_named_as_that(engine, url):
    async with client(engine) as http:
        with pytest.raises(ProviderError, match="base_url"):
            await get(http, url)


class Addresses:
    """A resolver, and what connecting to each address does: a time in seconds, or a failure."""

    def __init__(self, monkeypatch, **ends):
        self.ends = ends
        self.tried = []
        self.aborted = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", self.resolve)
        monkeypatch.setattr(loop, "create_connection", self.connect)

    async def resolve(self, host, port, **_):
        return [(name[:2], None, None, "", (name, port)) for name in self.ends]

    async def connect(self, make, host, port):
        self.tried.append((host, asyncio.get_running_loop().time()))
        end = self.ends[host]
        if isinstance(end, OSError):
            raise end
        await asyncio.sleep(end)
        return self, host

    def abort(self):
        self.aborted.append(None)


async def test_the_addresses_of_a_host_are_tried_by_turns_each_with_a_head_start(monkeypatch):
    addresses = Addresses(monkeypatch, v6_a=99.0, v6_b=99.0, v4_a=0.6, v4_b=99.0)
    assert await _dial.dial(None, "host.example", 1) == "v4_a"
    assert addresses.tried == [("v6_a", 0.0), ("v4_a", 0.25), ("v6_b", 0.5), ("v4_b", 0.75)]


async def test_an_address_that_fails_gives_way_at_once_and_if_all_do_it_is_told_why(monkeypatch):
    addresses = Addresses(monkeypatch, v6_a=OSError("one"), v4_a=0.0)
    assert await _dial.dial(None, "host.example", 1) == "v4_a"
    assert addresses.tried == [("v6_a", 0.0), ("v4_a", 0.0)]
    Addresses(monkeypatch, v6_a=OSError("one"), v4_a=OSError("two"))
    with pytest.raises(OSError, match="no address of the host can be reached: one; two"):
        await _dial.dial(None, "host.example", 1)
    Addresses(monkeypatch, v6_a=OSError("one"), v4_a=OSError("one"))
    with pytest.raises(OSError, match=r"^one$"):
        await _dial.dial(None, "host.example", 1)


async def test_a_connection_that_comes_too_late_is_closed(monkeypatch):
    addresses = Addresses(monkeypatch, v6_a=0.5, v4_a=0.25)
    assert await _dial.dial(None, "host.example", 1) in {"v6_a", "v4_a"}
    await asyncio.sleep(1)
    assert len(addresses.aborted) == 1  # both were there in one turn
    addresses = Addresses(monkeypatch, v6_a=9.0, v4_a=9.0)
    task = asyncio.create_task(_dial.dial(None, "host.example", 1))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- proxies --------------------------------------------------------------------------------------------------------


@real_time
@EACH_ENGINE
async def test_a_proxy_of_the_environment_is_used_but_for_what_it_is_not_for(engine, monkeypatch):
    seen = []
    async with server(OK, OK, seen=seen) as (url, _):
        monkeypatch.setenv("HTTP_PROXY", url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with client(engine) as http:
            assert await get(http, "http://elsewhere.example/x") == b"ok"
            assert await get(http, url) == b"ok"
            if engine == "fast":  # which has no need of httpx where there is no proxy
                assert [those.idle_count for those in connections(http)] == [1]
    assert [asked.split(b" ")[1] for asked in seen] == [b"http://elsewhere.example/x", b"/v1"]


# --- which engine ---------------------------------------------------------------------------------------------------


def kind(http):
    return type(http._engine()).__name__


@FAST
async def test_the_fast_engine_is_taken_where_it_is_installed_unless_something_speaks_against_it(monkeypatch):
    assert kind(HttpClient(ProviderConfig(name="p"))) == "FastEngine"
    assert kind(HttpClient(ProviderConfig(name="p", engine="httpx"))) == "HttpxEngine"
    own = FakeHttp(httpx.Response(200)).client
    assert kind(HttpClient(ProviderConfig(name="p"), http_client=own)) == "HttpxEngine"
    monkeypatch.setattr(_http, "_has_fast", lambda: False)
    assert kind(HttpClient(ProviderConfig(name="p"))) == "HttpxEngine"


@pytest.mark.parametrize("there", [{"httptools"}, {"msgspec"}, set()], ids=["httptools", "msgspec", "none"])
async def test_a_part_of_the_extra_that_came_with_something_else_asks_for_no_other_engine(monkeypatch, there):
    monkeypatch.setattr(_http, "find_spec", lambda name: name if name in there else None)
    _http._has_fast.cache_clear()
    assert kind(HttpClient(ProviderConfig(name="p"))) == "HttpxEngine"
    _http._has_fast.cache_clear()


async def test_what_is_asked_for_and_cannot_be_had_is_refused_at_once(monkeypatch):
    own = FakeHttp(httpx.Response(200)).client
    with pytest.raises(ValueError, match="http_client is a client of httpx, which engine='fast' does not use"):
        OpenAICompatibleProvider(ProviderConfig(name="p", model="m", engine="fast"), http_client=own)
    monkeypatch.setattr(_http, "_has_fast", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'resilient-orchestrator\[fast\]'"):
        OpenAICompatibleProvider(ProviderConfig(name="p", model="m", engine="fast"))
    with pytest.raises(ValueError, match="engine"):
        ProviderConfig(name="p", engine="slow")


@FAST
async def test_the_engine_may_be_changed_later():
    config = ProviderConfig(name="p")
    http = HttpClient(config)
    assert kind(http) == "FastEngine"
    config.engine = "httpx"
    assert kind(http) == "HttpxEngine"
    await http.aclose()


@respx.mock
async def test_with_the_httpx_engine_respx_goes_on_working():
    respx.get("https://api.example/x").respond(json={"a": 1})
    async with client("httpx") as http:
        assert [await get(http, "https://api.example/x") for _ in range(2)] == [b'{"a":1}'] * 2


async def test_with_the_httpx_engine_a_patched_transport_goes_on_working(monkeypatch):
    async def answer(self, request):
        return httpx.Response(200, content=request.url.path.encode())

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    async with client("httpx") as http:
        assert await get(http, "https://api.example/x") == b"/x"


# --- one buffer for all connections of a loop -----------------------------------------------------------------------

LONG = b"".join(b"%07d," % number for number in range(75_000))  # 600 kB, in which no two places are the same
WAYS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@pytest.fixture(params=[True, False], ids=["small", "usual"])
def buffer(request, monkeypatch):
    """The buffer of the test's own loop, which is also tried with one that most of what comes does not fit into."""
    if request.param:
        monkeypatch.setattr(_exchange, "_AT_ONCE", 20_000)


def chunked(body, size):
    parts = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


@real_time
@WAYS
@EACH_ENGINE
@pytest.mark.usefixtures("buffer")
@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\ncontent-length: 600000\r\n\r\n" + LONG,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(LONG, 50_001),
], ids=["length", "chunked"])
async def test_a_body_larger_than_the_buffer_comes_whole(engine, certificate, tls, answer):
    context, bundle = certificate
    serving = server(answer, answer, tls=context if tls else None)
    async with serving as (url, connections), client(engine, ca_bundle=bundle) as http:
        assert [await get(http, url) == LONG for _ in range(2)] == [True, True]
        assert len(connections) == 1


@real_time
@WAYS
@EACH_ENGINE
async def test_answers_that_come_byte_by_byte_at_the_same_time_do_not_mix(engine, certificate, tls):
    context, bundle = certificate
    begun = asyncio.Barrier(20)

    async def serve(reader, writer):
        name = (await reader.readuntil(b"\r\n\r\n")).split()[1].removeprefix(b"/v1/")
        await begun.wait()
        for byte in b"HTTP/1.1 200 OK\r\nx-%b: %b\r\ncontent-length: 20\r\n\r\n%b" % (name, name, name * 10):
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        await reader.read()

    async with listening(serve, context if tls else None) as (url, _), client(engine, ca_bundle=bundle) as http:
        names = [str(number) for number in range(10, 30)]
        responses = await asyncio.gather(*(http.send("GET", f"{url}/{name}", headers={}) for name in names))
        [those] = connections(http)
        assert len({id(connection._buffer) for connection in those.idle}) == 1
        those.idle[0]._buffer[:] = bytes(len(those.idle[0]._buffer))  # nothing of an answer is still in it
        for name, response in zip(names, responses, strict=True):
            assert (response.headers[f"x-{name}"], response.body) == (name, name.encode() * 10)


@real_time
@WAYS
@EACH_ENGINE
@pytest.mark.usefixtures("buffer")
@pytest.mark.parametrize("size", [300_000, 450_000, 600_000])
async def test_what_waited_for_a_slow_reader_is_not_lost_when_the_server_closes(engine, certificate, tls, size):
    context, bundle = certificate
    taken = b""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve():  # closes without the farewell of TLS, as many do; asyncio's server would wait for an answer to it
            connection = listener.accept()[0]
            with context.wrap_socket(connection, server_side=True) if tls else connection as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + LONG[:size])

        served = asyncio.get_running_loop().run_in_executor(None, serve)
        url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        async with client(engine, ca_bundle=bundle) as http, http.stream("GET", url, headers={}) as stream:
            await served
            for _ in range(20):  # the client sees the end, as far as it has not stopped reading before
                await asyncio.sleep(0)
            async for chunk in stream.chunks():
                taken += chunk
                await asyncio.sleep(0)
    assert taken == LONG[:size]


# --- headers of a response ------------------------------------------------------------------------------------------


def test_headers_are_a_mapping_without_regard_to_case():
    headers = Headers([(b"Content-Type", b"a/b"), (b"x-a", b"1"), (b"X-A", b"\xe9")])
    assert (headers["content-TYPE"], headers["X-a"], headers.get("none")) == ("a/b", "1, é", None)
    assert (list(headers), len(headers), "x-A" in headers) == (["content-type", "x-a"], 2, True)
    assert "a/b" not in repr(headers)
