"""What an import loads, what making a router loads, and that its requests load nothing more."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = {"pydantic", "httpx", "httpcore", "aiobreaker", "tenacity", "opentelemetry", "certifi"}
USUAL = "from orchestrator import Router; from orchestrator.providers import OpenAICompatibleProvider"
SETTINGS = f"{USUAL}; from orchestrator import ProviderConfig"
PROVIDER = "OpenAICompatibleProvider(ProviderConfig(name='a', base_url={}, model='m', engine={!r}))"
AT = "'https://a.example/v1'"
ENGINES = [
    pytest.param("fast", marks=pytest.mark.skipif(
        find_spec("httptools") is None or find_spec("msgspec") is None, reason="the extra `fast` is not installed"
    )),
    "httpx",
]
NEEDED = {"fast": {"pydantic", "aiobreaker", "certifi"}, "httpx": HEAVY - {"tenacity", "opentelemetry"}}
ANSWERS_TWICE = r"""
import asyncio, sys

ANSWERS = {
    b"application/json": b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}',
    b"text/event-stream": b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n',
}

async def serve(reader, writer):
    for kind, body in ANSWERS.items():
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind)
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = "http://127.0.0.1:%d/v1" % server.sockets[0].getsockname()[1]
    async with Router(providers=[PROVIDER]) as router:
        before = set(sys.modules)
        assert await router.route("Hello") == "Hi"
        assert [piece async for piece in router.route_stream("Hello")] == ["Hi"]
        print(*set(sys.modules) - before)
    server.close()

asyncio.run(main())
"""


def imports_after(statement: str) -> set[str]:
    return printed_by(f"import sys\n{statement}\nprint(' '.join(sys.modules))")


def printed_by(code: str) -> set[str]:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


@pytest.mark.parametrize("statement", ["import orchestrator", USUAL])
def test_importing_the_package_loads_no_sdk_no_extra_and_nothing_heavier_than_itself(statement):
    loaded = imports_after(statement)
    assert loaded & HEAVY == set()
    assert loaded & {"openai", "gigachat", "typer", "rich", "pytest", "h11", "httptools"} == set()
    later = {"difflib", "importlib.metadata", "orchestrator.sync", "orchestrator.simulation", "orchestrator.testing",
             "orchestrator.telemetry", "orchestrator.cli", "orchestrator.core.config", "orchestrator.providers._fast",
             "orchestrator.providers._httpx"}
    assert loaded & later == set()


def test_settings_load_pydantic_and_nothing_else():
    assert imports_after(SETTINGS) & HEAVY == {"pydantic"}
    assert imports_after(f"{USUAL}; Router()") & HEAVY == {"pydantic"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_router_loads_what_its_guards_and_engine_need_and_no_other_engine(engine):
    loaded = imports_after(f"{SETTINGS}; Router(providers=[{PROVIDER.format(AT, engine)}])")
    assert loaded & HEAVY == NEEDED[engine]
    engines = {"orchestrator.providers._fast": "fast", "orchestrator.providers._httpx": "httpx"}
    assert {engines[name] for name in loaded & engines.keys()} == {engine}
    assert loaded & {"httptools", "h11"} == {"httptools" if engine == "fast" else "h11"}


@pytest.mark.real_time
@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_requests_load_nothing_more(engine):
    code = ANSWERS_TWICE.replace("PROVIDER", PROVIDER.format("base", engine))
    assert printed_by(f"{SETTINGS}\n{code}") == set()


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_behind_a_proxy_httpx_is_loaded_before_the_first_request_for_it_goes_by_that(monkeypatch, proxy):
    pytest.importorskip("httptools")
    pytest.importorskip("msgspec")
    monkeypatch.setenv(proxy, "http://proxy.example")
    loaded = imports_after(f"{SETTINGS}; {PROVIDER.format(AT, 'fast')}")
    assert "orchestrator.providers._httpx" in loaded


@pytest.mark.parametrize("package", ["orchestrator", "orchestrator.providers", "orchestrator.telemetry"])
def test_names_that_are_loaded_on_use_are_names_as_any_others(package):
    code = (
        f"import pickle, {package} as package; listed = dir(package); from {package} import *\n"
        "assert set(package.__all__) <= set(listed) and set(package.__all__) <= set(globals())\n"
        "assert all(getattr(package, name) is globals()[name] for name in package.__all__)\n"
        "assert all(pickle.loads(pickle.dumps(value)) is value for value in map(globals().get, package.__all__)"
        " if isinstance(value, type))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
