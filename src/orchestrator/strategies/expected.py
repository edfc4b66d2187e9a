"""What to expect of a candidate: pace, load, failures and weight in one number; and whom to try for news."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from orchestrator.core.clock import Random
from orchestrator.core.stats import UNMEASURED, CandidateView

__all__ = ["EXPLORE_AFTER", "EXPLORE_EVERY", "Exploration", "crowding", "expected_cost", "fastest_and_crowd", "least"]

EXPLORE_EVERY = 50  # decisions
EXPLORE_AFTER = 10.0  # seconds without news of an idle candidate
SLACK = 4.0  # calls: one more or less of a few is chance, and no crowd


def fastest_and_crowd(views: Sequence[CandidateView]) -> tuple[float, int]:
    """The pace of the fastest, which those who have not answered yet are taken to have, and the most in flight."""
    fastest, crowd = inf, 0
    for view in views:
        if view.pace is not None and view.pace < fastest:
            fastest = view.pace
        if view.in_flight > crowd:  # noqa: PLR1730  # max() would be a call per candidate
            crowd = view.in_flight
    return (UNMEASURED if fastest == inf else fastest), crowd


def expected_cost(view: CandidateView, at: float, fastest: float, crowd: int) -> float:
    """``pace * (in_flight + 1) / weight``, and more after a failure."""
    if view.penalty:
        # A provider that fails at once has nothing in flight: without the crowd, its empty queue outweighs the penalty
        # as soon as the others are busy, and half of all calls end in the black hole.
        return view.expected_pace(at, fastest) * (view.in_flight + 1 + crowd) / view.weight
    return (fastest if view.pace is None else view.pace) * (view.in_flight + 1) / view.weight


def crowding(view: CandidateView) -> float:
    """How many times longer than its pace says an answer may take, for more calls are in flight than when that was
    measured: 1 or more. A queue shows here before the first of those who wait in it has been answered.
    """
    more = view.in_flight + 1.0 - view.load
    return 1.0 if more <= 0.0 else 1.0 + more / (view.load + SLACK)


def least(views: Sequence[CandidateView], at: float) -> CandidateView:
    """Whose expected cost is the least; of equals the one with fewest in flight, then the first."""
    fastest, crowd = fastest_and_crowd(views)
    first, lowest = views[0], inf
    for view in views:
        cost = expected_cost(view, at, fastest, crowd)
        if cost < lowest or (cost == lowest and view.in_flight < first.in_flight):
            first, lowest = view, cost
    return first


class Exploration:
    """About one decision in ``every`` goes to the idle candidate not heard of for longest, and ``after`` seconds.

    ``turned`` begins a decision; ``pick`` is worth calling once ``decisions`` have reached ``due``.
    """

    __slots__ = ("after", "decisions", "due", "every")

    def __init__(self, every: int = EXPLORE_EVERY, after: float = EXPLORE_AFTER) -> None:
        self.every = every
        self.after = after
        self.due = every  # the decision at which it is; it stays so until there is somebody
        self.decisions = 0

    def turned(self, candidates: Sequence[CandidateView]) -> list[CandidateView]:
        """The candidates of the next decision; another one comes first each time, so that of equals all get a share."""
        self.decisions += 1
        turn = self.decisions % len(candidates)
        return [*candidates[turn:], *candidates[:turn]]

    def pick(self, views: Sequence[CandidateView], at: float, random: Random) -> CandidateView | None:
        """Whom to try now; None when there is news of everybody."""
        oldest, before = None, at - self.after
        for view in views:
            # One with calls under way is being explored already.
            if view.sampled_at < before and view.penalised_at < before and not view.in_flight:
                oldest, before = view, max(view.sampled_at, view.penalised_at)
        if oldest is not None:
            # Drawn, or it could fall in step with a list that changes periodically and never see the same candidate.
            self.due = self.decisions + int(self.every * (0.5 + random.random()))
        return oldest
