"""A listener that keeps a router's history: to look things up in, to print, and to check that it is consistent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from orchestrator.core.events import (
    AttemptEnded,
    AttemptOpened,
    AttemptStarted,
    BreakerChanged,
    Event,
    FailedOver,
    Hedged,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    Recovering,
    RequestEnded,
    RequestStarted,
    RetryScheduled,
    Waiting,
)
from orchestrator.core.types import Attempt

__all__ = ["Recorder"]

E = TypeVar("E")
_Step = (
    AttemptStarted | AttemptOpened | AttemptEnded | RetryScheduled | FailedOver | Hedged | Waiting | Recovering
    | RequestEnded
)


class Recorder:
    """``Router(..., listeners=[recorder])``: the events of one router, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Take the next event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def requests(self) -> list[RequestEnded]:
        """How each request ended."""
        return self.of(RequestEnded)

    @property
    def attempts(self) -> list[Attempt]:
        """Every call upstream that ended."""
        return [event.attempt for event in self.of(AttemptEnded)]

    def clear(self) -> None:
        """Forget everything; do it while no request is under way."""
        self.events.clear()

    def text(self) -> str:
        """One line per event, with the seconds since the first one: the same for the same run."""
        return "\n".join(self._lines())

    def check_invariants(self) -> None:
        """``AssertionError`` with all contradictions in the history of a router that has come to rest.

        Each request and each attempt begins once and ends once; attempts are numbered from 1 and begin while their
        request is under way; its end lists them all and says one thing; neither time nor a breaker leaps.
        """
        audit = _Audit()
        for event in self.events:
            audit.read(event)
        problems = audit.close()
        if problems:
            raise AssertionError("\n".join([*problems, "in the history:", self.text()]))

    def _lines(self) -> Iterator[str]:
        times = [event.at for event in self.events if not isinstance(event, ProviderAdded | ProviderRemoved)]
        for event in self.events:
            at = getattr(event, "at", None)
            when = " " * 10 if at is None else f"{at - times[0]:10.3f}"
            yield f"{when} {_LINES[type(event)](event)}"


def _name(error: BaseException | None) -> str:
    return "" if error is None else f" {type(error).__name__}"


_LINES: dict[type, Callable[[Any], str]] = {
    RequestStarted: lambda e: f"request {e.request} starts: {e.strategy}, {'stream' if e.stream else 'plain'}",
    AttemptStarted: lambda e: f"request {e.request} attempt {e.number} at {e.provider} starts",
    AttemptOpened: lambda e: f"request {e.request} attempt {e.number} at {e.provider} has its first token",
    AttemptEnded: lambda e: (
        f"request {e.request} attempt {e.attempt.number} at {e.attempt.provider} ends: "
        f"{e.outcome}{_name(e.attempt.error)} after {e.attempt.duration:.3f} s"
    ),
    RetryScheduled: lambda e: f"request {e.request} tries {e.provider} again in {e.delay:.3f} s:{_name(e.error)}",
    FailedOver: lambda e: f"request {e.request} gives {e.provider} up:{_name(e.error)}",
    Hedged: lambda e: f"request {e.request} asks {e.provider} too after {e.delay:.3f} s",
    Waiting: lambda e: f"request {e.request} waits {e.delay:.3f} s for a provider",
    Recovering: lambda e: (
        f"request {e.request} recovers ({e.mode}) from {e.provider} after {e.received} characters:{_name(e.error)}"
    ),
    RequestEnded: lambda e: (
        f"request {e.request} ends: {e.outcome}{_name(e.error)} after {e.duration:.3f} s, attempts: {len(e.attempts)}"
    ),
    BreakerChanged: lambda e: f"breaker of {e.provider}: {e.old} -> {e.new}, {e.reason}",
    ProviderPaused: lambda e: f"{e.provider} pauses for {e.delay:.3f} s",
    ProviderAdded: lambda e: f"{e.provider} is added",
    ProviderRemoved: lambda e: f"{e.provider} is removed",
}


class _History:
    """What is known of one request while its events are read."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.running: set[int] = set()
        self.last = 0.0
        self.ended = False


class _Audit:
    """Reads events in order and notes what contradicts those before."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._requests: dict[int, _History] = {}
        self._breakers: dict[str, str] = {}

    def read(self, event: Event) -> None:
        if isinstance(event, RequestStarted):
            self._expect(event.request not in self._requests, f"request {event.request} starts twice")
            self._requests[event.request] = _History()
            self._requests[event.request].last = event.at
        elif isinstance(event, BreakerChanged):
            known = self._breakers.get(event.provider, event.old)
            leap = f"the breaker of {event.provider} goes from {event.old} to {event.new}, but was {known}"
            self._expect(event.old == known != event.new, leap)
            self._breakers[event.provider] = event.new
        elif not isinstance(event, ProviderAdded | ProviderRemoved | ProviderPaused):
            history = self._requests.get(event.request)
            if history is None or history.ended:
                self.problems.append(f"{_LINES[type(event)](event)}: the request is not under way")
            else:
                self._read_step(event, history)

    def close(self) -> list[str]:
        for request, history in self._requests.items():
            self._expect(history.ended, f"request {request} never ends")
        return self.problems

    def _read_step(self, event: _Step, history: _History) -> None:
        line = _LINES[type(event)](event)
        self._expect(event.at >= history.last, f"{line}: earlier than the event before it")
        history.last = event.at
        if isinstance(event, AttemptStarted):
            history.started.append(event.number)
            history.running.add(event.number)
            self._expect(history.started[-1] == len(history.started), f"{line}: not the next number")
        elif isinstance(event, AttemptOpened):
            self._expect(event.number in history.running, f"{line}: the attempt is not under way")
        elif isinstance(event, AttemptEnded):
            self._expect(event.attempt.number in history.running, f"{line}: the attempt is not under way")
            history.running.discard(event.attempt.number)
        elif isinstance(event, RequestEnded):
            history.ended = True
            self._expect(not history.running, f"{line}: attempts {sorted(history.running)} are still under way")
            listed = sorted(attempt.number for attempt in event.attempts)
            self._expect(listed == history.started, f"{line}: it lists attempts {listed}, not {history.started}")
            answered, failed = event.completion is not None, event.error is not None
            said = {"answer": answered and not failed, "error": failed, "cancelled": True}[event.outcome]
            self._expect(said, f"{line}: the event holds something else")

    def _expect(self, good: bool, problem: str) -> None:  # noqa: FBT001  # read as an assertion
        if not good:
            self.problems.append(problem)
