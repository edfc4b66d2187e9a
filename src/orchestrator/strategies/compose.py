"""Strategies made of strategies: some candidates last, tiers, ties broken, and a strategy on trial."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from orchestrator.core.clock import Random, new_random
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.registry import resolve

__all__ = ["Filtered", "Shadow", "TieBreak", "Tiers"]

_log = logging.getLogger("orchestrator")
StrategyLike = str | RoutingStrategy | type[RoutingStrategy]
OnDifference = Callable[[CandidateView, CandidateView, Request], None]


class _Around(RoutingStrategy):
    """Hands the router's chance on to the strategy within."""

    def __init__(self, within: StrategyLike) -> None:
        self.within = resolve(within)
        self._random = RoutingStrategy.random

    @property
    def random(self) -> Random:
        """The router's source of chance."""
        return self._random

    @random.setter
    def random(self, random: Random) -> None:
        self._random = self.within.random = random

    def _in_groups(self, groups: Sequence[Sequence[CandidateView]], request: Request) -> Iterator[CandidateView]:
        for group in groups:
            left = list(group)
            for view in self.within.order(group, request):
                if view in left:  # a strategy of the user's may repeat itself
                    left.remove(view)
                    yield view
            yield from left  # or leave some out


class Filtered(_Around):
    """Those for whom ``predicate(view, request)`` holds, then the others; both in the order of ``strategy``.

    A preference and no ban: rather an answer of the others than none. ``ProviderConfig.enabled`` is the ban.
    """

    name = "filtered"

    def __init__(self, strategy: StrategyLike, predicate: Callable[[CandidateView, Request], bool]) -> None:
        super().__init__(strategy)
        self._predicate = predicate

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        groups: tuple[list[CandidateView], list[CandidateView]] = ([], [])
        for view in candidates:
            groups[not self._predicate(view, request)].append(view)
        return self._in_groups([group for group in groups if group], request)


class Tiers(_Around):
    """All of the tier with the least ``key(view)`` first, then the next; within a tier in the order of ``within``.

    ``key`` is anything that can be compared; the default is ``ProviderConfig.priority``.
    """

    name = "tiers"

    def __init__(
        self, within: StrategyLike = "round-robin", *, key: Callable[[CandidateView], Any] = attrgetter("priority")
    ) -> None:
        super().__init__(within)
        self._key = key

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        tiers: dict[Any, list[CandidateView]] = {}
        for view in candidates:
            tiers.setdefault(self._key(view), []).append(view)
        return self._in_groups([tiers[tier] for tier in sorted(tiers)], request)


class TieBreak(_Around):
    """By ``measure(view)``, the least first; who is within ``tolerance`` of the least is its equal.

    Equals are in the order of ``second``; ``tolerance`` is relative: 0.1 is ten percent. Of those left, the least one
    has equals in turn.
    """

    name = "tie-break"

    def __init__(
        self, measure: Callable[[CandidateView], float], second: StrategyLike, *, tolerance: float = 0.1
    ) -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance is {tolerance!r}; expected 0 or more")
        super().__init__(second)
        self._measure = measure
        self._tolerance = tolerance

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        measured = [(self._measure(view), index) for index, view in enumerate(candidates)]
        measured.sort(key=lambda pair: (pair[0] != pair[0], pair))  # nan comes last
        groups: list[list[CandidateView]] = []
        limit = 0.0
        for value, index in measured:
            if not groups or not value <= limit:
                groups.append([])
                limit = value + self._tolerance * abs(value)
            groups[-1].append(candidates[index])
        return self._in_groups(groups, request)


class Shadow(_Around):
    """Orders by ``main``, and asks ``candidate`` whom it would have taken: a strategy on trial, at no risk.

    ``on_difference(chosen, other, request)`` is called where the first choices differ; ``asked`` and ``differed``
    count. Whatever the one on trial or the function raises is logged. The one on trial has a chance of its own, so that
    the router's run stays what it is without; it sees the load that ``main`` makes.
    """

    name = "shadow"

    def __init__(
        self, main: StrategyLike, candidate: StrategyLike, on_difference: OnDifference | None = None
    ) -> None:
        super().__init__(main)
        self.candidate = resolve(candidate)
        self.asked = 0
        self.differed = 0
        self._on_difference = on_difference

    @property
    def random(self) -> Random:
        """The router's source of chance."""
        return self._random

    @random.setter
    def random(self, random: Random) -> None:
        self._random = self.within.random = random
        own = new_random(0)
        own.setstate(random.getstate())
        self.candidate.random = own

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        chosen = None
        for view in self.within.order(candidates, request):
            if chosen is None:
                chosen = view
                self._compare(chosen, candidates, request)
            yield view

    def _compare(self, chosen: CandidateView, candidates: Sequence[CandidateView], request: Request) -> None:
        self.asked += 1
        try:
            other = next(iter(self.candidate.order(candidates, request)), candidates[0])
            if other is not chosen:
                self.differed += 1
                if self._on_difference is not None:
                    self._on_difference(chosen, other, request)
        except Exception:  # noqa: BLE001  # a strategy on trial, and a function of the user's
            _log.exception("strategy %s on trial failed", self.candidate.name)
