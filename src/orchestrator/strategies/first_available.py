"""The first of the list that is ready: one main provider, the others stand by."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy

__all__ = ["FirstAvailable"]

_priority = attrgetter("priority")


class FirstAvailable(RoutingStrategy):
    """By ``ProviderConfig.priority``, the lowest first; equals in the order they were added."""

    name = "first-available"

    def order(self, candidates: Sequence[CandidateView], request: Request) -> list[CandidateView]:
        """See :class:`RoutingStrategy`."""
        return sorted(candidates, key=_priority)
