"""Shares in proportion to weights, as evenly spread as can be: nginx's smooth weighted round robin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["Weighted"]

REMEMBERED = 1000  # names; far above any pool, so only names that left for good are forgotten


class Weighted(RoutingStrategy):
    """Weights 5, 1, 1 give a a b a c a a. Each decision reads ``ProviderConfig.weight`` anew.

    Every candidate gains its weight in credit, the richest goes first and pays the sum of all weights (nginx,
    ``ngx_http_upstream_get_peer``). A candidate that is absent for a while keeps its credit.
    """

    name = "weighted"

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}
        self._average = 0.0  # where a newcomer starts: neither ahead of the others nor behind

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        credit, average = self._credit, self._average
        if len(credit) > REMEMBERED:
            credit = self._credit = {view.name: credit.get(view.name, average) for view in candidates}
        total = 0.0
        first, most = candidates[0], -inf
        for view in candidates:
            weight = view.weight
            total += weight
            richer = credit[view.name] = credit.get(view.name, average) + weight
            if richer > most:
                first, most = view, richer
        credit[first.name] = most - total
        yield first
        # Those who stand in for a failed one pay too, or its whole share would fall on the richest of them.
        for view in sorted((view for view in candidates if view is not first), key=lambda view: -credit[view.name]):
            credit[view.name] -= total
            self._average -= total / len(credit)
            yield view
