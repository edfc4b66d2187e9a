"""The token holder: one fetch for all, early renewal, and what happens when a fetch fails or its caller goes away."""

from __future__ import annotations

import asyncio
import builtins
import gc
from email.utils import formatdate

import pytest

from orchestrator.core.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ProviderError,
    RateLimitError,
    TimeoutError,
)
from orchestrator.providers import _oauth
from orchestrator.providers._oauth import Token, TokenHolder, lifetime_until

HALF_AN_HOUR = 1800.0


class Issuer:
    """Issues ``t1``, ``t2``, …; plays the failures of ``script`` first, each fetch taking ``delay`` seconds."""

    def __init__(self, *script: Exception, delay: float = 1.0, lifetime: float = HALF_AN_HOUR) -> None:
        self.script = list(script)
        self.delay = delay
        self.lifetime = lifetime
        self.fetches = 0

    async def __call__(self) -> Token:
        self.fetches += 1
        number = self.fetches
        await asyncio.sleep(self.delay)
        if self.script:
            raise self.script.pop(0)
        return Token(f"t{number}", self.lifetime)


def holder(issuer: Issuer) -> TokenHolder:
    return TokenHolder(issuer, provider="giga")


async def test_a_hundred_first_callers_share_one_fetch():
    issuer = Issuer()
    tokens = holder(issuer)
    assert set(await asyncio.gather(*(tokens.get() for _ in range(100)))) == {"t1"}
    assert issuer.fetches == 1


async def test_a_token_is_kept_until_its_last_minute():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    await asyncio.sleep(HALF_AN_HOUR - 60.5)
    assert await tokens.get() == "t1"
    assert issuer.fetches == 1


async def test_in_its_last_minute_a_token_is_renewed_while_nobody_waits():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    await asyncio.sleep(HALF_AN_HOUR - 59.5)
    asked = asyncio.get_running_loop().time()
    assert [await tokens.get() for _ in range(10)] == ["t1"] * 10
    assert asyncio.get_running_loop().time() == asked
    await asyncio.sleep(1.5)
    assert await tokens.get() == "t2"
    assert issuer.fetches == 2


async def test_an_expired_token_is_never_handed_out():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    await asyncio.sleep(HALF_AN_HOUR)
    assert await tokens.get() == "t2"


async def test_a_day_of_calls_takes_one_fetch_per_half_hour():
    issuer = Issuer(delay=0.2)
    tokens = holder(issuer)
    for _ in range(24 * 60):
        await tokens.get()
        await asyncio.sleep(60)
    assert 48 <= issuer.fetches <= 52


async def test_a_short_lived_token_is_used_for_half_of_its_life():
    issuer = Issuer(lifetime=40.0, delay=0.0)
    tokens = holder(issuer)
    await tokens.get()
    await asyncio.sleep(19)
    assert await tokens.get() == "t1"
    assert issuer.fetches == 1
    await asyncio.sleep(2)
    await tokens.get()
    await asyncio.sleep(0.1)
    assert issuer.fetches == 2


async def test_a_token_that_is_expired_on_receipt_serves_those_who_waited_for_it():
    issuer = Issuer(lifetime=-10.0)
    tokens = holder(issuer)
    assert await asyncio.gather(tokens.get(), tokens.get()) == ["t1", "t1"]
    assert await tokens.get() == "t2"


async def test_a_failed_renewal_harms_nobody_while_the_token_is_good_and_is_tried_again_after_a_pause():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    issuer.script = [ConnectionFailedError("down")]
    await asyncio.sleep(HALF_AN_HOUR - 50)
    for _ in range(6):
        assert await tokens.get() == "t1"
        await asyncio.sleep(0.5)
    assert issuer.fetches == 2
    await asyncio.sleep(2)
    assert await tokens.get() == "t1"
    await asyncio.sleep(2)
    assert await tokens.get() == "t3"


async def test_a_failed_fetch_fails_all_who_wait_with_its_error_and_the_next_call_tries_afresh():
    issuer = Issuer(RateLimitError("too many tokens", status_code=429, retry_after=3.0))
    tokens = holder(issuer)
    failures = await asyncio.gather(*(tokens.get() for _ in range(5)), return_exceptions=True)
    for failure in failures:
        assert isinstance(failure, RateLimitError)
        assert (failure.message, failure.status_code, failure.retry_after) == ("too many tokens", 429, 3.0)
        assert failure.provider == "giga"
    assert await tokens.get() == "t2"


async def test_each_waiter_gets_an_error_of_its_own():
    tokens = holder(Issuer(AuthenticationError("refused")))
    first, second = await asyncio.gather(tokens.get(), tokens.get(), return_exceptions=True)
    assert isinstance(first, AuthenticationError)
    assert first is not second
    assert first.__cause__ is second.__cause__


