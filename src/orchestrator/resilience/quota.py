"""A limit that a provider told, kept between two of its reports."""

from __future__ import annotations

from math import inf

from orchestrator.core.limits import Quota

__all__ = ["LONGEST", "LearntQuota"]

LONGEST = 120.0  # seconds for which a report is believed: one that lies must not shut a provider out for a day
UNTOLD = 1.0  # seconds, where no reset is told
_ENOUGH = 10**12  # whoever tells more of anything tells of no limit


class LearntQuota:
    """What the last report left, less what was taken since, plus what came back; forgotten at its reset.

    A report says how much was left when the provider wrote it, with some of the calls under way counted and some not.
    So the truth lies between what it says and that less ``under_way``. What was counted here is the better guess, as
    long as it lies within: a report that comes out of turn cannot hand out the same quota twice, and one that was
    wrong is healed by the next. Whoever needs no more than is ``left``, without what came back since, need not wait.
    """

    __slots__ = ("_at", "_most", "_rate", "_until", "_whole", "left")

    def __init__(self) -> None:
        self._until = -inf  # until then what the last report set is true:
        self._at: float
        self.left: float  # at `_at`
        self._most: float  # as reported, less only what was taken since
        self._rate: float  # per second
        self._whole: int | None

    def report(self, quota: Quota, at: float, under_way: int) -> None:
        """Take a report; calls or tokens ``under_way`` may not be counted in it yet."""
        remaining, reset, whole = quota.remaining, quota.reset, quota.limit
        if not 0 <= remaining <= _ENOUGH:
            remaining = 0 if remaining < 0 else _ENOUGH
        left: float = remaining
        if at < self._until:
            left = min(max(self._now(at), left - under_way), left)
        if reset is None or not reset >= 0:
            reset = UNTOLD
        if whole is not None and not 1 <= whole <= _ENOUGH:
            whole = 1 if whole < 1 else _ENOUGH
        self._rate = 0.0
        if quota.refills and whole is not None and whole > remaining and reset > 0:
            self._rate = (whole - remaining) / reset
        self._at, self.left, self._most, self._whole = at, left, remaining, whole
        self._until = at + min(reset, LONGEST)

    def wait_time(self, at: float, need: int) -> float:
        """Seconds until ``need`` is there, at most until the reset; more than the whole limit is never waited for."""
        if at >= self._until:
            return 0.0
        short = (need if self._whole is None else min(need, self._whole)) - self.left
        if short <= 0:
            return 0.0
        there_at = self._at + short / self._rate if self._rate else inf
        return max(min(there_at, self._until) - at, 0.0)

    def room(self, at: float) -> float:
        """How many are there now; ``inf`` when nothing is known."""
        return self._now(at) if at < self._until else inf

    def take(self, amount: int) -> None:
        """A call takes so much."""
        self.left -= amount
        self._most -= amount

    def give_back(self, amount: int, begun: float) -> None:
        """A call begun at ``begun`` took so much less than it seemed (or more, then ``amount`` is negative).

        What was taken before the last report comes back only as far as that report does not count it yet.
        """
        if begun > self._at:
            self._most += amount
        self.left = min(self.left + amount, self._most)

    def told(self, at: float) -> Quota | None:
        """What is left now, None when nothing is known."""
        if at >= self._until:
            return None
        return Quota(max(int(self._now(at)), 0), self._whole, self._until - at, self._rate > 0)

    def _now(self, at: float) -> float:
        return self.left + self._rate * (at - self._at)
