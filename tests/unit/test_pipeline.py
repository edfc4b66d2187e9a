"""The guards of one attempt: what cannot be seen from outside the router."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from orchestrator import CapacityError
from orchestrator.attempt import Call
from orchestrator.core.types import Request
from orchestrator.pipeline import _attempt
from orchestrator.resilience.deadline import Watch


async def test_no_attempt_begins_at_the_very_deadline():
    loop = asyncio.get_running_loop()
    call = Call(Request("x"), id=1, timeout=0.0, loop=loop, watch=Watch(loop), emit=None)
    provider = SimpleNamespace(name="a", model="m")  # asked for anything more, it fails
    with pytest.raises(CapacityError, match="deadline") as caught:
        await _attempt(call, provider, call.deadline)
    assert (caught.value.provider, caught.value.model) == ("a", "m")
