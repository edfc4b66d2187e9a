"""A pytest plugin for those who ask for it: ``pytest_plugins = ["orchestrator.testing.plugin"]`` in ``conftest.py``.

Marker ``virtual_time``: the test, and its async fixtures, run on a loop whose clock jumps. Fixtures: ``recorder`` and
the simulated providers ``simulated_openai``, ``simulated_gigachat``, ``simulated_yandex``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from orchestrator.testing.loop import VirtualTimeLoop
from orchestrator.testing.recorder import Recorder
from orchestrator.testing.servers import SimulatedProvider, Vendor

__all__ = [
    "pytest_asyncio_loop_factories", "pytest_configure", "recorder", "simulated_gigachat", "simulated_openai",
    "simulated_yandex",
]

_MARKER = "virtual_time: run this test on a loop whose clock jumps to the next timer; sleeping takes no time"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(trylast=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item  # noqa: ARG001  # the signature of the hook
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Last of all: a hook in a ``conftest.py`` decides first."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def recorder() -> Recorder:
    """A listener for a router, which keeps its history."""
    return Recorder()


@pytest_asyncio.fixture
async def simulated_openai() -> AsyncIterator[SimulatedProvider]:
    """An OpenAI-compatible provider; it listens on loopback, or under ``virtual_time`` answers in memory."""
    async with AsyncExitStack() as stack:
        yield await _simulated("openai", stack)


@pytest_asyncio.fixture
async def simulated_gigachat() -> AsyncIterator[SimulatedProvider]:
    """GigaChat with its OAuth; it listens on loopback, or under ``virtual_time`` answers in memory."""
    async with AsyncExitStack() as stack:
        yield await _simulated("gigachat", stack)


@pytest_asyncio.fixture
async def simulated_yandex() -> AsyncIterator[SimulatedProvider]:
    """YandexGPT's native API; it listens on loopback, or under ``virtual_time`` answers in memory."""
    async with AsyncExitStack() as stack:
        yield await _simulated("yandex", stack)


async def _simulated(vendor: Vendor, stack: AsyncExitStack) -> SimulatedProvider:
    server = SimulatedProvider(vendor)
    # Real bytes need real time: on a clock that jumps, a client's timeout may pass while they are on their way.
    if not isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        await stack.enter_async_context(server)
    return server
