"""The cheaper of two drawn at random, by the peak of their recent pace and the calls in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp

from orchestrator.core.clock import now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.least_busy import two_healthy

__all__ = ["PeakEwma"]

IDLE_DECAY = 10.0  # seconds, as Finagle's and tower's
PROBED = 0.1  # seconds per token, of one that has not answered its first call yet: Finagle sends it no second one


class PeakEwma(RoutingStrategy):
    """Of two candidates drawn at random the one with the lower ``peak * (in_flight + 1) / weight``.

    ``peak`` is an average of ``latency / (50 + tokens)`` that rises at once with a slow answer and comes down by ``e``
    every 10 s (Finagle's ``PeakEwma``, tower's ``peak_ewma``, there of the plain latency). Without calls it fades
    towards nothing within ``idle_decay`` seconds: who is idle is tried again sooner or later. A failure counts for
    5 s, its Retry-After or four times the pace, whatever is most, instead of for its own (short) time, as in linkerd.
    """

    name = "peak-ewma"

    def __init__(self, *, idle_decay: float = IDLE_DECAY) -> None:
        self._idle_decay = idle_decay

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        at = now()
        one, other = two_healthy(candidates, at, self.random)
        first = one if one is other or self._cost(one, at) <= self._cost(other, at) else other
        yield first
        left = [view for view in candidates if view is not first]
        self.random.shuffle(left)
        at = now()
        yield from sorted(left, key=lambda view: (view.penalised(at), self._cost(view, at)))

    def _cost(self, view: CandidateView, at: float) -> float:
        peak = view.peak
        if peak is None:
            peak = PROBED if view.in_flight else 0.0
        elif not view.in_flight:
            peak *= exp((view.sampled_at - at) / self._idle_decay)
        if view.penalty and view.penalised(at):
            peak = max(peak, view.expected_pace(at))
        return peak * (view.in_flight + 1) / view.weight
