"""A bandit that learns who answers in time, and weighs that with pace, load and price."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import exp, inf

from orchestrator.core.clock import now
from orchestrator.core.stats import UNMEASURED, CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.shortlist import ALL, Shortlist, others

__all__ = ["Adaptive"]

SLO = 15.0  # seconds
PRICE_WEIGHT = 0.5
MEMORY = 30.0  # seconds: how fast results are forgotten
RESULTS = 100.0  # of one provider: more are scaled down, so that a busy one learns as fast as others
TRACE = 0.01  # of a result that was late: less than that is forgotten
MISS = 20.0  # times as bad as an answer in time
ROOM = 8.0  # calls in flight
TINY = 1e-9  # seconds per token
READ, WRITTEN = 750.0, 250.0  # tokens of the request that prices are compared by: 3 to 1, as blended prices are
DEAREST_TO_FREE = 100.0  # what costs nothing counts as so many times cheaper than the dearest
FADED = 1e-6  # of a count that did not fade yet: then all are made small again
REMEMBERED = 1000  # names; far above any pool, so only names that left for good are forgotten


class Adaptive(RoutingStrategy):
    """Discounted Thompson sampling of "answered within ``slo`` seconds", times pace, price and load; the least first.

    ``cost = pace * price ** price_weight * (1 + miss * (1 - theta)) * (in_flight / weight + room)``

    ``theta`` is drawn, per provider and decision, from Beta(1 + in time, 1 + late or failed); both counts fade by ``e``
    every ``memory`` seconds. ``miss``: how many times worse than an answer in time a late or failed one is. With a
    ``price_weight`` of 0 prices do not count, with 1 half the price is worth twice the time; they are those of 750
    tokens read and 250 written, and who tells none is taken for the dearest. ``room``: so many calls in flight, per
    weight, make a provider look twice as slow as an idle one.

    The pace of an idle provider fades towards that of the fastest in the same time, so that it is asked again: once,
    until that call has ended. Results are read off the statistics at the next decision; of several answers since the
    last one, the newest speaks for all.
    """

    name = "adaptive"

    def __init__(
        self, *, slo: float = SLO, price_weight: float = PRICE_WEIGHT, miss: float = MISS, memory: float = MEMORY,
        room: float = ROOM,
    ) -> None:
        self._slo = slo
        self._price_weight = price_weight
        self._miss = miss
        self._memory = memory
        self._room = room
        self._decisions = 0
        self._shortlist = Shortlist(ALL, last=1)
        self._arms = _Arms(memory)
        self._candidates: Sequence[CandidateView] = ()
        self._priced = False  # whether one of them has a price that counts

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        if candidates is not self._candidates:
            self._candidates = candidates
            self._priced = self._price_weight != 0 and any(view.input_price is not None for view in candidates)
        self._decisions += 1
        compared = self._shortlist.of(candidates)
        turn = self._decisions % len(compared)
        views = [*compared[turn:], *compared[:turn]]  # ties in turn
        costs = self._costs(views)
        first = views[costs.index(min(costs))]
        if compared is not candidates:
            self._shortlist.chose(first)
        yield first
        left = others(first, views, candidates)
        # Only now, if ever: until the first one failed, the others' load and pace have changed.
        for _, index in sorted((cost, index) for index, cost in enumerate(self._costs(left))):
            yield left[index]

    def _costs(self, views: Sequence[CandidateView]) -> list[float]:
        at, arms, memory, miss, room = now(), self._arms, self._memory, self._miss, self._room
        draw, kept = self.random.random, arms.kept(at)
        trace, costs, busiest = TRACE / kept, [], -1
        fastest = max(TINY, min([view.pace for view in views if view.pace is not None], default=UNMEASURED))
        for view, price in zip(views, self._prices(views), strict=True):
            arm, pace, load = arms[view.name], view.pace, view.in_flight
            if view.sampled_at > arm.sampled_at or view.failures > arm.failures:
                arm.look(view, kept, self._slo)
            if arm.others < trace:  # Beta(a, 1), which is what most draw, without the two gamma draws of any other
                theta = draw() ** (1.0 / (1.0 + arm.in_time * kept))
            else:
                theta = self.random.betavariate(1.0 + arm.in_time * kept, 1.0 + arm.others * kept)
            if pace is None or pace <= fastest:
                pace = fastest
            elif not load:  # With its first new call under way it counts in full: one call is enough to ask.
                pace = fastest + (pace - fastest) * exp((view.sampled_at - at) / memory)
            cost = pace * (1.0 + miss * (1.0 - theta)) * price
            if view.penalty and view.penalised(at, fastest):
                cost *= view.expected_pace(at, fastest) / pace
                # Who fails at once has nothing in flight: its empty queue is no merit.
                if busiest < 0:
                    busiest = max([other.in_flight for other in views])
                load += busiest
            costs.append(cost * (load / view.weight + room))
        return costs

    def _prices(self, views: Sequence[CandidateView]) -> Iterable[float]:
        """What the price does to the cost of each."""
        if not self._priced:
            return repeat(1.0, len(views))
        weighs = self._price_weight
        return [price ** weighs for price in _relative_prices(views)]


class _Arm:
    """What one provider has brought: counts as if none had been forgotten, and what had been counted when looked at."""

    __slots__ = ("answered", "failures", "in_time", "others", "sampled_at")

    def __init__(self) -> None:
        self.in_time = 0.0
        self.others = 0.0
        self.answered = 0
        self.failures = 0
        self.sampled_at = -inf

    def look(self, view: CandidateView, kept: float, slo: float) -> None:
        """Take in what has ended since the last look; of the counts, ``kept`` is what is left of each."""
        failures, sampled_at = view.failures, view.sampled_at
        if failures > self.failures:
            self.others += (failures - self.failures) / kept
            self.failures = failures
        if sampled_at > self.sampled_at:
            answered = view.requests - view.in_flight - failures
            count = max(1, answered - self.answered) / kept
            self.answered, self.sampled_at = answered, sampled_at
            if view.last_latency <= slo:
                self.in_time += count
            else:
                self.others += count
        total = (self.in_time + self.others) * kept
        if total > RESULTS:
            self.in_time *= RESULTS / total
            self.others *= RESULTS / total


class _Arms(dict[str, _Arm]):
    """Those of all names. Instead of what is old counting less, what is new counts more: nothing fades one by one.

    That is forward decay (Cormode, Shkapenyuk, Srivastava and Xu 2009).
    """

    def __init__(self, memory: float) -> None:
        super().__init__()
        self._memory = memory
        self._since = 0.0

    def kept(self, at: float) -> float:
        """What is left of each count by now."""
        kept = exp((self._since - at) / self._memory)
        if kept < FADED:
            for arm in self.values():
                arm.in_time *= kept
                arm.others *= kept
            self._since, kept = at, 1.0
        return kept

    def __missing__(self, name: str) -> _Arm:
        if len(self) > REMEMBERED:
            self.clear()
        arm = self[name] = _Arm()
        return arm


def _relative_prices(views: Sequence[CandidateView]) -> list[float]:
    """As multiples of the least; 1 where nobody has a price."""
    prices = [None if view.input_price is None else view.price(READ, WRITTEN, READ * view.cached) for view in views]
    dearest = max([price for price in prices if price is not None], default=0.0)
    if not dearest:
        return [1.0] * len(views)
    floor = dearest / DEAREST_TO_FREE
    filled = [dearest if price is None else max(price, floor) for price in prices]
    least = min(filled)
    return [price / least for price in filled]