async def test_a_foreign_exception_becomes_a_provider_error_with_its_cause():
    tokens = holder(Issuer(KeyError("iamToken")))
    with pytest.raises(ProviderError, match="KeyError in the provider") as caught:
        await tokens.get()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_cancelled_caller_leaves_the_fetch_running_for_the_others():
    issuer = Issuer()
    tokens = holder(issuer)
    first = asyncio.create_task(tokens.get())
    await asyncio.sleep(0.5)
    second = asyncio.create_task(tokens.get())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "t1"
    assert issuer.fetches == 1


async def test_a_fetch_whose_callers_all_went_away_still_serves_the_next():
    issuer = Issuer()
    tokens = holder(issuer)
    with pytest.raises(builtins.TimeoutError):
        async with asyncio.timeout(0.5):
            await tokens.get()
    await asyncio.sleep(1)
    assert await tokens.get() == "t1"
    assert issuer.fetches == 1


async def test_a_failure_that_nobody_waits_for_is_no_warning():
    issuer = Issuer(ConnectionFailedError("down"))
    tokens = holder(issuer)
    with pytest.raises(builtins.TimeoutError):
        async with asyncio.timeout(0.5):
            await tokens.get()
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    await asyncio.sleep(1)
    del tokens
    gc.collect()
    assert seen == []


async def test_a_fetch_that_hangs_ends_after_its_limit():
    issuer = Issuer(delay=3600.0)
    tokens = holder(issuer)
    with pytest.raises(TimeoutError, match="no token within 30 s"):
        await tokens.get()
    assert asyncio.get_running_loop().time() == pytest.approx(30.0)
    issuer.delay = 1.0
    assert await tokens.get() == "t2"


async def test_the_timeout_of_the_fetch_itself_stays_as_it_is():
    tokens = holder(Issuer(TimeoutError("no connection", phase="connect")))
    with pytest.raises(TimeoutError, match="no connection") as caught:
        await tokens.get()
    assert caught.value.phase == "connect"


async def test_only_the_current_token_can_be_dropped():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    tokens.drop("t1")
    assert await tokens.get() == "t2"
    tokens.drop("t1")
    assert await tokens.get() == "t2"
    assert issuer.fetches == 2


async def test_a_token_dropped_during_its_renewal_is_not_fetched_twice():
    issuer = Issuer()
    tokens = holder(issuer)
    await tokens.get()
    await asyncio.sleep(HALF_AN_HOUR - 30)
    assert await tokens.get() == "t1"
    tokens.drop("t1")
    assert await asyncio.gather(tokens.get(), tokens.get()) == ["t2", "t2"]
    assert issuer.fetches == 2


async def test_closing_ends_the_fetch_and_tells_those_who_wait():
    tokens = holder(Issuer())
    waiter = asyncio.create_task(tokens.get())
    await asyncio.sleep(0.5)
    await tokens.aclose()
    with pytest.raises(ConnectionFailedError, match="closed"):
        await waiter
    await tokens.aclose()


def test_a_provider_can_be_used_in_one_event_loop_after_another():
    issuer = Issuer(delay=0.0)
    tokens = holder(issuer)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        # The first loop stands still in the middle of its fetch, as when two threads share a provider.
        pending = first.get_loop().create_task(tokens.get())
        first.get_loop().call_soon(first.get_loop().stop)
        first.get_loop().run_forever()
        assert not pending.done()
        assert second.run(tokens.get()) == "t1"
        assert first.get_loop().run_until_complete(pending) == "t2"


def test_the_token_is_not_shown():
    assert "s3cret" not in repr(Token("s3cret", 1.0))


@pytest.mark.parametrize("expires_at", [1_790_001_800, 1_790_001_800_000], ids=["seconds", "milliseconds"])
def test_the_lifetime_is_counted_on_the_clock_of_the_server(expires_at: int):
    assert lifetime_until(expires_at, formatdate(1_790_000_000, usegmt=True)) == 1800.0


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Xxx 2026 00:00:00 GMT"])
def test_without_a_date_the_lifetime_is_counted_on_our_clock(date: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_oauth, "wall_clock", lambda: 1_790_000_000.0)
    assert lifetime_until(1_790_000_090, date) == 90.0


@pytest.mark.parametrize("expires_at", [float("nan"), float("inf"), -1.0, 10**400, 1e300], ids=repr)
def test_an_expiry_that_is_no_time_is_over_at_once(expires_at):
    assert lifetime_until(expires_at, formatdate(1_790_000_000, usegmt=True)) == 0.0


@pytest.mark.parametrize("date", ["Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 -2359", "x" * 10_000])
def test_a_date_beyond_all_clocks_is_none(date):
    assert lifetime_until(1_790_001_800, date) < 1e12


async def test_a_token_whose_expiry_is_no_time_serves_those_who_wait_for_it():
    fetches = []

    async def fetch():
        fetches.append(1)
        await asyncio.sleep(1)
        return Token(f"t{len(fetches)}", lifetime_until(float("nan"), None))

    tokens = TokenHolder(fetch, provider="p")
    assert await asyncio.gather(tokens.get(), tokens.get()) == ["t1", "t1"]
    assert repr(await tokens.get()) == "'***'"
    assert len(fetches) == 2
