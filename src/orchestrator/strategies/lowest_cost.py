"""The cheapest of those that are expected to answer in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from operator import itemgetter

from orchestrator.core.clock import now
from orchestrator.core.estimate import COMPLETION, prompt_tokens
from orchestrator.core.stats import BASE_TOKENS, CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.expected import EXPLORE_AFTER, EXPLORE_EVERY, SLACK, Exploration, fastest_and_crowd
from orchestrator.strategies.shortlist import ALL, Shortlist, others

__all__ = ["LowestCost"]

WITHIN = 2.0  # times as long as the fastest
COMPARED = 10  # of many candidates; and the fastest
LAST = 5  # of these, who were chosen last

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
        self._shortlist = Shortlist(COMPARED, LAST)
        self._candidates: Sequence[CandidateView] = ()
        self._fastest: CandidateView | None = None  # of these, as far as known: "in time" is measured by it

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        many = len(candidates) > ALL
        compared = self._compared(candidates) if many else candidates
        written, prompt = _written(compared, request), prompt_tokens(request)
        views = self._explore.turned(compared)
        first = self._best(views, candidates, prompt, written)
        if many:
            self._shortlist.chose(first)
        yield first
        left = others(first, views, candidates)
        written = _written(candidates, request)
        for _, view in sorted(self._ranked(left, _paces(left), prompt, written), key=_rank):
            yield view

    def _compared(self, candidates: Sequence[CandidateView]) -> Sequence[CandidateView]:
        """Some of many, and the fastest; of a new list all."""
        compared, fastest = self._shortlist.of(candidates), self._fastest
        if candidates is not self._candidates:
            self._candidates = candidates
            return candidates
        return compared if fastest is None or fastest in compared else [*compared, fastest]

    def _best(
        self, views: Sequence[CandidateView], candidates: Sequence[CandidateView], prompt: int, written: float
    ) -> CandidateView:
        explore, paces = self._explore, _paces(views)
        if len(candidates) > ALL:
            self._fastest = views[paces.index(min(paces))]
        first = self._cheapest(views, paces, prompt, written)
        if first is None:  # nobody is in time, of many nobody of some: then all are compared
            if len(views) < len(candidates):
                views, paces = candidates, _paces(candidates)
            first = min(self._ranked(views, paces, prompt, written), key=_rank)[1]
        if explore.decisions >= explore.due and explore.anybody(views, at := now()):
            # Nobody dearer: to try those could gain nothing.
            bound = _cost(first, prompt, written)
            cheaper = [view for view in views if _cost(view, prompt, written) <= bound]
            first = explore.pick_of(cheaper, at, self.random) or first
        return first

    def _cheapest(
        self, views: Sequence[CandidateView], paces: Sequence[float], prompt: int, written: float
    ) -> CandidateView | None:
        """The first of ``_ranked``, with no place for each; None when nobody is healthy and in time."""
        first, lowest, shortest, fastest = None, inf, inf, -1.0
        bound = self._bound(min(paces), written)
        for view, pace in zip(views, paces):  # noqa: B905  # strict costs a call
            if pace > bound:
                continue
            if view.penalty:
                if fastest < 0:
                    fastest = fastest_and_crowd(views)[0]
                if view.penalised(now(), fastest):
                    continue
            cost = inf if view.input_price is None else _cost(view, prompt, written)
            if cost <= lowest:
                queue = pace * (view.in_flight + 1) / view.weight
                if cost < lowest or queue < shortest:
                    first, lowest, shortest = view, cost, queue
        return first

    def _ranked(
        self, views: Sequence[CandidateView], paces: Sequence[float], prompt: int, written: float
    ) -> list[_Ranked]:
        at = now()
        fastest = fastest_and_crowd(views)[0] if any(view.penalty for view in views) else inf
        bound = self._bound(min(paces, default=inf), written)
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

    def _bound(self, least: float, written: float) -> float:
        """The pace that is in time."""
        return self._within * least if self._seconds is None else self._seconds / (BASE_TOKENS + written)


def _paces(views: Sequence[CandidateView]) -> list[float]:
    """What to expect of each as busy as it is now."""
    # With fewer in flight than it was measured at it is faster too: it was late because all asked it. Else it would be
    # out until it is tried again, and full again a moment later.
    known = [view.answer_pace for view in views]
    fastest = fastest_and_crowd(views)[0] if None in known else inf
    return [
        (fastest if pace is None else pace) * ((view.in_flight + 1.0 + SLACK) / (view.load + SLACK))
        for view, pace in zip(views, known)  # noqa: B905  # strict costs a call
    ]


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
