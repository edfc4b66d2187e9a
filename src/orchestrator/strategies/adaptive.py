"""A bandit that learns who answers in time, and weighs that with pace, load and price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        self._arms: dict[str, _Arm] = {}

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
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
        at, weighs = now(), self._price_weight
        paces, loads = [view.pace for view in views], [view.in_flight for view in views]
        fastest = max(TINY, min([pace for pace in paces if pace is not None], default=UNMEASURED))
        prices = _relative_prices(views) if weighs else paces
        costs = []
        for view, pace, load, price in zip(views, paces, loads, prices, strict=True):
            theta, crowd = self._theta(view, at, load), 0
            usual = fastest if pace is None else self._usual(view, pace, at, fastest, load)
            cost = usual * (1.0 + self._miss * (1.0 - theta))
            if weighs and price is not None:
                cost *= price ** weighs
            if view.penalty and view.penalised(at, fastest):
                cost *= view.expected_pace(at, fastest) / usual
                # Who fails at once has nothing in flight: its empty queue is no merit.
                crowd = max(loads)
            costs.append(cost * ((load + crowd) / view.weight + self._room))
        return costs

    def _usual(self, view: CandidateView, pace: float, at: float, fastest: float, load: int) -> float:
        """The pace, faded when idle. With its first new call under way it counts in full: one call is enough to ask."""
        if load or pace <= fastest:
            return max(pace, fastest)
        return fastest + (pace - fastest) * exp((view.sampled_at - at) / self._memory)

    def _theta(self, view: CandidateView, at: float, load: int) -> float:
        """A draw of how likely it answers in time."""
        name = view.name
        arm = self._arms.get(name)
        if arm is None:
            if len(self._arms) > REMEMBERED:
                self._arms.clear()
            arm = self._arms[name] = _Arm()
        arm.look(view, at, load, self._slo, self._memory)
        if arm.others < TRACE:  # Beta(a, 1), which is what most draw, without the two gamma draws of any other
            return float(self.random.random() ** (1.0 / (1.0 + arm.in_time)))
        return self.random.betavariate(1.0 + arm.in_time, 1.0 + arm.others)


class _Arm:
    """What one provider has brought: counts that fade, and what had been counted when it was looked at last."""

    __slots__ = ("_answered", "_at", "_failures", "_sampled_at", "in_time", "others")

    def __init__(self) -> None:
        self.in_time = 0.0
        self.others = 0.0
        self._at = 0.0
        self._answered = 0
        self._failures = 0
        self._sampled_at = -inf

    def look(self, view: CandidateView, at: float, load: int, slo: float, memory: float) -> None:
        """Take in what has ended since the last look."""
        kept = exp((self._at - at) / memory)
        self._at = at
        in_time, others = self.in_time * kept, self.others * kept
        failures, sampled_at = view.failures, view.sampled_at
        if failures > self._failures:
            others += failures - self._failures
            self._failures = failures
        if sampled_at > self._sampled_at:
            answered = view.requests - load - failures
            count = max(1, answered - self._answered)
            self._answered, self._sampled_at = answered, sampled_at
            if view.last_latency <= slo:
                in_time += count
            else:
                others += count
        self.in_time, self.others = in_time, others
        total = in_time + others
        if total > RESULTS:
            self.in_time *= RESULTS / total
            self.others *= RESULTS / total


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
