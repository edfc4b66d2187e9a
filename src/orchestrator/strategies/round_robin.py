"""Everybody in turn, also when the list of candidates changes from request to request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["RoundRobin"]

REMEMBERED = 1000  # names; far above any pool, so only names that left for good are forgotten


class RoundRobin(RoutingStrategy):
    """Whoever was asked longest ago goes first; a candidate never asked before goes first of all.

    With a constant list that is the plain rotation. A position in the list would not do: lists of changing length can
    skip the same candidate for ever. Being asked after somebody else's failure counts as a turn, so the load of a
    failing provider is spread over all others instead of falling on its neighbour.
    """

    name = "round-robin"

    def __init__(self) -> None:
        self._turn = 0
        self._turns: dict[str, int] = {}  # as it was when the ring was made
        self._seated: Sequence[CandidateView] | None = None  # the list that the ring was made of
        self._ring: list[CandidateView] = []
        self._asked = 0  # how many of the ring since, round after round

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        # The pool hands over the same list until something changes: then the next one is known without a search.
        count = len(candidates)
        if candidates is not self._seated or count != len(self._ring):
            self._seat(candidates)
        if not count:
            return
        first = self._ring[self._asked % count]
        self._asked += 1
        yield first
        self._rise()
        for view in self._oldest_first(view for view in candidates if view is not first):
            self._rise()  # others may have been asked since
            self._count(view)
            yield view

    def _seat(self, candidates: Sequence[CandidateView]) -> None:
        self._rise()
        if len(self._turns) > REMEMBERED:
            self._turns = {view.name: self._turns.get(view.name, 0) for view in candidates}
        self._ring = self._oldest_first(candidates)
        self._seated = candidates

    def _rise(self) -> None:
        """Count the turns of all who were asked since the ring was made, which is not of use any more."""
        ring, asked = self._ring, self._asked
        for number in range(max(0, asked - len(ring)), asked):
            self._count(ring[number % len(ring)])
        self._ring, self._seated, self._asked = [], None, 0

    def _oldest_first(self, views: Iterable[CandidateView]) -> list[CandidateView]:
        turns = self._turns
        return sorted(views, key=lambda view: turns.get(view.name, 0))

    def _count(self, view: CandidateView) -> None:
        self._turn += 1
        self._turns[view.name] = self._turn
