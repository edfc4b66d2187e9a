"""The pytest plugin, as a project of its own would use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["orchestrator.testing.plugin"]\n'
INI = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore:Module already imported:pytest.PytestAssertRewriteWarning
addopts = --strict-markers -p no:cacheprovider
"""

TESTS = """
import asyncio, time
import httpx, pytest
from orchestrator import Router
from orchestrator.testing import VirtualTimeLoop

pytestmark = pytest.mark.asyncio

@pytest.mark.virtual_time
async def test_an_hour(recorder, simulated_openai, simulated_gigachat, simulated_yandex):
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    servers = [simulated_openai, simulated_gigachat, simulated_yandex]
    for server in servers:
        server.behave(latency=50)
        assert server.port is None
    async with Router(providers=[server.provider() for server in servers], listeners=[recorder]) as router:
        for _ in range(3):
            assert "simulated provider" in await router.route("Hi")
        await asyncio.sleep(3600)
    recorder.check_invariants()
    assert len(recorder.requests) == 3

async def test_real_http(simulated_openai, simulated_gigachat, simulated_yandex):
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    for server in (simulated_openai, simulated_gigachat, simulated_yandex):
        async with server.provider() as provider:
            assert server.vendor in await provider.generate("Hi")
        assert server.port
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_marker_and_fixtures_work_in_both_modes_of_pytest_asyncio(pytester, mode):
    pytester.makeini(INI.format(mode=mode))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_the_tests_of_the_guide_pass(pytester):
    guide = Path(__file__).parents[3] / "docs" / "testing.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    pytester.makeini(INI.format(mode="auto"))
    pytester.makeconftest(next(block for block in blocks if block.startswith("pytest_plugins")))
    modules = (block for block in blocks if "def test_" in block or "class Test" in block)
    pytester.makepyfile(**{f"test_{number}": block for number, block in enumerate(modules)})
    outcomes = pytester.runpytest_inprocess().parseoutcomes()
    assert outcomes["passed"] >= 15
    assert outcomes.keys() == {"passed", "skipped"}


def test_a_hook_of_the_project_itself_decides_first(pytester):
    pytester.makeini(INI.format(mode="auto"))
    pytester.makeconftest(CONFTEST + """
import asyncio

class Own(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"own": Own}
""")
    pytester.makepyfile("""
import asyncio

async def test_loop():
    assert type(asyncio.get_running_loop()).__name__ == "Own"
""")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
