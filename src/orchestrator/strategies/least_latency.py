"""Whoever is expected to answer first: pace, load, failures and weight in one number."""

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

__all__ = ["LeastLatency"]


class LeastLatency(RoutingStrategy):
    """The least ``expected_pace * (in_flight + 1) / weight`` goes first; ties by fewest in flight, then in turn.

    The pace is an average of ``latency / (50 + tokens)``, so that long answers are not taken for a slow provider; see
    :class:`CandidateView` for how it ages and what a failure adds. All candidates are compared: drawing two of them
    first (the power of two choices) is no better for as few as a router has (``benchmarks/strategy_check.py``).

    About one decision in ``explore_every`` goes to the idle candidate not heard of for longest, if that is more than
    ``explore_after`` seconds: a provider that was slow once is found again when it is fast.
    """

    name = "least-latency"

    def __init__(self, *, explore_every: int = EXPLORE_EVERY, explore_after: float = EXPLORE_AFTER) -> None:
        self._explore = Exploration(explore_every, explore_after)

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        explore = self._explore
        views = explore.turned(candidates)
        at = now()
        first = explore.pick(views, at, self.random) if explore.decisions >= explore.due else None
        if first is None:
            first = least(views, at)
        yield first
        views.remove(first)
        # Only now, if ever: until the first one failed, the others' load and pace have changed.
        at = now()
        fastest, crowd = fastest_and_crowd(views)
        yield from sorted(views, key=lambda view: (expected_cost(view, at, fastest, crowd), view.in_flight))
