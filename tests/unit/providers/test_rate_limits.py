"""What the headers of a response tell of a provider's limits."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_http import DONE, FakeHttp, frame, streamed

from orchestrator import ProviderConfig
from orchestrator.core.errors import RateLimitError
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.core.types import Completion, Request
from orchestrator.providers import GigaChatProvider, OpenAICompatibleProvider, YandexGPTProvider
from orchestrator.providers._rate_limits import rate_limits
from orchestrator.providers._retry_after import MAX_WAIT
from orchestrator.providers.base import BaseProvider
from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import Headers

NOW = 1_795_168_800  # Fri, 20 Nov 2026 10:00:00 GMT
DATE = {"date": "Fri, 20 Nov 2026 10:00:00 GMT"}
OPENAI = {
    "x-ratelimit-limit-requests": "60", "x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s",
}
TOLD = RateLimits(Quota(59, 60, 1.0, refills=True), Quota(149_984, 150_000, 360.0, refills=True))
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-11-20T10:00:01Z",
    "anthropic-ratelimit-input-tokens-limit": "30000", "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-20T10:00:02Z",
    "anthropic-ratelimit-output-tokens-limit": "8000", "anthropic-ratelimit-output-tokens-remaining": "7000",
    "anthropic-ratelimit-output-tokens-reset": "2026-11-20T11:00:04+01:00",
}
MISTRAL = {
    "x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "58",
    "x-ratelimit-limit-tokens-minute": "500000", "x-ratelimit-remaining-tokens-minute": "499000",
    "x-ratelimit-remaining-tokens-month": "1", "x-ratelimit-tokens-query-cost": "9",
}


@pytest.mark.parametrize(("headers", "told"), [
    (OPENAI, TOLD),
    (ANTHROPIC, RateLimits(Quota(49, 50, 1.0, refills=True), Quota(7000, 8000, 4.0, refills=True))),
    (MISTRAL, RateLimits(Quota(58, 60), Quota(499_000, 500_000))),
    ({"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2"},
     RateLimits(Quota(0, 10, 2.0))),
    ({"ratelimit-remaining": "7", "ratelimit-policy": "100;w=60"}, RateLimits(Quota(7))),
    ({"x-ratelimit-remaining-tokens": "120"}, RateLimits(tokens=Quota(120, refills=True))),
])
def test_every_dialect_is_read(headers, told):
    assert rate_limits({**headers, **DATE}) == told
    assert rate_limits(httpx.Headers({**headers, **DATE})) == told


@pytest.mark.parametrize(("reset", "seconds"), [
    ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("20", 20), (str(NOW + 44), 44), (f"{NOW + 44}000", 44),
    ("2026-11-20T10:00:30.5Z", 30.5), ("2026-11-20T10:00:30", 30), ("2026-11-20T09:59:00Z", 0), ("-5", 0),
    ("9999999", MAX_WAIT), ("9" * 300, MAX_WAIT), ("soon", None), ("", None), ("nan", None), ("inf", None),
])
def test_a_reset_is_told_in_any_form_and_is_bounded(reset, seconds):
    told = rate_limits({"x-ratelimit-remaining": "3", "x-ratelimit-reset": reset, **DATE})
    assert told.requests.reset == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("remaining", ["", "-1", "1.5", "nan", "inf", "many", "١٢", "9" * 400, "1e3", "3, 3"])
def test_a_count_that_is_none_is_ignored(remaining):
    assert rate_limits({"x-ratelimit-remaining": remaining, "x-ratelimit-reset": "5"}) is None
    told = rate_limits({"x-ratelimit-remaining": "3", "x-ratelimit-limit": remaining})
    assert told == RateLimits(Quota(3))


def test_headers_that_tell_nothing_are_none():
    assert rate_limits({}) is None
    assert rate_limits(httpx.Headers({"content-type": "text/html", "retry-after": "3"})) is None
    assert rate_limits({"x-ratelimit-limit-requests": "60"}) is None


names = st.sampled_from([*OPENAI, *ANTHROPIC, *MISTRAL, "date", "x-ratelimit-reset", "X-RateLimit-Remaining"])
values = st.one_of(st.text(), st.integers().map(str), st.floats().map(str), st.datetimes().map(str), st.sampled_from(
    ["6m0s", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1" + "0" * 400]))


@given(st.dictionaries(st.one_of(names, st.text()), values))
def test_no_headers_ever_raise_or_tell_what_makes_no_sense(headers):
    told = rate_limits(headers)
    for quota in () if told is None else (told.requests, told.tokens):
        if quota is not None:
            assert 0 <= quota.remaining < 10**15
            assert quota.limit is None or 0 <= quota.limit < 10**15
            assert quota.reset is None or 0 <= quota.reset <= MAX_WAIT


def watched(provider):
    reports = []
    provider.on_rate_limits(reports.append)
    return provider, reports


def answers(*responses):
    http = FakeHttp(*responses)
    config = ProviderConfig(name="a", api_key="k", model="m", max_retries=0)
    return watched(OpenAICompatibleProvider(config, http_client=http.client))


BODY = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
PIECE = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}


async def test_a_plain_answer_tells_of_limits_until_nobody_watches():
    provider, reports = answers(httpx.Response(200, json=BODY, headers=OPENAI))
    await provider.complete(Request("x"))
    assert reports == [TOLD]
    provider.off_rate_limits(reports.append)
    await provider.complete(Request("x"))
    assert reports == [TOLD]
    with pytest.raises(ValueError):
        provider.off_rate_limits(reports.append)


async def test_a_stream_tells_of_limits_before_its_first_piece():
    provider, reports = answers(streamed(frame(PIECE), DONE, **OPENAI))
    async for _ in provider.open_stream(Request("x", stream=True)):
        assert reports == [TOLD]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_tells_of_limits_too(stream):
    provider, reports = answers(httpx.Response(429, json={"error": {"message": "slow down"}}, headers=OPENAI))
    with pytest.raises(RateLimitError):
        await (anext(provider.open_stream(Request("x"))) if stream else provider.complete(Request("x")))
    assert reports == [TOLD]


@pytest.mark.parametrize(("kind", "config"), [
    (GigaChatProvider, {"auth_url": "http://giga.test/token", "base_url": "http://giga.test"}),
    (YandexGPTProvider, {"base_url": "http://yandex.test", "folder_id": "f"}),
])
async def test_the_providers_of_a_dialect_of_their_own_tell_too(kind, config):
    token = httpx.Response(200, json={"access_token": "t", "expires_at": (NOW + 10**9) * 1000}, headers=OPENAI)
    refusal = httpx.Response(429, json={"message": "slow down"}, headers=MISTRAL)
    http = FakeHttp(lambda request: token if request.url.path == "/token" else refusal)
    provider, reports = watched(kind(
        ProviderConfig(name="a", api_key="a2V5", max_retries=0, **config), http_client=http.client))
    with pytest.raises(RateLimitError):
        await provider.complete(Request("x"))
    assert reports == [RateLimits(Quota(58, 60), Quota(499_000, 500_000))]  # not those of the token's service
    await provider.aclose()


async def test_a_provider_of_ones_own_reports_what_it_knows():
    class Own(BaseProvider):
        async def complete(self, request):
            self.report_rate_limits(RateLimits(requests=Quota(remaining=0, reset=12.5)))
            return Completion("hi")

    provider, reports = watched(Own(ProviderConfig(name="own")))
    await provider.complete(Request("x"))
    assert reports == [RateLimits(requests=Quota(remaining=0, reset=12.5))]


@pytest.mark.real_time
async def test_a_server_s_headers_arrive_over_the_wire():
    async with SimulatedProvider("openai") as server:
        server.fail_next(Headers(OPENAI))
        provider, reports = watched(server.provider())
        async with provider:
            await provider.complete(Request("x"))
    assert reports == [TOLD]
