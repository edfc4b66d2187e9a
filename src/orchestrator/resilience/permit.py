"""What a breaker hands out for a call, and what it has counted of those that ended."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Counts", "Permit"]


class Permit:
    """The right to make one call, begun at ``started`` (clock seconds); goes back to the breaker exactly once.

    The ``generation`` changes with every transition: the end of a call with an old one is counted, never judged.
    """

    __slots__ = ("generation", "lease", "probe", "released", "started")

    def __init__(self, generation: int, started: float) -> None:
        self.generation = generation
        self.started = started
        self.probe = False
        self.released = False
        self.lease: object = None  # what whoever took the permit took along with it


class Counts(NamedTuple):
    """Calls that ended within the window and in the present state; ``late`` ones began before it."""

    calls: int
    failures: int
    slow: int
    late: int
