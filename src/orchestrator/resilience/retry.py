"""Retry in place: the same provider once more, by tenacity, on the loop's clock and inside the request's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from orchestrator.core.backoff import backoff_delay, retries_allowed
from orchestrator.core.clock import Random
from orchestrator.core.errors import OrchestratorError, Retry

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from orchestrator.core.config import RetryPolicy

__all__ = ["RetryInPlace"]

T = TypeVar("T")


class RetryInPlace:
    """Decides whether and when the same provider is asked again.

    ``remaining()`` is the time left in seconds: a wait that would not end before it is refused, so that the request
    can fail over instead of sleeping. So is a Retry-After longer than ``policy.patience``: it is waited for elsewhere,
    where whoever is back sooner is asked.
    ``afford()`` takes a retry out of the provider's budget, if there is one left. ``on_retry(error, delay)`` is called
    before each wait.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        random: Random,
        remaining: Callable[[], float],
        afford: Callable[[], bool],
        on_retry: Callable[[OrchestratorError, float], None],
    ) -> None:
        self._policy = policy
        self._random = random
        self._remaining = remaining
        self._afford = afford
        self._on_retry = on_retry
        self._delay: float

    async def run(self, first: OrchestratorError, again: Callable[[], Awaitable[T]]) -> T:
        """Go on after the failure ``first``; raises the last failure when there is nothing left to try.

        The first attempt was made outside: entering tenacity costs more than a whole call that succeeds.
        """
        if not self._decide(first, 1):
            raise first
        await self._sleep(self._delay)
        from tenacity import AsyncRetrying

        loop = AsyncRetrying(retry=self._wants, wait=self._wait, sleep=self._sleep)
        result: T = await loop(again)
        return result

    def delay_before(self, error: BaseException | None, number: int) -> float | None:
        """Seconds to wait before retry ``number`` (from 1); None: do not retry."""
        if not isinstance(error, OrchestratorError) or number > retries_allowed(error, self._policy):
            return None
        hint = error.retry_after
        if hint is None and error.retry is Retry.AFTER:
            return None
        if hint is not None and hint > self._policy.patience:
            return None
        delay = backoff_delay(self._policy, number, self._random) if hint is None else hint
        return delay if delay < self._remaining() else None

    def _wants(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        return self._decide(error, state.attempt_number + 1)

    def _decide(self, error: BaseException | None, number: int) -> bool:
        delay = self.delay_before(error, number)
        if delay is None or not isinstance(error, OrchestratorError) or not self._afford():
            return False
        self._delay = delay
        self._on_retry(error, delay)
        return True

    def _wait(self, _: RetryCallState) -> float:
        return self._delay

    async def _sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)
