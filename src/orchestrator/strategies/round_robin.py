"""Everybody in turn, also when the list of candidates changes from request to request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        self._turns: dict[str, int] = {}

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        turns = self._turns
        if len(turns) > REMEMBERED:
            turns = self._turns = {view.name: turns.get(view.name, 0) for view in candidates}
        # The list is a rotation of the sorted one, as a rule: two runs, which sorted() merges in linear time.
        for view in sorted(candidates, key=lambda view: turns.get(view.name, 0)):
            self._turn += 1
            turns[view.name] = self._turn
            yield view
