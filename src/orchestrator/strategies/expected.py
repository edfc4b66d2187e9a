"""What to expect of a candidate: pace, load, failures and weight in one number; and whom to try for news."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf

from orchestrator.core.clock import Random, now
from orchestrator.core.stats import UNMEASURED, CandidateView

__all__ = [
    "EXPLORE_AFTER", "EXPLORE_EVERY", "SLACK", "Exploration", "by_least", "crowding", "expected_cost",
    "fastest_and_crowd", "least",
]

EXPLORE_EVERY = 50  # decisions
EXPLORE_AFTER = 10.0  # seconds without news of an idle candidate
SLACK = 4.0  # calls: one more or less of a few is chance, and no crowd
NEAR = 1.3  # times the least pace to expect: what chance alone makes of equal paces
DOUBT = 120.0  # seconds: how fast an old pace is doubted
ENDLESS = 1e9  # times: more is not told apart, and infinity is no number to go on with
RELUCTANCE = 20.0  # one decision in a thousand is no more than a tenth of the slowest percent


def fastest_and_crowd(views: Sequence[CandidateView]) -> tuple[float, int]:
    """The pace of the fastest, which those who have not answered yet are taken to have, and the most in flight."""
    fastest, crowd = inf, 0
    for view in views:
        if view.pace is not None and view.pace < fastest:
            fastest = view.pace
        if view.in_flight > crowd:  # noqa: PLR1730  # max() would be a call per candidate
            crowd = view.in_flight
    return (UNMEASURED if fastest == inf else fastest), crowd


def expected_cost(view: CandidateView, at: float, fastest: float, crowd: int) -> float:
    """``pace * (in_flight + 1) / weight``, and more after a failure."""
    if view.penalty:
        # A provider that fails at once has nothing in flight: without the crowd, its empty queue outweighs the penalty
        # as soon as the others are busy, and half of all calls end in the black hole.
        return view.expected_pace(at, fastest) * (view.in_flight + 1 + crowd) / view.weight
    return (fastest if view.pace is None else view.pace) * (view.in_flight + 1) / view.weight


def crowding(view: CandidateView) -> float:
    """How many times longer than its pace says an answer may take, for more calls are in flight than when that was
    measured: 1 or more. A queue shows here before the first of those who wait in it has been answered.
    """
    more = view.in_flight + 1.0 - view.load
    return 1.0 if more <= 0.0 else 1.0 + more / (view.load + SLACK)


def least(views: Sequence[CandidateView]) -> CandidateView:
    """Of those expected to be nearly as fast as the fastest the one with the shortest queue; of equals the first.

    The pace to expect grows with crowding; up to ``NEAR`` times the least of them is near, and the queue are the calls
    in flight, divided by the weight. Whoever is twice as slow, but idle, would get the calls that make the tail. Among
    the near, paces differ by chance as much as in truth: to weigh them too would fill one while another has room.
    """
    crowded = []
    for view in views:  # the usual case of what follows, without its calls
        pace = view.pace
        if pace is None or view.penalty:
            return by_least(views, now())[0]
        load = view.load
        more = view.in_flight + 1.0 - load
        crowded.append(pace if more <= 0.0 else pace * (1.0 + more / (load + SLACK)))
    bound = NEAR * min(crowded)
    first, shortest = views[0], inf
    for view, pace in zip(views, crowded):  # noqa: B905  # strict costs a tenth of the decision
        if pace <= bound:
            queue = (view.in_flight + 1) / view.weight
            if queue < shortest:
                first, shortest = view, queue
    return first


def by_least(views: Sequence[CandidateView], at: float) -> list[CandidateView]:
    """All in that order: the near by queue, then the others by the pace to expect."""
    if len(views) < 2:
        return list(views)
    fastest, crowd = fastest_and_crowd(views)
    paces = _paces(views, at, fastest, crowd)
    bound = NEAR * min(paces)
    keys = [
        (0, (view.in_flight + 1 + (crowd if view.penalty else 0)) / view.weight) if pace <= bound else (1, pace)
        for view, pace in zip(views, paces, strict=True)
    ]
    return [views[n] for n in sorted(range(len(views)), key=keys.__getitem__)]


def _paces(views: Sequence[CandidateView], at: float, fastest: float, crowd: int) -> list[float]:
    """What to expect of each, ``crowding`` and failures included."""
    paces = []
    for view in views:
        pace = fastest if view.pace is None else view.pace
        more = view.in_flight + 1.0 - view.load
        if view.penalty:  # its empty queue is no merit, see expected_cost
            pace = view.expected_pace(at, fastest)
            more += crowd
        paces.append(pace if more <= 0.0 else pace * (1.0 + more / (view.load + SLACK)))
    return paces


class Exploration:
    """About one decision in ``every`` goes to the idle candidate not heard of for longest, and ``after`` seconds.

    Fewer go to one that was slow: by the square of how many times slower than the fastest, down to one in
    ``every * RELUCTANCE``. They alone would make the slowest percent. What was long ago says little, so that the
    difference fades by ``e`` every ``DOUBT`` seconds. ``turned`` begins a decision; ``pick`` is worth calling once
    ``decisions`` have reached ``due``.
    """

    __slots__ = ("_candidates", "_last", "_silent_since", "_wait", "after", "decisions", "due", "every")

    def __init__(self, every: int = EXPLORE_EVERY, after: float = EXPLORE_AFTER) -> None:
        self.every = every
        self.after = after
        self.due = every  # the decision at which it is; it stays so until there is somebody
        self.decisions = 0
        self._last = 0
        self._wait = float(every)
        self._candidates: Sequence[CandidateView] = ()
        self._silent_since = -inf  # nobody for longer

    def turned(self, candidates: Sequence[CandidateView]) -> list[CandidateView]:
        """The candidates of the next decision; another one comes first each time, so that of equals all get a share."""
        if candidates is not self._candidates:
            self._candidates, self._silent_since = candidates, -inf
        self.decisions += 1
        turn = self.decisions % len(candidates)
        return [*candidates[turn:], *candidates[:turn]]

    def anybody(self, views: Sequence[CandidateView], at: float) -> bool:
        """Whether one of those turned is idle and not heard of: ``pick`` would find none else."""
        before = at - self.after
        if self._silent_since >= before:
            return False
        heard = [max(view.sampled_at, view.penalised_at) for view in views]
        self._silent_since = longest = min(heard)
        return longest < before and any(
            last < before and not view.in_flight for view, last in zip(views, heard, strict=True)
        )

    def pick(self, views: Sequence[CandidateView], at: float, random: Random) -> CandidateView | None:
        """Whom to try now; None when there is recent news of all, or of all but those who are too slow for now."""
        return self.pick_of(views, at, random) if self.anybody(views, at) else None

    def pick_of(self, views: Sequence[CandidateView], at: float, random: Random) -> CandidateView | None:
        """The same of a part of those turned."""
        chosen, before = None, at - self.after
        waited = (self.decisions - self._last) / self._wait
        fastest: float | None = None
        for view in views:
            heard = max(view.sampled_at, view.penalised_at)
            # One with calls under way is being explored already.
            if heard < before and not view.in_flight:
                if fastest is None:
                    fastest = fastest_and_crowd(views)[0]
                # Who was never asked need not wait: a list that changes in step may have it at no other look.
                if heard == -inf or waited >= _reluctance(view, fastest, at - heard):
                    chosen, before = view, heard
        if chosen is not None:
            self._last = self.decisions
            # Drawn, or it could fall in step with a list that changes periodically and never see the same candidate.
            self._wait = self.every * (0.5 + random.random())
            self.due = self.decisions + int(self._wait)
        elif fastest is not None:  # there is somebody, but too slow for now: not worth a look at each decision
            self.due = self.decisions + self.every // 8
        return chosen


def _reluctance(view: CandidateView, fastest: float, since: float) -> float:
    """How many times less often than others it is tried."""
    if view.pace is None or view.pace <= fastest:
        return 1.0
    times = min(view.pace / fastest, ENDLESS) if fastest else ENDLESS  # a mock answers in no time
    slower = 1.0 + (times - 1.0) * exp(-since / DOUBT)
    return min(slower * slower, RELUCTANCE)
