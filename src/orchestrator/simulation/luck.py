"""Chance that does not depend on who asks first: every draw is a function of the seed, the request and the provider.

Strategies are compared on common random numbers: request 17 meets the same luck at provider B whichever strategy sends
it there, and whatever was sent elsewhere before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import exp
from statistics import NormalDist

__all__ = ["LEVELS", "STEP", "log_normal", "mixed", "uniform", "uniforms"]

_MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the increment of splitmix64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

LEVELS = 4096  # of a table of quantiles: the highest is the 99.99th percentile


@cache
def log_normal(median: float, sigma: float) -> Sequence[float]:
    """The middles of ``LEVELS`` equally likely parts of a log-normal distribution, ascending: a draw is a look-up."""
    inverse = NormalDist().inv_cdf
    return [median * exp(sigma * inverse((level + 0.5) / LEVELS)) for level in range(LEVELS)]


def mixed(state: int) -> int:
    """64 bits that look random for whatever integer (the output function of splitmix64, Steele et al. 2014)."""
    state = (state + STEP) & _MASK
    state = ((state ^ (state >> 30)) * _FIRST) & _MASK
    state = ((state ^ (state >> 27)) * _SECOND) & _MASK
    return state ^ (state >> 31)


def uniform(bits: int) -> float:
    """The first of ``uniforms``."""
    return ((bits >> 40) + 0.5) / 16777216.0


def uniforms(bits: int) -> tuple[float, float, float]:
    """Three numbers above 0 and below 1 out of 64 bits: steps of 2**-24, 2**-16 and 2**-24."""
    return (
        ((bits >> 40) + 0.5) / 16777216.0,
        (((bits >> 24) & 0xFFFF) + 0.5) / 65536.0,
        ((bits & 0xFFFFFF) + 0.5) / 16777216.0,
    )
