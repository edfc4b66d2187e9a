"""What a strategy is: it orders the candidates of a request, best first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from orchestrator.core.clock import Random, new_random
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request

__all__ = ["RoutingStrategy"]


class RoutingStrategy(ABC):
    """Orders candidates. Sees views, never providers; pure but for its own state.

    The router tries the first of the order, the next when that fails. What comes in is capable of the request, enabled
    and not ejected; what goes out must hold each of it once (whatever is left out is tried last). The same list
    object again means that nobody has come or gone and no configuration has changed: what was made of it still holds.
    ``random`` is the router's own source of chance, set before the first call; time is
    ``orchestrator.core.clock.now()``.
    """

    name: ClassVar[str] = "custom"
    random: Random = new_random(0)

    @abstractmethod
    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterable[CandidateView]:
        """The candidates, best first; an iterator may compute the later ones only when they are asked for."""
