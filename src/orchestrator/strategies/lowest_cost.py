"""The cheapest of those that are expected to answer in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from math import inf
from operator import itemgetter

from orchestrator.core.clock import now
from orchestrator.core.estimate import COMPLETION, prompt_tokens
from orchestrator.core.stats import BASE_TOKENS, CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY, SLACK, Exploration, fastest_and_crowd
from orchestrator.strategies.shortlist import ALL, COMPARED

__all__ = ["LowestCost"]

WITHIN = 2.0  # times as long as the fastest

_Ranked = tuple[tuple[int, float, float], CandidateView]
_rank = itemgetter(0)


class LowestCost(RoutingStrategy):
    """The cheapest for this request among those expected to answer within ``seconds``, or ``within`` times the fastest.

    The cost: ``ProviderConfig.input_price`` and ``cached_input_price`` for the tokens of the prompt (about four bytes
    each; the share that came from the cache so far), ``output_price`` for the average of what all have written so far,
    or ``max_tokens`` if that is less. The time: ``answer_pace * (50 + tokens)``, longer or shorter in proportion when
    more or fewer calls are in flight than the pace was measured with. Of equals the one with the least ``answer_pace *
    (in_flight + 1) / weight``. Those without prices come after all with prices, those expected to be late after all in
    time, and last those whose last failure has not faded.

    ``seconds`` given, ``within`` is not used. Cheaper ones left aside are tried now and then, see ``least-latency``.
    """

    name = "lowest-cost"

    def __init__(
        self, *, within: float = WITHIN, seconds: float | None = None, explore_every: int = EXPLORE_EVERY,
        explore_after: float = EXPLORE_AFTER,
    ) -> None:
        if not within >= 1 or (seconds is not None and not seconds > 0):
            raise ValueError(f"within is at least 1 and seconds above 0; got within={within!r}, seconds={seconds!r}")
        self._within = within
        self._seconds = seconds
        self._explore = Exploration(explore_every, explore_after)
        self._candidates: Sequence[CandidateView] | None = None  # the list of which those leading were the best
        self._leading: list[CandidateView] = []
        self._look_at = 0  # the decision at which all are compared again
        self._least = inf  # the pace by which "in time" was measured then

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        explore = self._explore
        views, prompt = explore.turned(candidates), prompt_tokens(request)
        first = self._lately_the_best(candidates, prompt, request)
        if first is None:
            first = self._best(candidates, views, prompt, request)
        yield first
        written = _written(candidates, request)
        views.remove(first)
        for _, view in sorted(self._ranked(views, prompt, written), key=_rank):
            yield view

    def _lately_the_best(
        self, candidates: Sequence[CandidateView], prompt: int, request: Request
    ) -> CandidateView | None:
        """The best of those leading; None when none of them is in time, or all have to be compared."""
        if self._explore.decisions >= self._look_at or candidates is not self._candidates:
            return None
        written = _written(self._leading, request)
        rank, first = min(self._ranked(self._leading, prompt, written, self._least), key=_rank)
        return None if rank[0] else first

    def _best(
        self, candidates: Sequence[CandidateView], views: Sequence[CandidateView], prompt: int, request: Request
    ) -> CandidateView:
        explore, written = self._explore, _written(candidates, request)
        ranked = self._ranked(views, prompt, written)
        first = min(ranked, key=_rank)[1]
        if len(views) > ALL:
            self._candidates, self._look_at = candidates, explore.decisions + len(views) // COMPARED
            self._leading = [view for _, view in nsmallest(COMPARED, ranked, key=_rank)]
        if explore.decisions >= explore.due and explore.anybody(views, at := now()):
            # Nobody dearer: to try those could gain nothing.
            bound = _cost(first, prompt, written)
            cheaper = [view for view in views if _cost(view, prompt, written) <= bound]
            first = explore.pick(cheaper, at, self.random) or first
        return first

    def _ranked(
        self, views: Sequence[CandidateView], prompt: int, written: float, least: float = inf
    ) -> list[_Ranked]:
        at = now()
        fastest, _ = fastest_and_crowd(views)
        paces = []
        for view in views:
            pace = fastest if view.answer_pace is None else view.answer_pace
            # With fewer in flight than it was measured at it is faster too: it was late because all asked it. Else it
            # would be out until it is tried again, and full again a moment later.
            pace *= (view.in_flight + 1.0 + SLACK) / (view.load + SLACK)
            paces.append(pace)
            if pace < least:  # noqa: PLR1730  # min() would be a call per candidate
                least = pace
        self._least = least
        bound = self._within * least if self._seconds is None else self._seconds / (BASE_TOKENS + written)
        ranked: list[_Ranked] = []
        for view, pace in zip(views, paces, strict=True):
            place, cost = 0, 0.0
            if view.penalty and view.penalised(at, fastest):
                place, pace = 2, view.expected_pace(at, fastest)  # noqa: PLW2901  # for ill ones it is another
            elif pace > bound:
                place = 1
            else:
                cost = _cost(view, prompt, written)
            ranked.append(((place, cost, pace * (view.in_flight + 1) / view.weight), view))
        return ranked


def _written(views: Sequence[CandidateView], request: Request) -> float:
    """Tokens to expect of an answer, whoever gives it: the average of all, or ``max_tokens`` if that is less."""
    total, known = 0.0, 0
    for view in views:
        if view.written is not None:
            total += view.written
            known += 1
    average = total / known if known else COMPLETION
    params = request.params
    return average if params is None or params.max_tokens is None else min(params.max_tokens, average)


def _cost(view: CandidateView, prompt: int, written: float) -> float:
    """USD to expect; infinite when the prices are not known."""
    cost = view.price(prompt, written, view.cached * prompt)
    return inf if cost is None else cost
