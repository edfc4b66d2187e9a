"""Whoever is expected to answer first: pace, load, failures and weight in one number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from orchestrator.core.clock import now
from orchestrator.core.stats import UNMEASURED, CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["LeastLatency"]

EXPLORE_EVERY = 50  # decisions
EXPLORE_AFTER = 10.0  # seconds without news of an idle candidate


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
        self._explore_every = explore_every
        self._explore_after = explore_after
        self._explore_from = explore_every  # the decision at which it is due; it stays so until there is somebody
        self._decisions = 0

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        self._decisions += 1
        turn = self._decisions % len(candidates)
        views = [*candidates[turn:], *candidates[:turn]]
        at = now()
        first = _unheard(views, at - self._explore_after) if self._decisions >= self._explore_from else None
        if first is not None:
            # Drawn, or it could fall in step with a list that changes periodically and never see the same candidate.
            self._explore_from = self._decisions + int(self._explore_every * (0.5 + self.random.random()))
        else:
            first = _least(views, at)
        yield first
        views.remove(first)
        # Only now, if ever: until the first one failed, the others' load and pace have changed.
        at = now()
        fastest, crowd = _field(views)
        yield from sorted(views, key=lambda view: (_cost(view, at, fastest, crowd), view.in_flight))


def _unheard(views: Sequence[CandidateView], before: float) -> CandidateView | None:
    """The idle candidate without news for longest; one with calls under way is being explored already."""
    oldest = None
    for view in views:
        if view.sampled_at < before and view.penalised_at < before and not view.in_flight:
            oldest, before = view, max(view.sampled_at, view.penalised_at)
    return oldest


def _least(views: Sequence[CandidateView], at: float) -> CandidateView:
    fastest, crowd = _field(views)
    first, least = views[0], inf
    for view in views:
        cost = _cost(view, at, fastest, crowd)
        if cost < least or (cost == least and view.in_flight < first.in_flight):
            first, least = view, cost
    return first


def _field(views: Sequence[CandidateView]) -> tuple[float, int]:
    """The pace of the fastest, which those who have not answered yet are taken to have, and the most in flight."""
    fastest, crowd = inf, 0
    for view in views:
        if view.pace is not None and view.pace < fastest:
            fastest = view.pace
        if view.in_flight > crowd:  # noqa: PLR1730  # max() would be a call per candidate
            crowd = view.in_flight
    return (UNMEASURED if fastest == inf else fastest), crowd


def _cost(view: CandidateView, at: float, fastest: float, crowd: int) -> float:
    if view.penalty:
        # A provider that fails at once has nothing in flight: without the crowd, its empty queue outweighs the penalty
        # as soon as the others are busy, and half of all calls end in the black hole.
        return view.expected_pace(at, fastest) * (view.in_flight + 1 + crowd) / view.weight
    return (fastest if view.pace is None else view.pace) * (view.in_flight + 1) / view.weight
