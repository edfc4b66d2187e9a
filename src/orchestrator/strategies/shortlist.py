"""Whom a decision compares: everybody of a few, some of many; so that it costs as much for a hundred as for a dozen."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.stats import CandidateView

__all__ = ["ALL", "COMPARED", "Shortlist", "others"]

ALL = 12  # candidates: of up to so many all are compared
COMPARED = 8  # of more
LAST = 2  # of these, who were chosen last


class Shortlist:
    """Of up to ``ALL`` candidates everybody; of more ``compared``, the ``last`` chosen and those next in turn.

    The power of some choices, with memory (Mitzenmacher, Prabhakar and Shah 2002): by its turn alone the fastest of a
    hundred would be compared in one decision of twelve; remembered, it is asked as long as it is the best. Taken in
    turn instead of drawn, all are looked at equally often, and nothing is left to chance.
    """

    __slots__ = ("_candidates", "_chosen", "_compared", "_last", "_next")

    def __init__(self, compared: int = COMPARED, last: int = LAST) -> None:
        self._compared = compared
        self._last = last
        self._next = 0  # whose turn it is
        self._candidates: Sequence[CandidateView] = ()
        self._chosen: list[CandidateView] = []

    def of(self, candidates: Sequence[CandidateView]) -> Sequence[CandidateView]:
        """Whom the next decision compares; the candidates themselves where that is everybody."""
        count = len(candidates)
        if count <= ALL:
            return candidates
        if candidates is not self._candidates:  # the pool hands over the same list until something changes
            self._candidates = candidates
            self._chosen = [view for view in self._chosen if view in candidates]
        begin = self._next % count
        self._next = end = begin + self._compared - len(self._chosen)
        in_turn = candidates[begin:end] if end <= count else (*candidates[begin:], *candidates[: end - count])
        return [*dict.fromkeys((*self._chosen, *in_turn))]

    def chose(self, first: CandidateView) -> None:
        """That one was the best of those compared."""
        chosen = self._chosen
        if first in chosen:
            chosen.remove(first)
        elif len(chosen) == self._last:
            del chosen[0]
        chosen.append(first)


def others(
    first: CandidateView, views: Sequence[CandidateView], candidates: Sequence[CandidateView]
) -> list[CandidateView]:
    """All candidates but the first: those compared in their order, then the rest."""
    everybody = views if len(views) == len(candidates) else dict.fromkeys((*views, *candidates))
    return [view for view in everybody if view is not first]
