"""Whoever is expected to answer first: of the fast the one with the shortest queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.clock import now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY, Exploration, by_least, least
from orchestrator.strategies.shortlist import Shortlist, others

__all__ = ["LeastLatency"]


class LeastLatency(RoutingStrategy):
    """Of those nearly as fast as the fastest the one with the shortest queue; the others when these are crowded.

    Near is a pace of at most 1.3 times the least. The pace is an average of ``latency / (50 + tokens)``, so that long
    answers are not taken for a slow provider, and where there are streams half of it is how soon they open; see
    :class:`CandidateView` for how it ages and what a failure adds. With more calls in flight than it was measured at it
    is expected to grow in proportion, so a crowd makes room for slower ones. Among the near the least ``(in_flight + 1)
    / weight`` goes first, of equals each in turn. Up to a dozen candidates all are compared: drawing two of them first
    (the power of two choices) is no better (``benchmarks/strategy_check.py``). Of more, see
    :class:`~orchestrator.strategies.shortlist.Shortlist`.

    About one decision in ``explore_every`` goes to the idle candidate not heard of for longest, if that is more than
    ``explore_after`` seconds: a provider that was slow once is found again when it is fast. The slower it was, the
    fewer.
    """

    name = "least-latency"

    def __init__(self, *, explore_every: int = EXPLORE_EVERY, explore_after: float = EXPLORE_AFTER) -> None:
        self._explore = Exploration(explore_every, explore_after)
        self._shortlist = Shortlist()

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        explore = self._explore
        compared = self._shortlist.of(candidates)
        views = explore.turned(compared)
        first = explore.pick(views, now(), self.random) if explore.decisions >= explore.due else None
        if first is None:
            first = least(views)
        if compared is not candidates:
            self._shortlist.chose(first)
        yield first
        # Only now, if ever: until the first one failed, the others' load and pace have changed.
        yield from by_least(others(first, views, candidates), now())
