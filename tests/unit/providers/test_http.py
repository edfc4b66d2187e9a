"""The HTTP client of a provider: bounds, mapping, headers, TLS, connections given back."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
import zlib
from importlib import metadata

import certifi
import httpx
import pytest

from fake_http import Chunks, FakeHttp, streamed
from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    TimeoutError,
)
from orchestrator.providers import WireLimits, _http, _httpx, _tls
from orchestrator.providers._http import HttpClient, WireResponse, parse_json
from orchestrator.providers._httpx import new_client
from orchestrator.providers._tls import tls_of

URL = "https://api.example/v1/x"
ONE_AUTHORITY = certifi.contents().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"


def client(*answers: object, limits: WireLimits | None = None, **config: object) -> tuple[HttpClient, FakeHttp]:
    fake = FakeHttp(*answers)  # type: ignore[arg-type]
    settings = ProviderConfig.model_validate({"name": "p", "model": "m", **config})
    return HttpClient(settings, http_client=fake.client, limits=limits or WireLimits()), fake


async def body_of(response: httpx.Response | Exception, *, limits: WireLimits | None = None) -> bytes:
    http, _ = client(response, limits=limits)
    return (await http.send("GET", URL, headers={})).body


# --- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 308, 404, 500])
async def test_no_status_raises_and_no_redirect_is_followed(status):
    http, fake = client(httpx.Response(status, headers={"location": "https://elsewhere.example"}, content=b"{}"))
    response = await http.send("POST", URL, headers={}, body=b"x")
    assert (response.status, response.body, len(fake.requests)) == (status, b"{}", 1)


async def test_a_body_that_a_hook_has_read_already_is_still_there():
    async def read(response: httpx.Response) -> None:
        await response.aread()

    fake = FakeHttp(httpx.Response(200, content=b"abc"), streamed(gzip.compress(b"def"), content_encoding="gzip"))
    hooked = httpx.AsyncClient(transport=fake, event_hooks={"response": [read]})
    http = HttpClient(ProviderConfig(name="p"), http_client=hooked)
    assert [(await http.send("GET", URL, headers={})).body for _ in range(2)] == [b"abc", b"def"]


def test_json_is_parsed_and_what_is_none_is_named_but_not_shown():
    assert WireResponse(200, httpx.Headers(), b' \n{"a": 1}').json() == {"a": 1}
    html = httpx.Headers({"content-type": "text/html; charset=utf-8"})
    with pytest.raises(MalformedResponseError) as caught:
        WireResponse(200, html, b"<html>secret").json()
    assert caught.value.message == "the body is not JSON (text/html, 12 bytes)"
    for broken in (b"", b"\xff", b"[" * 100_000, b"1" * 5000, b'{"a":'):
        with pytest.raises(MalformedResponseError, match="no content type"):
            parse_json(broken)


# --- bounds ---------------------------------------------------------------------------------------------------------

SMALL = WireLimits(body=100, stream=150)


async def test_a_body_is_bounded_while_it_is_read():
    body = Chunks(*[b"x" * 30] * 1000)
    with pytest.raises(MalformedResponseError, match="body is longer than 100 bytes") as caught:
        await body_of(httpx.Response(200, stream=body), limits=SMALL)
    assert (body.taken, body.closed) == (4, 1)
    assert (caught.value.provider, caught.value.model, caught.value.status_code) == ("p", "m", 200)
    assert len(await body_of(streamed(b"x" * 60, b"x" * 40), limits=SMALL)) == 100


@pytest.mark.parametrize("status", [307, 401, 503])
async def test_of_an_errors_body_what_came_of_its_beginning_is_enough(status):
    cut = Chunks(b'{"err', httpx.ReadError("reset"))
    assert await body_of(httpx.Response(status, stream=cut)) == b'{"err'
    endless = Chunks(*[b"x" * 2**15] * 1000)
    assert await body_of(httpx.Response(status, stream=endless)) == b"x" * 2**16
    assert (endless.taken, endless.closed, cut.closed) == (2, 1, 1)
    assert await body_of(httpx.Response(status, headers={"content-encoding": "br"}, stream=Chunks(b"x"))) == b""


async def test_a_stream_is_bounded_in_all():
    http, _ = client(streamed(*[b"x" * 30] * 1000), limits=SMALL)
    received: list[bytes] = []
    with pytest.raises(MalformedResponseError, match="stream is longer than 150 bytes"):
        await drink(http, received)
    assert sum(map(len, received)) == 150


async def drink(http: HttpClient, received: list[bytes], at_most: int = 1000) -> None:
    async with http.stream("GET", URL, headers={}) as stream:
        async for chunk in stream.chunks():
            received.append(chunk)
            if len(received) == at_most:
                raise KeyError


@pytest.mark.parametrize(("encoding", "encoded"), [
    ("gzip", gzip.compress(b"hello" * 9, mtime=0)), ("X-Gzip", gzip.compress(b"hello" * 9, mtime=0)),
    ("deflate", zlib.compress(b"hello" * 9)), ("identity", b"hello" * 9), ("", b"hello" * 9),
])
async def test_a_body_that_is_compressed_against_our_wish_is_read_in_bounded_steps(encoding, encoded):
    cut = [encoded[i : i + 3] for i in range(0, len(encoded), 3)]
    assert await body_of(streamed(*cut, content_encoding=encoding), limits=SMALL) == b"hello" * 9


async def test_a_compressed_body_is_bounded_by_what_it_unpacks_to():
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(MalformedResponseError, match="longer than 100 bytes"):
        await body_of(streamed(bomb, content_encoding="gzip"), limits=SMALL)
    assert {len(piece) <= 64 * 1024 for piece in _http._inflated(zlib.decompressobj(47), bomb)} == {True}


@pytest.mark.parametrize(("encoding", "body", "message"), [
    ("br", b"x", "encoded as 'br', although 'identity' was asked for"),
    ("gzip", b"plain", "not what its content-encoding says"),
    ("gzip", gzip.compress(b"hello", mtime=0)[:-4], "compressed body was cut"),
])
async def test_an_encoding_that_cannot_be_undone_is_malformed(encoding, body, message):
    with pytest.raises(MalformedResponseError, match=message):
        await body_of(streamed(body, content_encoding=encoding))


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "kind"), [
    (httpx.ConnectTimeout("x"), TimeoutError), (httpx.ConnectError("x"), ConnectionFailedError),
    (httpx.RemoteProtocolError("x"), ConnectionFailedError), (OSError("x"), ConnectionFailedError),
    (httpx.UnsupportedProtocol("x"), ProviderError), (RuntimeError("x"), ProviderError),
])
async def test_a_failure_before_the_response_is_mapped(failure, kind):
    with pytest.raises(ProviderError) as caught:
        await body_of(failure)
    assert type(caught.value) is kind
    assert (caught.value.provider, caught.value.model) == ("p", "m")
    assert caught.value.__cause__ is failure


@pytest.mark.parametrize("failure", [httpx.RemoteProtocolError("x"), httpx.ReadError("x"), ConnectionResetError("x")])
async def test_a_failure_within_the_body_is_a_cut_answer_and_gives_the_connection_back(failure):
    body = Chunks(b"abc", failure)
    with pytest.raises(MalformedResponseError, match="the answer was cut"):
        await body_of(httpx.Response(200, stream=body))
    assert body.closed == 1


async def test_an_address_that_is_none_is_mapped():
    http, _ = client(httpx.Response(200))
    with pytest.raises(ProviderError, match="base_url"):
        await http.send("GET", "https://a:port/", headers={})


async def test_the_whole_exchange_may_be_limited():
    http, _ = client(streamed(b"x", 30.0, b"y"))
    with pytest.raises(TimeoutError, match=r"no answer within 5 s") as caught:
        await http.send("GET", URL, headers={}, timeout=5)
    assert caught.value.phase == "attempt"
    assert asyncio.get_running_loop().time() == 5


async def test_a_connect_timeout_is_told_apart_from_the_limit_of_the_whole():
    http, _ = client(httpx.ConnectTimeout("x"))
    with pytest.raises(TimeoutError) as caught:
        await http.send("GET", URL, headers={}, timeout=5)
    assert caught.value.phase == "connect"


async def test_only_the_limits_given_are_set():
    http, fake = client(lambda request: httpx.Response(200))
    await http.send("GET", URL, headers={}, connect=3)
    async with http.stream("GET", URL, headers={}, read=7):
        pass
    unset = {"connect": None, "read": None, "write": None, "pool": None}
    limits = [request.extensions["timeout"] for request in fake.requests]
    assert limits == [{**unset, "connect": 3}, {**unset, "read": 7}]


# --- connections ----------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_gives_its_connection_back():
    body = Chunks(b"x", 3600.0)
    http, _ = client(httpx.Response(200, stream=body))
    task = asyncio.create_task(http.send("GET", URL, headers={}))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert body.closed == 1


async def test_a_stream_left_early_gives_its_connection_back():
    body = Chunks(*[b"x"] * 10)
    http, _ = client(httpx.Response(200, stream=body))
    with pytest.raises(KeyError):
        await drink(http, [], at_most=2)
    assert body.closed == 1


@pytest.fixture
def made(monkeypatch) -> list[httpx.AsyncClient]:
    """The clients the code makes for itself, with a fake transport in place of the network."""
    clients: list[httpx.AsyncClient] = []

    def new(verify: ssl.SSLContext) -> httpx.AsyncClient:
        clients.append(FakeHttp(lambda request: httpx.Response(200, content=b"ok")).client)
        return clients[-1]

    monkeypatch.setattr(_httpx, "new_client", new)
    return clients


async def test_one_client_is_made_at_the_first_call_and_closed_once(made):
    http = HttpClient(ProviderConfig(name="p", engine="httpx"))
    assert made == []
    for _ in range(3):
        await http.send("GET", URL, headers={})
    assert len(made) == 1
    await http.aclose()
    await http.aclose()
    assert made[0].is_closed
    with pytest.raises(ProviderError, match="the provider was closed"):
        await http.send("GET", URL, headers={})


def test_another_event_loop_gets_another_client_and_a_dead_loop_s_is_dropped(made):
    http = HttpClient(ProviderConfig(name="p", engine="httpx"))
    for _ in range(3):
        asyncio.run(http.send("GET", URL, headers={}))
    assert len(made) == 3
    assert len(http._engines) == 1
    asyncio.run(http.aclose())
    assert not made[2].is_closed  # its loop is gone, and with it the right to use its sockets


async def test_changed_tls_settings_make_a_new_client(made):
    config = ProviderConfig(name="p", engine="httpx")
    http = HttpClient(config)
    await http.send("GET", URL, headers={})
    config.verify_ssl = False
    await http.send("GET", URL, headers={})
    assert len(made) == 2
    await http.aclose()
    assert all(client.is_closed for client in made)


async def test_an_injected_client_is_never_closed_and_keeps_its_own_headers():
    fake = FakeHttp(lambda request: httpx.Response(200))
    own = httpx.AsyncClient(transport=fake, headers={"x-mine": "1"})
    http = HttpClient(ProviderConfig(name="p"), http_client=own)
    await http.send("GET", URL, headers={})
    await http.aclose()
    assert not own.is_closed
    assert fake.requests[0].headers["x-mine"] == "1"


async def test_an_injected_client_that_was_closed_is_the_provider_s_failure():
    http, _ = client(httpx.Response(200))
    assert http._injected is not None
    await http._injected.client.aclose()
    with pytest.raises(ProviderError) as caught:
        await http.send("GET", URL, headers={})
    assert type(caught.value) is ProviderError


async def test_a_proxy_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://me:hunter2@proxy.example")
    with pytest.raises(ProviderError, match=r"no HTTP client can be made: .*gopher") as caught:
        await HttpClient(ProviderConfig(name="p")).send("GET", URL, headers={})
    assert "hunter2" not in str(caught.value)


async def test_cookies_are_not_kept():
    own = new_client(ssl.create_default_context())
    own._transport = fake = FakeHttp(lambda request: httpx.Response(200, headers={"set-cookie": "a=1; Path=/"}))
    own._mounts = {}
    for _ in range(2):
        await own.get(URL)
    assert "cookie" not in fake.requests[1].headers
    assert len(own.cookies) == 0


# --- headers --------------------------------------------------------------------------------------------------------


async def test_headers_of_the_configuration_win_over_those_of_the_call_whatever_their_case():
    http, fake = client(httpx.Response(200), headers={"AUTHORIZATION": "mine", "X-Tag": "1"})
    await http.send("GET", URL, headers={"Authorization": "theirs", "Accept": "a/b"})
    sent = fake.requests[0].headers
    assert sent.get_list("authorization") == ["mine"]
    assert (sent["x-tag"], sent["accept"], sent["accept-encoding"]) == ("1", "a/b", "identity")
    assert sent["user-agent"].startswith("resilient-orchestrator")


async def test_headers_that_change_are_sent_as_they_are_now():
    config = ProviderConfig(name="p", headers={"x-a": "1"})
    fake = FakeHttp(lambda request: httpx.Response(200))
    http = HttpClient(config, http_client=fake.client)
    for token in ("t1", "t1", "t2"):
        await http.send("GET", URL, headers={"authorization": token})
    config.headers["x-a"] = "2"
    await http.send("GET", URL, headers={"authorization": "t2"})
    sent = [(request.headers["authorization"], request.headers["x-a"]) for request in fake.requests]
    assert sent == [("t1", "1"), ("t1", "1"), ("t2", "1"), ("t2", "2")]


@pytest.mark.parametrize("key", ["sk-abc\n", "sk-äbc", "sk-abc\r\nx-evil: 1"])
async def test_a_key_that_no_header_may_hold_is_refused_without_being_shown(key):
    http, fake = client(httpx.Response(200))
    with pytest.raises(ProviderError, match="no HTTP header may hold") as caught:
        await http.send("GET", URL, headers={"Authorization": f"Bearer {key}"})
    assert "sk-" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert fake.requests == []


def test_the_version_is_told_when_it_is_known(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for version, agent in ((lambda name: "1.2.3", "resilient-orchestrator/1.2.3"), (missing, "resilient-orchestrator")):
        monkeypatch.setattr(metadata, "version", version)
        _http._user_agent.cache_clear()
        assert _http._user_agent() == agent
    _http._user_agent.cache_clear()


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_certificates_are_verified_unless_told_otherwise():
    usual = tls_of(ProviderConfig(name="p"))
    assert usual.verify_mode is ssl.CERT_REQUIRED
    assert usual is tls_of(ProviderConfig(name="q"))
    off = tls_of(ProviderConfig(name="p", verify_ssl=False))
    assert (off.verify_mode, off.check_hostname) == (ssl.CERT_NONE, False)


def test_the_authorities_are_read_when_a_provider_is_made_and_not_within_its_first_request():
    for known, config in enumerate((ProviderConfig(name="p", verify_ssl=False), ProviderConfig(name="p"))):
        _tls._shared.cache_clear()
        HttpClient(config)
        assert _tls._shared.cache_info().currsize == known


async def test_authorities_that_cannot_be_read_are_an_error_of_the_request(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    _tls._shared.cache_clear()
    client = HttpClient(ProviderConfig(name="p"))
    with pytest.raises(ConnectionFailedError):
        await client.send("GET", "https://a.example", headers={})


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("environment", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_whom_a_connection_trusts_is_what_httpx_would_say(monkeypatch, tmp_path, environment, verify):
    one = tmp_path / "one.pem"
    one.write_text(ONE_AUTHORITY)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    if environment:
        monkeypatch.setenv(environment, str(one if environment == "SSL_CERT_FILE" else tmp_path))
    _tls._shared.cache_clear()
    ours, theirs = tls_of(ProviderConfig(name="p", verify_ssl=verify)), httpx.create_ssl_context(verify=verify)
    _tls._shared.cache_clear()
    told = ("verify_mode", "check_hostname", "verify_flags", "options", "minimum_version", "keylog_filename")
    assert [getattr(ours, name) for name in told] == [getattr(theirs, name) for name in told]
    assert ours.get_ca_certs() == theirs.get_ca_certs()
    assert ours.cert_store_stats() == theirs.cert_store_stats()
    assert (len(ours.get_ca_certs()) == 1) is (verify and environment == "SSL_CERT_FILE")


def test_a_bundle_is_added_to_the_usual_authorities(tmp_path):
    one = tmp_path / "one.pem"
    one.write_text(ONE_AUTHORITY)
    context = tls_of(ProviderConfig(name="p", ca_bundle=str(one)))
    assert context is not tls_of(ProviderConfig(name="p"))
    assert len(context.get_ca_certs()) >= len(tls_of(ProviderConfig(name="p")).get_ca_certs())


async def test_a_bundle_that_is_missing_or_no_pem_is_named(tmp_path):
    http = HttpClient(ProviderConfig(name="p", ca_bundle=str(tmp_path / "none.pem")))
    with pytest.raises(ProviderError, match=r"ca_bundle: there is no file .*none\.pem"):
        await http.send("GET", URL, headers={})
    (tmp_path / "bad.pem").write_text("hello")
    http = HttpClient(ProviderConfig(name="p", ca_bundle=str(tmp_path / "bad.pem")))
    with pytest.raises(ProviderError, match="holds no PEM certificates"):
        await http.send("GET", URL, headers={})


# --- over real sockets ----------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_over_a_socket_connections_are_reused_and_a_short_body_is_cut():
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for length in (2, 2, 5):  # the third body is shorter than it says
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\nok" % length)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    http = HttpClient(ProviderConfig(name="p"))
    assert [(await http.send("GET", url, headers={}, connect=5)).body for _ in range(2)] == [b"ok", b"ok"]
    with pytest.raises(MalformedResponseError, match="the answer was cut"):
        await http.send("GET", url, headers={}, connect=5)
    assert connections == 1
    server.close()
    with pytest.raises(ConnectionFailedError):
        await http.send("GET", url, headers={}, connect=5)
    await http.aclose()


async def test_nothing_of_a_call_is_logged_with_its_key(caplog):
    caplog.set_level(logging.DEBUG)
    http, _ = client(httpx.ConnectError("x"))
    with pytest.raises(ConnectionFailedError):
        await http.send("POST", URL, headers={"authorization": "Bearer sk-abcdefgh"})
    assert "sk-abcdefgh" not in caplog.text
