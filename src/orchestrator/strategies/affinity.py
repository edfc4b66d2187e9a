"""The same conversation to the same provider, whose prompt cache knows it; elsewhere when that one is overloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import inf, log
from zlib import crc32

from orchestrator.core.clock import now
from orchestrator.core.stats import UNMEASURED, CandidateView
from orchestrator.core.types import Message, Request
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.shortlist import COMPARED

__all__ = ["Affinity"]

PREFIX = 512  # characters
BOUND = 8.0  # calls in flight above the mean (AIBrix: prefix-cache)
SLOWER = 4.0  # times the pace of the fastest
QUICK = 0.001  # seconds per token; nobody minds who is faster than that
FRESH = 10.0  # seconds a pace is held against an idle provider
REMEMBERED = 1000  # names; far above any pool, so only names that left for good are forgotten
HOMES = 10_000  # keys whose provider is remembered, in a megabyte
_BITS = (1 << 64) - 1
_STEPS = 2.0**53  # of a float


class Affinity(RoutingStrategy):
    """By rendezvous hashing (Thaler and Ravishankar 1998) of the session, or of how the prompt begins; by weight.

    What is hashed: ``Request.session``; without one, the first ``prefix`` characters of the system message, the names
    of the tools, and the first ``prefix`` characters of the first other message. Every provider draws ``-ln(u) /
    weight`` with ``u`` in (0, 1) from the hash of key and name, and the least goes first (weighted rendezvous:
    Schindelhauer and Schomaker 2005). So each gets keys by its weight, one that leaves moves only its own keys, and all
    processes agree.

    A provider is passed over while its calls in flight, by weight, exceed the mean by ``bound``, or its
    expected pace (which a failure's penalty raises) is ``slower`` times that of the fastest; then the key goes to the
    next of its own order, the same for every turn. When all are passed over: to the least loaded.
    """

    name = "affinity"

    def __init__(self, *, prefix: int = PREFIX, bound: float = BOUND, slower: float = SLOWER) -> None:
        self._prefix = prefix
        self._bound = bound
        self._slower = slower
        self._seeds: dict[str, int] = {}
        self._candidates: Sequence[CandidateView] | None = None  # the list that the next ones were made of
        self._homes: dict[int, CandidateView] = {}
        self._bounds = 0.0, 0.0
        self._until_next = 0  # decisions

    def order(self, candidates: Sequence[CandidateView], request: Request) -> Iterator[CandidateView]:
        """See :class:`RoutingStrategy`."""
        if not candidates:
            return
        key = _key(request, self._prefix)
        first = self._home(candidates, key)
        most, slowest = self._lately(candidates)
        at = now()
        if _passed_over(first, most, slowest, at):
            ranked = self._ranked(candidates, key)
            first = next((view for view in ranked if not _passed_over(view, most, slowest, at)), None) or min(
                ranked, key=_load
            )
        yield first
        # Only now, if ever: until the first one failed, the others' load and pace have changed.
        (most, slowest), at = self._look(candidates), now()
        rest = [view for view in self._ranked(candidates, key) if view is not first]
        yield from sorted(rest, key=lambda view: _passed_over(view, most, slowest, at))

    def _home(self, candidates: Sequence[CandidateView], key: int) -> CandidateView:
        """Whose draw is the least; remembered, or each turn of a conversation would cost a hash per candidate."""
        # The pool hands over the same list until something changes, a weight included.
        if candidates is not self._candidates or len(self._homes) > HOMES:
            self._candidates, self._until_next = candidates, 0
            self._homes.clear()
        home = self._homes.get(key)
        if home is None:
            draws = self._draws(candidates, key)
            home = self._homes[key] = candidates[draws.index(min(draws))]
        return home

    def _ranked(self, candidates: Sequence[CandidateView], key: int) -> list[CandidateView]:
        draws = self._draws(candidates, key)
        return [view for _, _, view in sorted(zip(draws, range(len(draws)), candidates, strict=True))]

    def _draws(self, views: Sequence[CandidateView], key: int) -> list[float]:
        """Of each, ``-ln(u) / weight``, with ``u`` in (0, 1) from the hash of key and name."""
        seeds = self._seeds
        if len(seeds) > REMEMBERED:
            seeds.clear()
        draws = []
        for view in views:
            name = view.name
            seed = seeds.get(name)
            if seed is None:
                digest = blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()
                seed = seeds[name] = int.from_bytes(digest, "little")
            # Mixed by the finaliser of MurmurHash3: a plain xor would rank the providers alike for half of all keys.
            bits = key ^ seed
            bits = (bits ^ (bits >> 33)) * 0xFF51AFD7ED558CCD & _BITS
            bits = (bits ^ (bits >> 33)) * 0xC4CEB9FE1A85EC53 & _BITS
            draws.append(-log((((bits ^ (bits >> 33)) >> 11) + 0.5) / _STEPS) / view.weight)
        return draws

    def _lately(self, candidates: Sequence[CandidateView]) -> tuple[float, float]:
        """The bounds; with many candidates those of a few decisions ago, which are hardly others."""
        self._until_next -= 1
        if self._until_next <= 0:
            self._until_next = len(candidates) // COMPARED
            self._bounds = self._look(candidates)
        return self._bounds

    def _look(self, views: Sequence[CandidateView]) -> tuple[float, float]:
        """The load and the pace above which one is passed over, at this moment."""
        total, fastest = 0.0, inf
        for view in views:
            total += view.in_flight / view.weight
            pace = view.pace
            if pace is not None and pace < fastest:
                fastest = pace
        fastest = UNMEASURED if fastest == inf else max(fastest, QUICK)
        return total / len(views) + self._bound, self._slower * fastest


def _passed_over(view: CandidateView, most: float, slowest: float, at: float) -> bool:
    load, pace = view.in_flight, view.pace
    if load / view.weight > most:
        return True
    return (view.penalty > 0.0 or (pace is not None and pace > slowest)) and _too_slow(view, load, slowest, at)


def _too_slow(view: CandidateView, load: float, slowest: float, at: float) -> bool:
    # An idle one of which nothing was heard for a while gets one call, to see whether it has recovered.
    known = load > 0.0 or at - max(view.sampled_at, view.penalised_at) < FRESH
    return known and view.expected_pace(at) > slowest


def _load(view: CandidateView) -> float:
    return (view.in_flight + 1) / view.weight


def _key(request: Request, prefix: int) -> int:
    """32 bits will do: two conversations with one key merely share their order."""
    if request.session:
        text = "\0" + request.session
    elif request.prompt is not None and not request.tools:
        text = request.prompt[:prefix]
    else:
        parts = [tool.name for tool in request.tools]
        for message in request.messages:
            parts.append(_beginning(message, prefix))
            if message.role != "system":
                break  # what comes later grows from turn to turn
        text = "\0".join(parts)
    return crc32(text.encode("utf-8", "replace"))


def _beginning(message: Message, length: int) -> str:
    content = message.content
    return (content if isinstance(content, str) else message.text)[:length]
