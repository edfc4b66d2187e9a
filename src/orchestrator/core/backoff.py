"""How often and how soon the same provider is asked again: pure functions of the error, the policy and a draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.clock import Random
from orchestrator.core.errors import OrchestratorError, Retry

if TYPE_CHECKING:
    from orchestrator.core.config import RetryPolicy

__all__ = ["backoff_delay", "retries_allowed"]


def retries_allowed(error: OrchestratorError, policy: RetryPolicy) -> int:
    """How many times in all the same provider may be asked again after errors like this one."""
    if error.retry is Retry.NO:
        return 0
    if error.retry is Retry.ONCE:
        return min(1, policy.max_retries)
    return policy.max_retries


def backoff_delay(policy: RetryPolicy, number: int, random: Random) -> float:
    """Seconds before retry ``number`` (from 1): full jitter, ``U(0, min(max_delay, base_delay * 2**(number-1)))``."""
    return random.uniform(0.0, min(policy.max_delay, policy.base_delay * 2.0 ** (number - 1)))
