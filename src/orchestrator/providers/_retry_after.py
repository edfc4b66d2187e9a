"""How long a provider asks us to wait, in every form it may be said: seconds, dates, durations, JSON fields, prose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite

from orchestrator.core.clock import wall_clock

__all__ = ["MAX_WAIT", "reset_in", "retry_after", "seconds"]

MAX_WAIT = 86_400.0  # seconds; a provider that asks for more is asked again tomorrow

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_UNIT = r"(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_DURATION = rf"(?:{_NUMBER}\s?{_UNIT}\s?)+"
_PROSE = rf"(?:again|retry|retrying|wait)\s(?:in\s|after\s|for\s|at\sleast\s)?({_DURATION})"
_is_duration = re.compile(_DURATION).fullmatch
_parts = re.compile(rf"({_NUMBER})\s?({_UNIT})").findall


def retry_after(
    headers: Mapping[str, str], error: Mapping[str, object], message: str, *, limited: bool
) -> float | None:
    """Seconds to wait, at most ``MAX_WAIT``, or None. ``limited`` (a 429) admits the reset times of rate limits."""
    waits = (seconds(hint) for hint in _hints(headers, error, message, limited=limited))
    return next((wait for wait in waits if wait is not None), None)


def seconds(hint: object) -> float | None:
    """``hint`` as seconds to wait, at most ``MAX_WAIT``; None when it is no number or says nothing."""
    number = _number(hint)
    return None if number is None or number < 0 else min(number, MAX_WAIT)


def _hints(
    headers: Mapping[str, str], error: Mapping[str, object], message: str, *, limited: bool
) -> Iterator[float | None]:
    """The surest first."""
    milliseconds = _number(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    value = headers.get("retry-after")
    if value:
        yield _number(value)
        yield _duration(value)
        yield _date(value, headers)
    yield from _in_body(error, headers)
    prose = re.search(_PROSE, message[:2000], re.IGNORECASE)
    yield _duration(prose.group(1)) if prose else None
    if limited:
        yield _reset_of_spent_limit(headers)


def _in_body(error: Mapping[str, object], headers: Mapping[str, str]) -> Iterator[float | None]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping):  # google.rpc.RetryInfo
            yield _duration(str(detail.get("retryDelay", ""))[:32])
    metadata = error.get("metadata")
    if isinstance(metadata, Mapping):  # OpenRouter
        yield _number(metadata.get("retry_after_seconds"))
        echoed = metadata.get("headers")
        if isinstance(echoed, Mapping):
            for name, value in echoed.items():
                if str(name).lower() == "retry-after":
                    yield _number(value)
                elif str(name).lower() == "x-ratelimit-reset":
                    yield reset_in(str(value)[:32], headers)


def _reset_of_spent_limit(headers: Mapping[str, str]) -> float | None:
    """The reset of the limit that is used up; where that cannot be told, the earliest."""
    resets: list[float] = []
    for suffix in ("", "-requests", "-tokens"):
        wait = reset_in(headers.get(f"x-ratelimit-reset{suffix}", "")[:32], headers)
        if wait is None or wait < 0:
            continue
        if headers.get(f"x-ratelimit-remaining{suffix}", "").strip() == "0":
            return wait
        resets.append(wait)
    return min(resets, default=None)


def reset_in(value: str, headers: Mapping[str, str]) -> float | None:
    """Seconds until the reset of a limit: told as seconds, a duration, Unix time or a date of RFC 3339; unbounded."""
    number = _number(value)
    if number is None:
        wait = _duration(value)
        return _moment(value, headers) if wait is None else wait
    if number > 1e11:  # epoch in milliseconds
        return number / 1000 - _server_time(headers)
    if number > 1e8:  # epoch in seconds
        return number - _server_time(headers)
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _duration(text: str) -> float | None:
    """``46s``, ``120ms``, ``6m0s``, ``1h2m3.5s``, ``2 minutes``."""
    text = text.strip().lower()[:64]
    if not _is_duration(text):
        return None
    return sum(float(number) * _SECONDS["ms" if unit.startswith(("ms", "milli")) else unit[0]]
               for number, unit in _parts(text))


def _date(value: str, headers: Mapping[str, str]) -> float | None:
    at = _timestamp(value)
    return None if at is None else at - _server_time(headers)


def _moment(value: str, headers: Mapping[str, str]) -> float | None:
    """Until a date of RFC 3339."""
    try:
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - _server_time(headers)
    except ValueError:
        return None


def _server_time(headers: Mapping[str, str]) -> float:
    """The provider's own clock, if it tells: a wait must not depend on ours being right."""
    at = _timestamp(headers.get("date", ""))
    return wall_clock() if at is None else at


def _timestamp(value: str) -> float | None:
    from email.utils import parsedate_to_datetime  # slow to import, rarely needed

    try:
        moment = parsedate_to_datetime(value[:64])
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
