"""Time and chance, the only two things a resilience library must be able to fake.

Every wait and every measurement reads the running loop's clock (monotonic seconds), every draw comes from one
``random.Random``; so the whole router runs unchanged, and repeatably, on a virtual-time loop.
"""

from __future__ import annotations

from asyncio import get_running_loop
from random import Random
from time import monotonic, time

__all__ = ["Random", "new_random", "now", "wall_clock"]


def now() -> float:
    """Seconds on the running loop's monotonic clock; the origin means nothing.

    Where no loop runs (a snapshot looked at afterwards) the clock that asyncio's own loops read.
    """
    try:
        return get_running_loop().time()
    except RuntimeError:
        return monotonic()


def new_random(seed: int | None = None) -> Random:
    """The one source of chance of a router; a seed makes its run repeatable."""
    return Random(seed)


def wall_clock() -> float:
    """Seconds of Unix time, only to read a date that a provider sent; nothing is measured with it."""
    return time()
