"""Best available: health, then speed, and no herd."""

from __future__ import annotations

import asyncio

from orchestrator.core.clock import now
from orchestrator.core.types import Usage
from orchestrator.strategies import BestAvailable
from unit.strategies.views import burst, firsts, order, seeded, view


def with_past(name, pace, answers, failures, in_flight=0):
    """The failures first, so that no penalty is left."""
    made = view(name, pace, in_flight)
    for _ in range(failures):
        made.failed(now() - 0.001, None)
    for _ in range(answers):
        made.answered(now(), 0.0005, None, 0)
    made.pace, made.penalty = pace, 0.0
    return made


async def test_the_healthy_go_before_the_faster():
    shaky, sound = with_past("x", 0.01, 80, 20), with_past("s", 0.02, 100, 0)
    assert order(BestAvailable(), shaky, sound) == "sx"


async def test_of_the_healthy_the_fastest_goes_first_and_a_small_difference_is_none():
    slow, fast = with_past("s", 0.02, 100, 0), with_past("f", 0.01, 98, 2)
    shaky = with_past("x", 0.005, 50, 50)
    assert order(BestAvailable(), slow, fast, shaky) == "fsx"
    assert order(BestAvailable(tolerance=0.001, spill=99), slow, fast, shaky)[0] == "s"


async def test_health_is_forgotten_within_minutes():
    shaky, sound = with_past("x", 0.01, 80, 20), with_past("s", 0.02, 100, 0)
    await asyncio.sleep(600)
    assert order(BestAvailable(), shaky, sound) == "xs"


async def test_one_failure_in_one_call_is_no_proof_but_counts():
    once, often = view("o"), view("f")
    once.failed(now(), None)
    for _ in range(9):
        often.failed(now(), None)
    assert once.success_share(now()) == 0.5
    assert round(often.success_share(now()), 3) == 0.1


async def test_a_burst_is_not_sent_to_one():
    counts = burst(seeded(BestAvailable()), [view("a", 0.01), view("b", 0.011), view("c", 0.012)], 90)
    assert min(counts.values()) >= 20


async def test_when_the_healthy_queue_is_long_the_others_help():
    shaky, sound = with_past("x", 0.01, 80, 20), with_past("s", 0.01, 100, 0, in_flight=3)
    assert order(BestAvailable(), shaky, sound) == "sx"
    sound.in_flight = 9
    assert order(BestAvailable(), shaky, sound) == "xs"


async def test_a_failing_one_is_no_refuge_from_a_queue():
    failing, busy = with_past("f", 0.01, 50, 50), with_past("b", 0.01, 100, 0, in_flight=50)
    failing.failed(now(), None)
    assert order(BestAvailable(), failing, busy) == "bf"


async def test_who_was_slow_is_tried_again_now_and_then():
    slow, fast = view("s", 0.1), view("f", 0.01)
    await asyncio.sleep(11)
    fast.answered(now(), 1.0, Usage(0, 50), 0)
    assert "s" in firsts(seeded(BestAvailable()), [slow, fast], 2000)
