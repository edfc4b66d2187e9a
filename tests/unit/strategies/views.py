"""Candidates with a past, and who goes first: what the tests of strategies share."""

from __future__ import annotations

from collections import Counter

from orchestrator.core.clock import new_random, now
from orchestrator.core.stats import CandidateView
from orchestrator.core.types import Request, Usage

ASKED = Request("?")


def view(name, pace=None, in_flight=0, *, load=1.0, price=None, **config):
    """With one answer of 50 tokens at that pace, given at that load; price of input and output."""
    made = CandidateView(name, **config)
    if pace is not None:
        made.answered(now(), pace * 100, Usage(0, 50), 0, load)
    made.in_flight = in_flight
    made.input_price = made.output_price = price
    return made


def seeded(strategy):
    strategy.random = new_random(1)
    return strategy


def order(strategy, *candidates, request=ASKED):
    return "".join(candidate.name for candidate in strategy.order(candidates, request))


def firsts(strategy, candidates, count):
    return "".join(next(strategy.order(candidates, ASKED)).name for _ in range(count))


def burst(strategy, candidates, count):
    """Who gets how many of a burst: no call ends before the last one has begun."""
    asked = Counter()
    for _ in range(count):
        first = next(strategy.order(candidates, ASKED))
        first.in_flight += 1
        asked[first.name] += 1
    return asked
