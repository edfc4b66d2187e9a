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

    def __init__(self) -> None:
        self._candidates: Sequence[CandidateView] | None = None
        self._sorted: tuple[CandidateView, ...] = ()

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Sequence[CandidateView]:
        """See :class:`RoutingStrategy`."""
        # The pool hands over the same list until something changes, a priority included.
        if candidates is not self._candidates or len(candidates) != len(self._sorted):
            self._candidates, self._sorted = candidates, tuple(sorted(candidates, key=_priority))
        return self._sorted
