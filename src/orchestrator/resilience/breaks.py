"""How long a breaker stays open: breaks that grow, decay, and go on where a last-resort probe has cut them short."""

from __future__ import annotations

from math import inf

from orchestrator.core.clock import Random
from orchestrator.core.config import BreakerPolicy
from orchestrator.resilience.deadline import EPSILON

__all__ = ["LAST_RESORT_SPACING", "MAX_RETRY_AFTER", "Breaks", "time_left"]

LAST_RESORT_SPACING = 0.1  # of break_base, from one opening to the next last-resort probe
MAX_RETRY_AFTER = 300.0  # seconds a Retry-After may lengthen a break to


class Breaks:
    """The breaks of one breaker, one after the other; clock times.

    ``resumes_until``: the end of the break that a last-resort probe has cut short. Until then whatever opens the
    breaker again resumes that break: a break counts once, however many last-resort probes fail in it.
    ``last_resort_at``: from when on an open breaker may be asked for such a probe.
    """

    __slots__ = ("_exponent", "_random", "last_resort_at", "resumes_until")

    def __init__(self, random: Random) -> None:
        self._random = random
        self.last_resort_at: float
        self.forget()

    def forget(self) -> None:
        """Begin with short breaks again."""
        self._exponent = 0
        self.resumes_until = -inf

    def decay(self, windows: int) -> None:
        """So many healthy windows have passed since it closed."""
        if windows > 0:
            self._exponent = max(0, self._exponent - windows)
            self.resumes_until = -inf

    def begin(self, policy: BreakerPolicy, at: float, retry_after: float | None, *, refused: bool) -> float:
        """The end of the break that begins now. Refused credentials are news, also within a break cut short."""
        until = self.resumes_until
        if refused or not time_left(until, at):
            until = max(until, at + self._next(policy, policy.credentials_break if refused else policy.break_base))
        if retry_after is not None:
            until = max(until, at + min(retry_after, MAX_RETRY_AFTER))  # in this order NaN changes nothing
        self.last_resort_at = inf if refused else at + policy.break_base * LAST_RESORT_SPACING
        return until

    def _next(self, policy: BreakerPolicy, base: float) -> float:
        """Seconds; twice as many as the last time, whatever that was for."""
        length = min(base * 2.0**self._exponent, policy.break_max)
        if length < policy.break_max:
            self._exponent += 1
        return length * (1.0 + self._random.uniform(0.0, policy.break_jitter))


def time_left(until: float, at: float) -> float:
    """Seconds left; what an event loop's timer may be early by counts as nothing."""
    left = until - at
    return left if left > EPSILON else 0.0
