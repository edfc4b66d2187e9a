"""Where a provider is: no password in a URL that is handed on, and one warning where anybody could read along."""

from __future__ import annotations

import logging
from base64 import b64encode

import httpx
import pytest

from fake_http import FakeHttp
from orchestrator import ProviderConfig
from orchestrator.core.types import Request
from orchestrator.providers import GigaChatProvider, OpenAICompatibleProvider, YandexGPTProvider, _address
from orchestrator.providers._address import address_of, secrets_of

USER = f"Basic {b64encode(b'user:pass word').decode()}"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(_address, "_warned", set())


def config(**fields):
    return ProviderConfig(**({"name": "p", "api_key": "sk-key", "model": "m", "folder_id": "f"} | fields))


def made(vendor, client=None, **fields):
    kind = {"openai": OpenAICompatibleProvider, "gigachat": GigaChatProvider, "yandex": YandexGPTProvider}[vendor]
    return kind(config(**fields), http_client=client)


@pytest.mark.parametrize(("url", "address", "authorization"), [
    ("https://h/v1/", "https://h/v1", None), ("HTTPS://h", "https://h", None),
    ("http://[::1]:80/a", "http://[::1]:80/a", None),
    ("https://user:pass%20word@h:1/v1", "https://h:1/v1", USER),
    ("https://us@er:p@h/", "https://h", f"Basic {b64encode(b'us@er:p').decode()}"),
    ("https://token@h", "https://h", f"Basic {b64encode(b'token:').decode()}"),
])
def test_a_password_is_taken_out_of_the_url(url, address, authorization):
    found = address_of(config(), "base_url", url)
    assert found[:2] == (address, authorization)
    assert "pass" not in repr(found)


@pytest.mark.parametrize("url", [
    None, "", "h", "ftp://u:hunter2@h", "https://", "https://u:hunter2@", "https://u:hunter2@[::1", "https://h:hunter2",
    "https://u:hunter2@h\u2100c",
])
@pytest.mark.parametrize("vendor", ["openai", "gigachat", "yandex"])
def test_what_is_no_address_is_refused_and_not_shown(url, vendor):
    with pytest.raises(ValueError, match="base_url of 'p' must begin with http:// or https://") as caught:
        address_of(config(), "base_url", url)
    if url:
        with pytest.raises(ValueError, match="base_url of 'p'") as caught:
            made(vendor, base_url=url)
    assert "hunter2" not in f"{caught.value!r}{caught.value.__context__!r}"


@pytest.mark.parametrize("vendor", ["openai", "yandex"])
async def test_the_password_of_a_url_is_sent_as_before(vendor):
    fake = FakeHttp(httpx.Response(500))
    one = made(vendor, fake.client, base_url="https://user:pass%20word@h/v1", max_retries=0)
    with pytest.raises(Exception, match="500"):
        await one.complete(Request("hi"))
    (request,) = fake.requests
    assert (request.headers["authorization"], request.url.userinfo) == (USER, b"")


def test_secrets_are_the_key_passwords_and_headers_named_so():
    headers = {"X-Auth": "a", "Cookie": "b", "x-team": "search", "x-api-key": "c"}
    address = address_of(config(), "base_url", "https://user:pass%20word@h")
    secrets = secrets_of(config(api_key=" sk-key\n", headers=headers), address)
    assert secrets == ("sk-key", "a", "b", "c", USER.removeprefix("Basic "), "pass word", "pass%20word")
    assert "pass" not in repr(secrets)


# --- warnings -------------------------------------------------------------------------------------------------------


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("host", [
    "api.example", "10.0.0.7", "192.168.1.2", "[fe80::1]", "128.0.0.1", "localhost.example",
])
@pytest.mark.parametrize("vendor", ["openai", "gigachat", "yandex"])
def test_http_to_another_machine_warns_once(vendor, host, caplog):
    for _ in range(3):
        one = made(vendor, base_url=f"http://u:hunter2@{host}:80/v1")
        one.config.timeout = 5
    assert lines(caplog) == [f"p: keys, prompts and answers go to {host.strip('[]')} unencrypted; use https://"]
    assert caplog.records[0].name == "orchestrator"


def test_each_host_has_its_warning_gigachat_s_oauth_too(caplog):
    made("gigachat", base_url="http://one.example", auth_url="http://two.example")
    made("openai", base_url="http://three.example")
    assert [line.split()[7] for line in lines(caplog)] == ["one.example", "two.example", "three.example"]


@pytest.mark.parametrize("url", [
    "https://api.example", "http://localhost:8000", "http://127.0.0.1", "http://127.9.8.7:1", "http://[::1]:1/v1",
    "http://vllm.localhost",
])
def test_https_and_loopback_need_no_warning(url, caplog):
    for vendor in ("openai", "gigachat", "yandex"):
        made(vendor, base_url=url, auth_url=url)
    assert lines(caplog) == []


def test_certificates_that_are_not_verified_warn_once(caplog):
    for _ in range(2):
        made("openai", verify_ssl=False, base_url="https://api.example")
    one = made("openai", base_url="https://other.example")
    one.config.verify_ssl = False
    assert lines(caplog) == [
        f"p: the certificate of {host} is not verified; verify_ssl is off" for host in ("api.example", "other.example")]


@pytest.mark.parametrize(("transport", "warned"), [
    (httpx.AsyncHTTPTransport(uds="/run/vllm.sock"), 0), (httpx.AsyncHTTPTransport(), 1), (FakeHttp(), 0), (None, 1),
])
def test_a_client_with_a_way_of_its_own_need_not_be_warned_of(transport, warned, caplog):
    client = httpx.AsyncClient(transport=transport)
    made("openai", client, base_url="http://vllm/v1", verify_ssl=False)
    assert len(lines(caplog)) == warned


async def test_nothing_is_said_at_a_call(caplog):
    fake = FakeHttp(httpx.Response(500))
    one = made("openai", httpx.AsyncClient(transport=fake), base_url="http://api.example", max_retries=0)
    for _ in range(2):
        with pytest.raises(Exception, match="500"):
            await one.complete(Request("hi"))
    assert lines(caplog) == []
