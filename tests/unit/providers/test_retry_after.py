"""Every form in which a provider says how long to wait."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from orchestrator.providers import _retry_after
from orchestrator.providers._retry_after import MAX_WAIT, retry_after

NOW = 1_795_168_800  # Fri, 20 Nov 2026 10:00:00 GMT
DATE = "Fri, 20 Nov 2026 10:00:00 GMT"


def wait(
    headers: Mapping[str, str] | None = None, error: Mapping[str, object] | None = None, message: str = "",
    *, limited: bool = True,
) -> float | None:
    return retry_after(httpx.Headers(headers or {}), error or {}, message, limited=limited)


@pytest.mark.parametrize(("value", "seconds"), [
    ("7", 7), ("0", 0), ("1.5", 1.5), (" 12 ", 12), ("1e1", 10), ("30s", 30), ("6m0s", 360),
    ("Fri, 20 Nov 2026 10:01:30 GMT", 90), ("Friday, 20-Nov-26 10:00:05 GMT", 5), ("Fri Nov 20 10:00:09 2026", 9),
    ("999999999", MAX_WAIT), ("Fri, 20 Nov 2099 10:00:00 GMT", MAX_WAIT),
])
def test_retry_after_is_read_as_seconds_or_as_a_date_and_capped_at_a_day(value, seconds):
    assert wait({"Retry-After": value, "Date": DATE}) == seconds


@pytest.mark.parametrize("value", [
    "", "-5", "nan", "inf", "-inf", "soon", "1,5", "Fri, 20 Nov 2026 09:00:00 GMT", "Fri, 99 Nov 2026 10:00:00 GMT",
    "0x10", "١٢ ч", "9" * 400,
])
def test_nonsense_negative_and_past_waits_are_ignored(value):
    assert wait({"retry-after": value.encode()}, limited=False) is None


def test_a_date_is_compared_with_the_response_s_own_clock_and_with_ours_only_when_it_has_none(monkeypatch):
    monkeypatch.setattr(_retry_after, "wall_clock", lambda: NOW + 60.0)
    value = "Fri, 20 Nov 2026 10:01:30 GMT"
    assert wait({"retry-after": value, "date": DATE}) == 90
    assert wait({"retry-after": value}) == 30
    assert wait({"retry-after": value, "date": "yesterday"}) == 30


def test_a_date_without_a_zone_is_in_gmt():
    assert wait({"retry-after": "Fri, 20 Nov 2026 10:00:20", "date": DATE}) == 20


def test_milliseconds_are_preferred_because_they_are_more_precise():
    assert wait({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert wait({"retry-after-ms": "-1", "retry-after": "1"}) == 1


@pytest.mark.parametrize(("value", "seconds"), [
    ("120ms", 0.12), ("1s", 1), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("2m59.56s", 179.56), ("1d", 86_400), ("20", 20),
    (str(NOW + 44), 44), (f"{NOW + 44}000", 44),
])
def test_the_reset_of_a_rate_limit_serves_when_nothing_better_is_said(value, seconds):
    assert wait({"x-ratelimit-reset-requests": value, "date": DATE}) == pytest.approx(seconds)
    assert wait({"x-ratelimit-reset": value, "date": DATE, "retry-after": "3"}) == 3
    assert wait({"x-ratelimit-reset-tokens": value, "date": DATE}, limited=False) is None


def test_the_limit_that_is_used_up_tells_the_wait_and_else_the_earliest():
    resets = {"x-ratelimit-reset-requests": "1h", "x-ratelimit-reset-tokens": "2s"}
    assert wait(resets) == 2
    assert wait({**resets, "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "9"}) == 3600
    assert wait({"x-ratelimit-reset": str(NOW - 5), "date": DATE}) is None


def test_hints_in_the_body_are_read():
    assert wait(error={"details": [{"@type": "x"}, {"@type": "RetryInfo", "retryDelay": "46s"}]}) == 46
    reset = {"metadata": {"headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Reset": f"{NOW + 8}000"}}}
    assert wait({"date": DATE}, reset) == 8
    assert wait(error={"metadata": {"headers": {"Retry-After": 4}}}) == 4
    assert wait(error={"metadata": {"retry_after_seconds": 2.5}}) == 2.5


@pytest.mark.parametrize("error", [
    {"details": "soon"}, {"details": [1, None, {"retryDelay": None}]}, {"metadata": []}, {"metadata": {"headers": "x"}},
    {"metadata": {"retry_after_seconds": True}}, {"metadata": {"headers": {"Retry-After": [1]}}},
])
def test_hints_of_the_wrong_type_are_ignored(error):
    assert wait(error=error) is None


@pytest.mark.parametrize(("text", "seconds"), [
    ("Rate limit reached. Please try again in 1.5s. See the docs.", 1.5),
    ("Please try again in 6m0s.", 360), ("Try again in 20ms", 0.02), ("please retry after 26 seconds.", 26),
    ("Retry in 46.27s", 46.27), ("wait 2 minutes", 120), ("try again in 1 hour 30 min", 5400),
])
def test_a_wait_in_prose_is_found(text, seconds):
    assert wait(message=text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["try again later", "try again in a while", "try again in 5 apples", "wait 5mornings"])
def test_prose_without_a_number_of_some_unit_says_nothing(text):
    assert wait(message=text) is None
