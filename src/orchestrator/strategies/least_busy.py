"""The less busy of two drawn at random, healthy ones first: the power of two choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.clock import Random, now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.shortlist import ALL

__all__ = ["LeastBusy", "healthy", "two", "two_healthy"]


def healthy(candidates: Sequence[CandidateView], at: float) -> Sequence[CandidateView]:
    """Those whose last failure does not count any more; all of them, when that is nobody."""
    for view in candidates:
        if view.penalty:
            return [view for view in candidates if not view.penalised(at)] or candidates
    return candidates


def two_healthy(
    candidates: Sequence[CandidateView], at: float, random: Random
) -> tuple[CandidateView, CandidateView]:
    """Two of the healthy, drawn as ``two`` does."""
    if len(candidates) > ALL:  # two of all that happen to be healthy are as good, and nobody else is looked at
        one, other = two(candidates, random)
        if not (one.penalised(at) or other.penalised(at)):
            return one, other
    return two(healthy(candidates, at), random)


def two(views: Sequence[CandidateView], random: Random) -> tuple[CandidateView, CandidateView]:
    """Two different ones, each pair and order as likely as any other; the same one twice when there is but one."""
    count = len(views)
    if count == 1:
        return views[0], views[0]
    one, other = int(random.random() * count), int(random.random() * (count - 1))
    return views[one], views[other + (other >= one)]


class LeastBusy(RoutingStrategy):
    """Of two candidates drawn at random the one with the lower ``in_flight / weight`` (Finagle's ``P2CLeastLoaded``).

    Drawn from those whose last failure has faded: one that fails at once has nothing in flight, and would look like
    the least busy of all. The rest follow by the same rule, healthy ones first.
    """

    name = "least-busy"

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        one, other = two_healthy(candidates, now(), self.random)
        first = other if other.in_flight * one.weight < one.in_flight * other.weight else one
        yield first
        left = [view for view in candidates if view is not first]
        self.random.shuffle(left)
        at = now()
        yield from sorted(left, key=lambda view: (view.penalised(at), view.in_flight / view.weight))
