"""The connections of one engine: those in use, and the idle ones by origin. Everything is O(1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from orchestrator.core.clock import now

__all__ = ["KEEP_ALIVE", "MOST_IDLE", "Connections", "Reusable"]

# Of one provider, as httpx has it.
KEEP_ALIVE = 5.0  # seconds without use
MOST_IDLE = 100


class Reusable(Protocol):
    """A connection that carries one exchange at a time."""

    expires: float
    """Loop time until which it may stay unused."""

    @property
    def origin(self) -> Hashable:
        """What it leads to."""

    def end(self) -> bool:
        """The end of an exchange: whether another one may follow."""

    def is_usable(self, at: float) -> bool:
        """Whether it is still good after it was idle."""

    def abort(self) -> None:
        """Close it now."""


C = TypeVar("C", bound=Reusable)


class Connections(Generic[C]):
    """``take`` or make one, ``use`` it, then ``end`` the exchange, or ``drop`` what was cut off in the middle."""

    def __init__(self) -> None:
        self.closed = False
        self.idle_count = 0
        self.in_use: set[C] = set()
        self._idle: dict[Hashable, deque[C]] = {}  # the one that was used last is at the end

    def take(self, origin: Hashable) -> C | None:
        """The idle one that was used last, if one is good."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self.idle_count -= 1
            if connection.is_usable(now()):
                return connection
            connection.abort()
        return None

    def use(self, connection: C) -> None:
        """An exchange begins on it."""
        self.in_use.add(connection)

    def drop(self, connection: C) -> None:
        """Close it: nobody knows what would come next on it."""
        self.in_use.discard(connection)
        connection.abort()

    def end(self, connection: C) -> None:
        """The end of an exchange: the connection is kept for another one, or closed."""
        if self.closed or not connection.end():
            self.drop(connection)
            return
        self.in_use.discard(connection)
        at = now()
        idle = self._idle.setdefault(connection.origin, deque())
        while idle and (idle[0].expires <= at or self.idle_count >= MOST_IDLE):
            idle.popleft().abort()
            self.idle_count -= 1
        if self.idle_count >= MOST_IDLE:  # of other origins
            connection.abort()
            return
        connection.expires = at + KEEP_ALIVE
        idle.append(connection)
        self.idle_count += 1

    def close(self) -> None:
        """Close them all; those that are still to come are not kept."""
        self.closed = True
        for connections in (*self._idle.values(), self.in_use):
            for connection in connections:
                connection.abort()
        self._idle.clear()
        self.in_use.clear()
        self.idle_count = 0

    @property
    def idle(self) -> list[C]:
        """Those that carry nothing now."""
        return [connection for connections in self._idle.values() for connection in connections]
