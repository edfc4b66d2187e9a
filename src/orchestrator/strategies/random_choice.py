"""A uniformly random order: no state, nothing to herd on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["RandomChoice"]


class RandomChoice(RoutingStrategy):
    """Every order of the candidates is equally likely; weights are not read (see ``weighted``)."""

    name = "random"

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`. Fisher and Yates' shuffle, one draw per candidate asked for."""
        left = list(candidates)
        draw = self.random.random
        while left:
            index = int(draw() * len(left))
            left[index], left[-1] = left[-1], left[index]
            yield left.pop()
