"""When an answer is late, by what is usual for its provider: the moment for a hedge, and a black mark for losing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.stats import ROUNDING, LatencyHistogram

if TYPE_CHECKING:
    from orchestrator.core.config import HedgePolicy

__all__ = ["Lateness"]

RENEW_AFTER = 10  # samples: looking for a quantile costs more than the rest of a call


class _Usual:
    """What is usual: a histogram, and what was last read from it."""

    __slots__ = ("_histogram", "_since", "delay")

    def __init__(self) -> None:
        self._histogram = LatencyHistogram()
        self._since = 0
        self.delay: float | None = None

    def add(self, seconds: float, policy: HedgePolicy) -> None:
        self._histogram.add(seconds)
        self._since += 1
        if (self.delay is None or self._since >= RENEW_AFTER) and len(self._histogram) >= policy.min_samples:
            self._since = 0
            late, median = self._histogram.quantile(policy.quantile), self._histogram.quantile(0.5)
            if late is not None and median is not None:
                # Rounded up: if all answers took the same time, half of them would be late by the middle of a bucket.
                self.delay = max(policy.min_delay, min(late * ROUNDING, policy.median_factor * median))


class Lateness:
    """How long one provider usually takes, to the first token (``streamed``) and to a whole plain answer; seconds.

    ``hedges`` asked of it so far. ``lost_in_a_row``: races it lost by being late, without an answer in between.
    """

    __slots__ = ("_first_token", "_policy", "_whole", "hedges", "lost_in_a_row")

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._first_token = _Usual()
        self._whole = _Usual()
        self.hedges = 0
        self.lost_in_a_row = 0

    def delay(self, *, streamed: bool) -> float | None:
        """After this an answer is late; None while that is not known."""
        known = (self._first_token if streamed else self._whole).delay
        return self._policy.first_delay if known is None else known

    def answered(self, waited: float, *, streamed: bool) -> None:
        """It answered after ``waited`` seconds, in time or not."""
        self.lost_in_a_row = 0
        (self._first_token if streamed else self._whole).add(waited, self._policy)

    def lost(self, waited: float, enough: float, *, streamed: bool) -> bool:
        """It was cancelled after ``waited`` seconds because another was faster; whether that says it was late.

        While it is not known what is usual, ``enough`` seconds stand in. A late one is counted as if it had answered at
        that moment. Left out, each delay would be taken from answers that the last one had cut, and go on shrinking.
        """
        usual = self._first_token if streamed else self._whole
        if waited < (enough if usual.delay is None else usual.delay) * (1.0 - 1e-9):
            return False
        self.lost_in_a_row += 1
        usual.add(waited, self._policy)
        return True
