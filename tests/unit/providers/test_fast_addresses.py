"""An address as the fast engine takes it apart is what httpx would make of it, which is loaded for few of them."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httptools")

from orchestrator.providers._exchange import Origin
from orchestrator.providers._fast import _USUAL, _address_of
from orchestrator.providers.catalog import VENDORS
from wire import FAST

PARTS = (
    *"aB107.-_~:/?#@%[]=& é{|^\\'(!*,;$\x00", "%41", "..",
    "localhost", "127.0.0.1", "256.1.1.1", "01.2.3.4", "[::1]", "api.example", ":443", ":80", ":8000", ":0", ":99999",
    "/v1", "/./", "/../", "//", "/v1beta/models/a:generate",
)
REMAINDERS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


def address(url):
    found = _address_of(url)
    return found.origin, found.line, found.host


def by_httpx(url):
    parts = httpx.URL(url)
    host, tls = parts.raw_host.decode(), parts.scheme == "https"
    origin = Origin(tls, host, parts.port or (443 if tls else 80))
    return origin, b" %b HTTP/1.1\r\n" % parts.raw_path, b"host: %b\r\n" % parts.netloc


@given(st.sampled_from(["https://", "http://", "https://api.example", "http://10.0.0.7", "http://h:1"]), REMAINDERS)
def test_an_address_is_what_httpx_would_make_of_it(scheme, rest):
    url = scheme + rest
    try:
        told = by_httpx(url)
    except httpx.InvalidURL:
        assert not _USUAL.fullmatch(url)
        return
    if told[0].host:
        assert address(url) == told


@pytest.mark.parametrize("url", [
    *(vendor.base_url for vendor in VENDORS.values() if vendor.base_url),
    "http://localhost:11434/v1/chat/completions", "http://10.1.2.3:8000/v1", "https://h", "https://h/",
    "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", "http://vllm-1:80/v1",
])
def test_usual_addresses_need_no_httpx(url):
    assert _USUAL.fullmatch(url)


@pytest.mark.parametrize("url", [
    "https://пример.рф/v1", "https://h/a b", "https://h/../v1", "https://h?a=1", "https://H/v1", "http://[::1]:80/v1",
    "http://256.1.1.1", "http://1.2.3.4.5", "https://u:p@h", "https://h:", "https://h:port", "ftp://h", "https://", "h",
])
def test_the_others_are_left_to_it(url):
    assert not _USUAL.fullmatch(url)


@FAST
@pytest.mark.parametrize("url", ["https://h:port", "https://256.1.1.1", "https://xn--a\u2100"])
def test_what_httpx_refuses_is_our_error_although_it_was_loaded_only_for_that(url):
    # In a process of its own: here httpx is loaded.
    code = (
        "import asyncio, sys\n"
        "from orchestrator.core.errors import ProviderError\n"
        "from orchestrator.providers import ProviderConfig\n"
        "from orchestrator.providers._http import HttpClient\n"
        "async def main():\n"
        "    http = HttpClient(ProviderConfig(name='p', engine='fast'))\n"
        "    assert 'httpx' not in sys.modules\n"
        "    try:\n"
        f"        await http.send('GET', {url!r}, headers={{}})\n"
        "    except ProviderError as error:\n"
        "        print(type(error).__name__, error)\n"
        "asyncio.run(main())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("ProviderError p: base_url: Invalid ")
