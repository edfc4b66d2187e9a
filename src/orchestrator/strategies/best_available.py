"""The healthiest, and of those the fastest; load counts, so that nobody is run down by everybody's first choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.clock import now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.expected import (
    EXPLORE_AFTER,
    EXPLORE_EVERY,
    Exploration,
    expected_cost,
    fastest_and_crowd,
    least,
)
from orchestrator.strategies.shortlist import Shortlist, others

__all__ = ["BestAvailable"]

TOLERANCE = 0.05  # of the success share: less of a difference is chance, or not worth a queue
SPILL = 4.0  # times the expected cost of the best of all others


class BestAvailable(RoutingStrategy):
    """Those whose success share is within ``tolerance`` of the best, as in ``least-latency``; then the others.

    The success share is that of the last minute or so (see :class:`CandidateView`), the cost ``expected_pace *
    (in_flight + 1) / weight``. When the healthy ones are so busy that the best of them costs
    more than ``spill`` times the best of all, health no longer decides: a queue is worse than a retry.
    """

    name = "best-available"

    def __init__(
        self, *, tolerance: float = TOLERANCE, spill: float = SPILL, explore_every: int = EXPLORE_EVERY,
        explore_after: float = EXPLORE_AFTER,
    ) -> None:
        self._tolerance = tolerance
        self._spill = spill
        self._explore = Exploration(explore_every, explore_after)
        self._shortlist = Shortlist()

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        explore = self._explore
        compared = self._shortlist.of(candidates)
        views = explore.turned(compared)
        at = now()
        first = explore.pick(views, at, self.random) if explore.decisions >= explore.due else None
        if first is None:
            first = self._best(views, at)
        if compared is not candidates:
            self._shortlist.chose(first)
        yield first
        left = others(first, views, candidates)
        at = now()
        fastest, crowd = fastest_and_crowd(left)
        bound = max([view.success_share(at) for view in left], default=0.0) - self._tolerance
        yield from sorted(
            left, key=lambda view: (view.success_share(at) < bound, expected_cost(view, at, fastest, crowd))
        )

    def _best(self, views: Sequence[CandidateView], at: float) -> CandidateView:
        of_all = least(views)
        for view in views:
            if view.recent_failures:
                break
        else:
            return of_all
        shares = [view.success_share(at) for view in views]
        bound = max(shares) - self._tolerance
        near = [view for view, share in zip(views, shares, strict=True) if share >= bound]
        if len(near) == len(views):
            return of_all
        fastest, crowd = fastest_and_crowd(views)
        healthy = least(near)
        spill = self._spill * expected_cost(of_all, at, fastest, crowd)
        return healthy if expected_cost(healthy, at, fastest, crowd) <= spill else of_all
