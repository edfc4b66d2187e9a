"""The HTTP engines under test, and what their connections are doing."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

FAST = pytest.mark.skipif(None in map(find_spec, ("httptools", "msgspec")), reason="needs the extra `fast`")
EACH_ENGINE = pytest.mark.parametrize("engine", ["httpx", pytest.param("fast", marks=FAST)])


def connections(http):
    """Of each engine of a provider's HTTP client; those of httpx are in the pool that it was given."""
    for engine in http._engines.values():
        yield engine._connections if hasattr(engine, "_connections") else engine.client._transport._pool.connections


def in_use(provider):
    """How many connections carry an exchange."""
    return sum(len(those.in_use) for those in connections(provider._http))


def idle(provider):
    """How many connections wait for the next exchange."""
    counted = [(those.idle_count, len(those.idle)) for those in connections(provider._http)]
    assert all(count == there for count, there in counted)
    return sum(count for count, _ in counted)
