"""Limits as a router keeps them: estimated before, corrected after, learnt from what is told, found out by AIMD."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from orchestrator import CapacityError, Completion, LimitPolicy, ProviderConfig, RateLimitError, Router, Usage
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.providers import OpenAICompatibleProvider
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, Fail, Hang
from support import NO_RETRY, first_available, mock


def now():
    return asyncio.get_running_loop().time()


class Counting(BaseProvider):
    """Answers after a second with a usage of its own, and tells what is left of its limits."""

    def __init__(self, usage=None, tells=None, **config):
        super().__init__(ProviderConfig(name="a", **config))
        self.usage = usage
        self.tells = tells
        self.asked = []

    async def complete(self, request):
        self.asked.append(now())
        if self.tells is not None:
            self.report_rate_limits(self.tells)
        await asyncio.sleep(1)
        return Completion("text", usage=self.usage)


async def test_tokens_are_charged_before_the_answer_by_estimate_and_after_it_by_usage():
    provider = Counting(Usage(5, 5), tpm_limit=530)  # without usage so far, an answer is taken for 256 tokens
    router = first_available(provider)
    await asyncio.gather(*(router.route("four") for _ in range(3)))
    assert provider.asked == [0, 0, 1], "the third had room once the real usage of the first two was known"


async def test_a_call_that_was_refused_costs_no_tokens():
    router = first_available(mock("a", Fail(RateLimitError("too many", retry_after=1)), "ok", tpm_limit=300))
    assert await router.route("x") == "ok"
    assert now() == pytest.approx(1)


async def test_a_call_whose_tokens_do_not_fit_goes_to_another_provider():
    small, large = mock("small", tpm_limit=100), mock("large")
    router = first_available(small, large)
    assert await router.route("x") == "small", "a call larger than the limit goes alone"
    assert await router.route("x") == "large"


async def test_the_estimate_of_a_lost_race_stays_charged():
    from orchestrator import HedgePolicy

    silent, well = mock("silent", Hang(), tpm_limit=300), mock("well")
    router = first_available(silent, well, hedge=HedgePolicy(first_delay=1))
    assert await router.route("x") == "well"
    assert router.snapshot()["silent"].retry_after == 0, "there is some room left"
    assert await router.route("y" * 400) == "well"
    assert len(silent.calls) == 1


async def test_a_provider_that_says_it_is_used_up_is_left_alone_until_it_is_not():
    provider = Counting(tells=RateLimits(requests=Quota(0, reset=30)))
    router = first_available(provider)
    await router.route("x")
    assert router.snapshot()["a"].retry_after == pytest.approx(29)
    with pytest.raises(CapacityError) as caught:
        await router.route("x", timeout=5)
    assert caught.value.retry_after == pytest.approx(29)
    assert router.snapshot()["a"].quota.requests.remaining == 0
    await router.route("x")
    assert provider.asked == [0, pytest.approx(30)]


async def test_what_it_says_is_not_heeded_where_the_policy_says_so():
    provider = Counting(tells=RateLimits(requests=Quota(0, reset=30)))
    router = first_available(provider, limits=LimitPolicy(learn=False))
    await router.route("x")
    await router.route("x")
    assert provider.asked == [0, 1]


async def test_the_headers_of_a_response_are_heeded():
    def answer(request):
        headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12s"}
        return httpx.Response(200, headers=headers, json={"choices": [{"message": {"content": "hi"}}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        config = ProviderConfig(name="a", base_url="http://localhost:1/v1", model="m")
        router = first_available(OpenAICompatibleProvider(config, http_client=client), mock("b"))
        assert [await router.route("x") for _ in range(2)] == ["hi", "b"]
        await asyncio.sleep(12)
        assert await router.route("x") == "hi"


async def test_a_provider_that_has_left_teaches_nothing():
    provider = Counting(tells=RateLimits(requests=Quota(0, reset=30)))
    router = first_available(provider)
    await router.remove_provider("a")
    assert provider._rate_limit_watchers == ()


async def test_adaptive_concurrency_finds_out_how_many_calls_a_provider_bears():
    class Narrow(BaseProvider):
        """Ten at once; refuses the others at once."""

        busy = refused = answered = 0

        async def generate(self, prompt, params=None):
            if self.busy >= 10:
                self.refused += 1
                raise RateLimitError("too many", retry_after=0.05)
            self.busy += 1
            await asyncio.sleep(1)
            self.busy -= 1
            self.answered += 1
            return "ok"

    narrow = Narrow(ProviderConfig(name="narrow"))
    router = Router(providers=[narrow], limits=LimitPolicy(adaptive=True), retry=NO_RETRY, seed=1)

    async def caller():
        while now() < 300:
            try:
                await router.route("x", timeout=20)
            except (CapacityError, RateLimitError):
                await asyncio.sleep(0.1)

    await asyncio.gather(*(caller() for _ in range(30)))
    assert 9 <= router.snapshot()["narrow"].concurrency <= 11
    assert narrow.answered >= 0.8 * 10 * 300
    assert narrow.refused <= 0.05 * narrow.answered


async def test_a_lease_of_tokens_comes_back_when_the_caller_leaves():
    provider = mock("a", Answer("slow", delay=10), tpm_limit=1000, max_concurrency=1)
    router = first_available(provider)
    task = asyncio.create_task(router.route("x"))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert router.snapshot()["a"].retry_after == 0
