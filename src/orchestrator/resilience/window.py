"""How the calls of the last seconds ended: a ring of ten exact buckets."""

from __future__ import annotations

from math import inf

__all__ = ["BUCKETS", "Window"]

BUCKETS = 10


class Window:
    """Counts calls for ``seconds``, forgets them a tenth of that at a time.

    ``calls, failures, slow`` are what a breaker judges by; ``late`` are the ends of calls that were begun before its
    last transition. They are added up when somebody asks: every call is counted, but only after one that went wrong is
    there anything to judge. ``turn`` is the clock time at which the next bucket begins; all is true until then.
    """

    __slots__ = ("_bucket", "_ring", "_slot", "_width", "turn")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.turn = -inf
        self._slot = 0
        self._ring = [[0, 0, 0, 0] for _ in range(BUCKETS)]
        self._bucket: list[int]  # set by `roll`

    def add(self, at: float, failed: bool = False, slow: bool = False) -> None:  # noqa: FBT001, FBT002  # by name: slow
        """Count the end of a call."""
        if at >= self.turn:
            self.roll(at)
        bucket = self._bucket
        bucket[0] += 1
        if failed:
            bucket[1] += 1
        if slow:
            bucket[2] += 1

    def add_late(self, at: float) -> None:
        """Count the end of a call that is not judged any more."""
        if at >= self.turn:
            self.roll(at)
        self._bucket[3] += 1

    @property
    def calls(self) -> int:
        """That ended."""
        return sum(bucket[0] for bucket in self._ring)

    @property
    def failures(self) -> int:
        """Of the calls those that failed."""
        return sum(bucket[1] for bucket in self._ring)

    @property
    def slow(self) -> int:
        """Of the calls those that were slow."""
        return sum(bucket[2] for bucket in self._ring)

    @property
    def late(self) -> int:
        """Ends of calls that are not judged any more."""
        return sum(bucket[3] for bucket in self._ring)

    @property
    def answers(self) -> int:
        """Calls that did not fail, of this bucket and the one before it; true until ``turn``."""
        before = self._ring[(self._slot - 1) % BUCKETS]
        return self._bucket[0] - self._bucket[1] + before[0] - before[1]

    def roll(self, at: float) -> None:
        """Go on to the bucket of ``at``, forgetting those that are too old."""
        slot = int(at // self._width)
        for passed in range(max(self._slot + 1, slot - BUCKETS + 1), slot + 1):
            self._ring[passed % BUCKETS] = [0, 0, 0, 0]
        self._slot = max(self._slot, slot)
        self.turn = (self._slot + 1) * self._width
        self._bucket = self._ring[self._slot % BUCKETS]
