"""Shares in proportion to weights, as evenly spread as can be: nginx's smooth weighted round robin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from math import inf

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["Weighted"]

REMEMBERED = 1000  # names; far above any pool, so only names that left for good are forgotten

_Debt = tuple[float, int, CandidateView]


class Weighted(RoutingStrategy):
    """Weights 5, 1, 1 give a a b a c a a. Each decision reads ``ProviderConfig.weight`` anew.

    Every candidate gains its weight in credit, the richest goes first and pays the sum of all weights (nginx,
    ``ngx_http_upstream_get_peer``). A candidate that is absent for a while keeps its credit.

    Those of one weight gain alike: of them only the one with the least debt is looked at. So a decision costs as much
    as there are different weights, however many candidates.
    """

    name = "weighted"

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}  # of those who do not gain now
        self._average = 0.0  # where a newcomer starts: neither ahead of the others nor behind
        self._gaining: Sequence[CandidateView] | None = None  # the list that the heaps were made of
        self._heaps: list[tuple[float, list[_Debt]]] = []  # by weight: debts, the least first
        self._decisions = 0  # since then: so many times their weight is what all of them have gained
        self._count, self._total = 0, 0.0

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        # The pool hands over the same list until something changes, a weight included.
        if candidates is not self._gaining or len(candidates) != self._count:
            self._settle()
            self._begin(candidates)
        first, total = self._richest(), self._total
        yield first
        self._settle()
        # Those who stand in for a failed one pay too, or its whole share would fall on the richest of them.
        for view in sorted([view for view in candidates if view is not first], key=self._owed):
            self._settle()
            self._credit[view.name] = -self._owed(view) - total
            self._average -= total / len(self._credit)
            yield view

    def _richest(self) -> CandidateView:
        """Let all gain their weight, and the richest pay."""
        self._decisions += 1
        most, place, richest = -inf, 0, self._heaps[0][1]
        for weight, heap in self._heaps:
            debt, index, _ = heap[0]
            credit = self._decisions * weight - debt
            if credit > most or (credit == most and index < place):
                most, place, richest = credit, index, heap
        debt, index, first = richest[0]
        heapreplace(richest, (debt + self._total, index, first))
        return first

    def _owed(self, view: CandidateView) -> float:
        return -self._credit.get(view.name, self._average)

    def _begin(self, candidates: Sequence[CandidateView]) -> None:
        if len(self._credit) > REMEMBERED:
            self._credit = {view.name: -self._owed(view) for view in candidates}
        heaps: dict[float, list[_Debt]] = {}
        for index, view in enumerate(candidates):
            heaps.setdefault(view.weight, []).append((self._owed(view), index, view))
        for heap in heaps.values():
            heapify(heap)
        self._heaps, self._decisions = list(heaps.items()), 0
        self._gaining, self._count = candidates, len(candidates)
        self._total = sum([view.weight for view in candidates])

    def _settle(self) -> None:
        """Note what everybody has now, and begin anew with the next decision."""
        for weight, heap in self._heaps:
            for debt, _, view in heap:
                self._credit[view.name] = self._decisions * weight - debt
        self._gaining, self._heaps = None, []
