"""The HTTP engines under test, and what their connections are doing."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

FAST = pytest.mark.skipif(find_spec("httptools") is None, reason="needs the extra `fast`")
EACH_ENGINE = pytest.mark.parametrize("engine", ["httpx", pytest.param("fast", marks=FAST)])


def pools(provider):
    """Whatever holds the connections of a provider: an engine, or the pool that httpx was given."""
    for engine in provider._http._engines.values():
        yield engine if hasattr(engine, "_busy") else engine.client._transport._pool


def in_use(provider):
    """How many connections carry an exchange."""
    return sum(len(pool._busy) for pool in pools(provider))


def idle(provider):
    """How many connections wait for the next exchange."""
    counted = [(pool._idle_count, sum(map(len, pool._idle.values()))) for pool in pools(provider)]
    assert all(count == there for count, there in counted)
    return sum(count for count, _ in counted)
