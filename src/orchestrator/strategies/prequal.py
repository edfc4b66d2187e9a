"""Hot-cold lexicographic: those that are not too busy by their speed, the others by how busy they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf

from orchestrator.core.clock import now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY, Exploration, crowding, fastest_and_crowd
from orchestrator.strategies.least_busy import healthy
from orchestrator.strategies.shortlist import Shortlist, others

__all__ = ["Prequal"]

QUANTILE = 0.84  # of the requests in flight: who has more is hot
REMEMBERED = 64  # counts of requests in flight, of all candidates alike
NOTED = 8  # every so many decisions: each would tell little more, and cost as much as the decision itself


class Prequal(RoutingStrategy):
    """Cold candidates by expected latency, then the hot ones by requests in flight.

    Hot is who has more in flight (per weight) than the ``quantile`` of what all had at some of the latest decisions:
    YouTube's rule (Wydrowski et al., "Load is not what you should balance", NSDI 2024), with what this router sees of
    its own calls instead of probes. The latency is the pace at the load it was measured at: with more in flight than
    then, it is expected to grow in proportion. One whose last failure has not faded comes after all others.
    """

    name = "prequal"

    def __init__(
        self, *, quantile: float = QUANTILE, explore_every: int = EXPLORE_EVERY, explore_after: float = EXPLORE_AFTER
    ) -> None:
        self._quantile = quantile
        self._explore = Exploration(explore_every, explore_after)
        self._shortlist = Shortlist()
        self._seen: deque[float] = deque(maxlen=REMEMBERED)
        self._threshold = inf

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        explore = self._explore
        compared = self._shortlist.of(candidates)
        views = explore.turned(compared)
        if explore.decisions % NOTED == 0:
            self._note(compared)
        at = now()
        first = explore.pick(views, at, self.random) if explore.decisions >= explore.due else None
        if first is None:
            first = self._best(healthy(views, at))
        if compared is not candidates:
            self._shortlist.chose(first)
        yield first
        left = others(first, views, candidates)
        at = now()
        fastest, _ = fastest_and_crowd(left)
        threshold = self._threshold

        def rank(view: CandidateView) -> tuple[bool, bool, float]:
            busy = view.in_flight / view.weight
            hot = busy > threshold
            return view.penalised(at), hot, busy if hot else (view.pace or fastest) * crowding(view)

        yield from sorted(left, key=rank)

    def _best(self, views: Sequence[CandidateView]) -> CandidateView:
        threshold, unmeasured = self._threshold, 0.0
        cold = hot = None
        lowest = fewest = inf
        for view in views:
            busy = view.in_flight / view.weight
            if busy > threshold:
                if busy < fewest:
                    hot, fewest = view, busy
                continue
            pace = view.pace
            if pace is None:
                pace = unmeasured = unmeasured or fastest_and_crowd(views)[0]
            if view.in_flight + 1.0 > view.load:
                pace *= crowding(view)
            if pace < lowest:
                cold, lowest = view, pace
        return cold or hot or views[0]

    def _note(self, views: Sequence[CandidateView]) -> None:
        seen = self._seen
        seen.extend([view.in_flight / view.weight for view in views])
        self._threshold = sorted(seen)[int(self._quantile * (len(seen) - 1))]
