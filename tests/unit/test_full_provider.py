"""A provider that says 503 or 529 to some, while it answers others, is full: what that means for the next ones."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import OverloadedError
from orchestrator.core.events import ProviderPaused, RetryScheduled
from orchestrator.providers.mock import Fail
from support import first_available, mock

FULL = Fail(OverloadedError("x"))


def told(events, kind):
    return [event for event in events if isinstance(event, kind)]


def names(answer):
    return [attempt.provider for attempt in answer.attempts]


async def test_a_single_overload_is_retried_in_place_and_pauses_nobody():
    events = []
    router = first_available(mock("a", "1", FULL, "2", FULL, "3"), mock("b"), listeners=[events.append])
    for text in "123":
        assert await router.route("x") == text
    assert len(told(events, RetryScheduled)) == 2
    assert told(events, ProviderPaused) == []


async def test_the_next_one_pauses_it_and_another_is_asked_at_once():
    events = []
    router = first_available(mock("a", "1", FULL, FULL, "2"), mock("b"), listeners=[events.append])
    await router.route("x")
    answer = await router.complete("x")
    assert names(answer) == ["a", "a", "b"]
    pause, = told(events, ProviderPaused)
    assert 0.5 <= pause.delay <= 1.0
    assert len(told(events, RetryScheduled)) == 1
    assert names(await router.complete("x")) == ["b"]
    await asyncio.sleep(1)
    assert await router.route("x") == "2"


async def test_alone_it_is_asked_again_after_the_pause_within_its_retries():
    router = first_available(mock("a", "1", FULL, FULL, "2"))
    await router.route("x")
    begun = asyncio.get_running_loop().time()
    answer = await router.complete("x")
    assert (answer.text, len(answer.attempts)) == ("2", 3)
    assert 0.5 <= asyncio.get_running_loop().time() - begun <= 1.21
    router = first_available(mock("a", "1", *[FULL] * 3))
    await router.route("x")
    with pytest.raises(OverloadedError) as caught:
        await router.route("x")
    assert len(caught.value.attempts) == 3


async def test_one_that_has_answered_nobody_lately_is_down_and_retried_as_ever():
    events = []
    router = first_available(mock("a", "1", *[FULL] * 3, "2"), mock("b"), listeners=[events.append])
    await router.route("x")
    await asyncio.sleep(12.1)  # two tenths of the breaker's window
    assert names(await router.complete("x")) == ["a", "a", "a", "b"]
    assert told(events, ProviderPaused) == []
    assert await router.route("x") == "2"


async def test_its_own_word_on_when_to_come_back_counts():
    events = []
    hinted = Fail(OverloadedError("x", retry_after=7))
    router = first_available(mock("a", "1", hinted, hinted), mock("b"), listeners=[events.append])
    for _ in range(2):
        await router.route("x")
    assert [pause.delay for pause in told(events, ProviderPaused)] == [7]
