"""Frozen records of what happened, handed to listeners. Times are seconds; ``at`` is on the loop's clock.

One ``RequestEnded`` per request and one ``AttemptEnded`` per attempt, whatever happened. No record holds a key; the
request and the answer are there for those who ask, hidden from ``repr``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Literal

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.record import record
from orchestrator.core.types import Attempt, Completion, Request

__all__ = [
    "AttemptEnded",
    "AttemptOpened",
    "AttemptStarted",
    "BreakerChanged",
    "BreakerState",
    "Event",
    "FailedOver",
    "Hedged",
    "Listener",
    "Outcome",
    "ProviderAdded",
    "ProviderPaused",
    "ProviderRemoved",
    "Recovering",
    "RequestEnded",
    "RequestStarted",
    "RetryScheduled",
    "Waiting",
]

BreakerState = Literal["closed", "open", "half-open", "ramp", "isolated", "disabled"]
Outcome = Literal["answer", "error", "cancelled"]


@record(frozen=True, slots=True)
class RequestStarted:
    """A caller called the router."""

    at: float
    request: int
    strategy: str
    stream: bool
    asked: Request = field(repr=False)


@record(frozen=True, slots=True)
class AttemptStarted:
    """A call upstream begins; ``number`` counts from 1 within the request. ``hedge``: while an earlier one goes on."""

    at: float
    request: int
    number: int
    provider: str
    model: str | None
    hedge: bool = False


@record(frozen=True, slots=True)
class AttemptOpened:
    """The first piece of a stream is there; from here on the request stays with this provider, unless it breaks."""

    at: float
    request: int
    number: int
    provider: str
    time_to_first_token: float


@record(frozen=True, slots=True)
class AttemptEnded:
    """A call upstream ended; ``cancelled`` also when the caller stopped reading, or another attempt was faster."""

    at: float
    request: int
    outcome: Outcome
    attempt: Attempt
    completion: Completion | None = field(default=None, repr=False)


@record(frozen=True, slots=True)
class RetryScheduled:
    """The same provider is asked again after ``delay``."""

    at: float
    request: int
    provider: str
    delay: float
    error: OrchestratorError


@record(frozen=True, slots=True)
class FailedOver:
    """A provider was given up for this request."""

    at: float
    request: int
    provider: str
    error: OrchestratorError


@record(frozen=True, slots=True)
class Hedged:
    """No answer ``delay`` seconds after the call: ``provider`` is asked too, and the first to answer wins."""

    at: float
    request: int
    provider: str
    delay: float


@record(frozen=True, slots=True)
class Waiting:
    """No provider is available now; the request waits at most ``delay`` for the first to come back.

    ``position``: its place in the queue, from 1; ``queued``: how many wait, it included.
    """

    at: float
    request: int
    delay: float
    position: int = 1
    queued: int = 1


@record(frozen=True, slots=True)
class Recovering:
    """The stream of ``provider`` broke when its reader had ``received`` characters; ``mode`` is what is tried now."""

    at: float
    request: int
    provider: str
    mode: Literal["restart", "continue"]
    received: int
    error: OrchestratorError


@record(frozen=True, slots=True)
class RequestEnded:
    """The request ended, in exactly one way."""

    at: float
    request: int
    outcome: Outcome
    duration: float
    attempts: tuple[Attempt, ...]
    completion: Completion | None = field(default=None, repr=False)
    error: BaseException | None = None


@record(frozen=True, slots=True)
class BreakerChanged:
    """A breaker changed its state; ``retry_after`` is how long it stays open, ``None`` when that is not known."""

    at: float
    provider: str
    old: BreakerState
    new: BreakerState
    reason: str
    retry_after: float | None = None


@record(frozen=True, slots=True)
class ProviderPaused:
    """A provider asked for a pause (Retry-After)."""

    at: float
    provider: str
    delay: float


@record(frozen=True, slots=True)
class ProviderAdded:
    """A provider joined the router."""

    provider: str


@record(frozen=True, slots=True)
class ProviderRemoved:
    """A provider left the router; it is closed after its last call."""

    provider: str


Event = (
    RequestStarted | AttemptStarted | AttemptOpened | AttemptEnded | RetryScheduled | FailedOver | Hedged | Waiting
    | Recovering | RequestEnded | BreakerChanged | ProviderPaused | ProviderAdded | ProviderRemoved
)
Listener = Callable[[Event], None]
