"""What is left of a provider's limits, as the headers of its responses tell it.

| Who | Headers | Reset |
|---|---|---|
| OpenAI, Azure, Groq | ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` | ``6m0s``, until it is whole |
| Anthropic | ``anthropic-ratelimit-{requests,[input-,output-]tokens}-{...}`` | a date, RFC 3339, when it is whole |
| Mistral | ``x-ratelimit-{limit,remaining}-{req,tokens}-minute`` | not told |
| Together, Cohere, gateways | ``[x-]ratelimit-{limit,remaining,reset}``, requests | seconds, or Unix time |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import NamedTuple

from orchestrator.core.limits import Quota, RateLimits
from orchestrator.providers._engine import Headers
from orchestrator.providers._retry_after import MAX_WAIT, reset_in

__all__ = ["rate_limits"]

_MARK = "ratelimit"  # part of every name below
_REMAINING = itemgetter(0)
_DIGITS = 15  # a count with more of them is nonsense


class _Names(NamedTuple):
    limit: str
    remaining: str
    reset: str
    refills: bool


def _names(pattern: str, *, refills: bool) -> _Names:
    return _Names(pattern.format("limit"), pattern.format("remaining"), pattern.format("reset"), refills)


# Without the "x-". What refills bit by bit tells in `reset` when all of it is back: both vendors document that.
_REQUESTS = (
    _names("ratelimit-{}-requests", refills=True),
    _names("anthropic-ratelimit-requests-{}", refills=True),
    _names("ratelimit-{}-req-minute", refills=False),
    _names("ratelimit-{}", refills=False),
)
_TOKENS = (
    _names("ratelimit-{}-tokens", refills=True),
    _names("anthropic-ratelimit-tokens-{}", refills=True),
    _names("anthropic-ratelimit-input-tokens-{}", refills=True),
    _names("anthropic-ratelimit-output-tokens-{}", refills=True),
    _names("ratelimit-{}-tokens-minute", refills=False),
)


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """What ``headers`` tell, None when that is nothing; what makes no sense is ignored."""
    told = _told(headers)
    if not told:
        return None
    requests = _scarcest(_REQUESTS, told, headers)
    tokens = _scarcest(_TOKENS, told, headers)
    return None if requests is None and tokens is None else RateLimits(requests, tokens)


def _told(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that matter."""
    if isinstance(headers, Headers):
        return {name.removeprefix("x-"): value for name, value in headers.with_part(_MARK.encode()).items()}
    return {name.lower().removeprefix("x-"): value for name, value in headers.items() if _MARK in name.lower()}


def _scarcest(rows: Iterable[_Names], told: Mapping[str, str], headers: Mapping[str, str]) -> Quota | None:
    """Of limits that hold side by side, the one with the least left."""
    left = [
        (remaining, limit, names) for names in rows if names.remaining in told
        and (remaining := _count(told[names.remaining])) is not None
        and (limit := _count(told.get(names.limit, ""))) != 0  # it has just answered: a limit of nothing is none
    ]
    if not left:
        return None
    remaining, limit, names = min(left, key=_REMAINING)
    reset = told.get(names.reset)
    wait = None if reset is None else reset_in(reset[:40], headers)
    if wait is not None:
        wait = min(max(wait, 0.0), MAX_WAIT)
    return Quota(remaining, limit, wait, names.refills)


def _count(value: str) -> int | None:
    value = value.strip()
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= _DIGITS else None
