"""The demo's scoreboard: a listener that counts what the router's events tell, and notes what is worth telling."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.core.events import AttemptEnded, BreakerChanged, Event, FailedOver, RequestEnded, RequestStarted

__all__ = ["SLOTS", "Board", "Note"]

SLOTS = 14  # columns of the traffic chart


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling, ``at`` seconds after the start."""

    at: float
    kind: Literal["bad", "good", "plain"]
    text: str


class Board:
    """Totals, the traffic of each provider over the run, and the notes; times in seconds since ``started``."""

    def __init__(self, names: Iterable[str], *, started: float, length: float) -> None:
        self.requests = 0
        self.answered = 0
        self.errors = 0
        self.failovers = 0
        self.down: set[str] = set()
        self.notes: list[Note] = []
        self.charts = {name: [0] * SLOTS for name in names}
        self._started = started
        self._length = length
        self._failing: set[str] = set()
        self._recent: deque[tuple[float, str]] = deque()
        self._window = min(2.0, length / 10)
        self._last_answer = 0.0
        self._longest_gap = 0.0

    def __call__(self, event: Event) -> None:
        """Take an event of the router."""
        match event:
            case RequestStarted():
                self.requests += 1
            case RequestEnded(outcome="answer"):
                self.answered += 1
                self._longest_gap = self.longest_gap(event.at)
                self._last_answer = event.at - self._started
            case RequestEnded(outcome="error"):
                self.errors += 1
                self.note(event.at, "bad", f"a request failed: {event.error}")
            case AttemptEnded(outcome="answer"):
                self._count(event.at, event.attempt.provider)
            case AttemptEnded(outcome="error"):
                self._failed(event)
            case FailedOver():
                self.failovers += 1
            case BreakerChanged():
                self._breaker(event)

    def note(self, at: float, kind: Literal["bad", "good", "plain"], text: str) -> None:
        """Write down what happened at loop time ``at``."""
        self.notes.append(Note(at - self._started, kind, text))

    def elapsed(self, at: float) -> float:
        """Seconds since the start."""
        return at - self._started

    def slots_done(self, at: float) -> int:
        """The columns of the chart that nothing can be added to any more."""
        return min(int(self.elapsed(at) / self._length * SLOTS), SLOTS)

    def shares(self, at: float) -> dict[str, float]:
        """Each provider's share of the answers of the last seconds."""
        recent = self._recent
        while recent and recent[0][0] < at - self._window:
            recent.popleft()
        names = [name for _, name in recent]
        return {name: names.count(name) / len(names) if names else 0.0 for name in self.charts}

    def longest_gap(self, at: float) -> float:
        """The longest time without any answer."""
        return max(self._longest_gap, self.elapsed(at) - self._last_answer)

    def summary(self) -> str:
        """The run in one line."""
        return (
            f"{self.requests} requests · {self.answered} answered · {self.errors} errors · {self.failovers} failovers"
            f" · longest time without an answer {self._longest_gap:.2f} s"
        )

    def _count(self, at: float, name: str) -> None:
        self.charts[name][min(self.slots_done(at), SLOTS - 1)] += 1
        self._recent.append((at, name))

    def _failed(self, event: AttemptEnded) -> None:
        name = event.attempt.provider
        if name not in self._failing:
            self._failing.add(name)
            error = type(event.attempt.error).__name__
            self.note(event.at, "bad", f"{name}: {error}, the request is retried and then fails over")

    def _breaker(self, event: BreakerChanged) -> None:
        name, left = event.provider, event.retry_after or 0.0
        if event.new == "closed":
            self._failing.discard(name)
        match event.old, event.new:
            case "half-open", "open":
                self.note(event.at, "bad", f"{name}: {event.reason}, its breaker stays open for another {left:.1f} s")
            case _, "open":
                self.note(event.at, "bad", f"{name}: its breaker opens for {left:.1f} s ({event.reason})")
            case _, "half-open":
                self.note(event.at, "plain", f"{name}: {event.reason}, one request probes it")
            case _, "ramp":
                self.note(event.at, "good", f"{name}: {event.reason}, its traffic is ramped up")
            case _:
                self.note(event.at, "good", f"{name}: {event.reason}, its breaker is {event.new}")
