"""How much of a provider's answer is taken: what users configure for everything that speaks HTTP."""

from __future__ import annotations

from pydantic import Field

from orchestrator.core.accumulate import MAX_ARGUMENTS, MAX_CALLS, MAX_EVENTS
from orchestrator.core.config import _Settings

__all__ = ["LIMITS", "WireLimits"]

_KIB = 1024
_MIB = 1024 * 1024


class WireLimits(_Settings):
    """What may come in one response; beyond it: :class:`MalformedResponseError`, which names the limit.

    Bytes: ``headers`` (the whole block), ``body`` (of a plain answer, unpacked), ``stream`` (a whole one, unpacked),
    ``line`` (one line or event of a stream). ``depth`` is the nesting of JSON, ``values`` the values in one JSON text
    (a value takes up to thirty times its bytes in memory), ``events`` those of one stream, ``tool_calls`` the calls of
    one answer and ``arguments`` the characters of their arguments.
    """

    headers: int = Field(default=64 * _KIB, gt=0)
    body: int = Field(default=16 * _MIB, gt=0)
    stream: int = Field(default=64 * _MIB, gt=0)
    line: int = Field(default=_MIB, gt=0)
    depth: int = Field(default=100, gt=0, le=500, description="deeper values cannot be shown or compared")
    values: int = Field(default=1_000_000, gt=0)
    events: int = Field(default=500_000, gt=0, le=MAX_EVENTS)
    tool_calls: int = Field(default=1_000, gt=0, le=MAX_CALLS)
    arguments: int = Field(default=4 * _MIB, gt=0, le=MAX_ARGUMENTS)


LIMITS = WireLimits()
