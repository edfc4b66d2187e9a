"""A budget for asking twice: in an outage, retries must not multiply the load on a provider that is down already."""

from __future__ import annotations

from math import exp

__all__ = ["RetryBudget"]

TAU = 10.0  # seconds: calls and retries of that long ago count a third


class RetryBudget:
    """At most ``floor + ratio * calls`` retries and hedges, both counted over the last ten seconds or so.

    Finagle's idea (a share of the calls plus a reserve that lets a quiet client retry at all), with counts that fade
    exponentially instead of buckets: two numbers, O(1).
    """

    __slots__ = ("_at", "_calls", "_extra", "_floor", "_ratio")

    def __init__(self, ratio: float, floor: float) -> None:
        self._ratio = ratio
        self._floor = floor
        self._calls = 0.0
        self._extra = 0.0
        self._at = 0.0

    def call(self, at: float) -> None:
        """Count a first attempt, which earns a share of a retry."""
        if at > self._at:
            self._fade(at)
        self._calls += 1.0

    def spend(self, at: float) -> bool:
        """Take one retry or hedge out of the budget, if there is one left."""
        if at > self._at:
            self._fade(at)
        if self._extra >= self._floor + self._ratio * self._calls:
            return False
        self._extra += 1.0
        return True

    def _fade(self, at: float) -> None:
        factor = exp((self._at - at) / TAU)
        self._calls *= factor
        self._extra *= factor
        self._at = at
