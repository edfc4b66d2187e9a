"""Who waits, and for which providers: by priority, then by arrival, at most so many. No clock, no loop, no await.

The rank of a ticket is that of its *request*: one that failed elsewhere after a minute is ahead of those that came
since. A ticket keeps its place while its owner is woken, looks and waits again. Sorted lists, not heaps: to move a list
of a thousand by one takes less than a microsecond, and who leaves leaves nothing behind.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter
from typing import Generic, TypeVar

__all__ = ["FairQueue", "Rank", "Ticket"]

Rank = tuple[int, int]  # priority and number of a request; the smaller is served first
T = TypeVar("T", bound="Ticket")
_rank = attrgetter("rank")


class Ticket:
    """The place of one request. ``names`` are the providers it waits for, none while it is not in the queue."""

    __slots__ = ("names", "rank")

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.names: tuple[str, ...] = ()


class FairQueue(Generic[T]):
    """Tickets in order, as a whole and for each provider; never more than ``size``."""

    __slots__ = ("_claims", "size", "tickets")

    def __init__(self, size: int) -> None:
        self.size = size
        self.tickets: list[T] = []  # always this list: its truth value is asked for on every call
        self._claims: dict[str, list[T]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The providers somebody waits for."""
        return tuple(self._claims)

    def put(self, ticket: T, names: tuple[str, ...]) -> T | None:
        """Take it in, or let it keep its place with other ``names`` (at least one).

        Returns the one there is no room for, which is then not in the queue: the last in order of all, be it the
        newcomer or the youngest of the least important. So nobody is sent away for somebody less entitled.
        """
        if ticket.names == names:
            return None
        last = None
        if ticket.names:
            self._unclaim(ticket)
        else:
            if len(self.tickets) >= self.size:
                last = self.tickets[-1] if self.tickets else ticket
                if last.rank <= ticket.rank:
                    return ticket
                self.remove(last)
            insort(self.tickets, ticket, key=_rank)
        ticket.names = names
        for name in names:
            insort(self._claims.setdefault(name, []), ticket, key=_rank)
        return last

    def remove(self, ticket: T) -> tuple[str, ...]:
        """Take it out; returns what it claimed. Once more does no harm."""
        names = ticket.names
        if names:
            _discard(self.tickets, ticket)
            self._unclaim(ticket)
        return names

    def claims(self, name: str) -> Sequence[T]:
        """Those who wait for that provider, among others; who is to be served first comes first."""
        return self._claims.get(name, ())

    def length(self, name: str) -> int:
        """How many wait for that provider, among others."""
        return len(self._claims.get(name, ()))

    def position(self, ticket: T) -> int:
        """Its place, from 1."""
        return bisect_left(self.tickets, ticket.rank, key=_rank) + 1

    def _unclaim(self, ticket: T) -> None:
        for name in ticket.names:
            claims = self._claims[name]
            _discard(claims, ticket)
            if not claims:
                del self._claims[name]
        ticket.names = ()


def _discard(tickets: list[T], ticket: T) -> None:
    at = bisect_left(tickets, ticket.rank, key=_rank)
    while tickets[at] is not ticket:  # of equal rank
        at += 1
    del tickets[at]
