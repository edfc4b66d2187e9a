"""What ``Router.snapshot()`` tells about one provider."""

from __future__ import annotations

from orchestrator.core.events import BreakerState
from orchestrator.core.limits import RateLimits
from orchestrator.core.record import record

__all__ = ["ProviderSnapshot"]


@record(frozen=True, slots=True)
class ProviderSnapshot:
    """One provider at one moment. Seconds; ``retry_after`` is 0 when it would take a call now.

    ``queued``: requests that wait for it, maybe among others. ``breaker_reason``: why the breaker is in its state.
    ``next_probe``: seconds until an open breaker lets a probe through, a half-open one the next; None otherwise, and
    where only ``reset()`` helps. ``probes`` are under way. ``concurrency``: calls it may have under way at once, as
    configured or found out. ``quota``: what its responses told of its limits and still holds. None: unlimited, unknown.
    """

    name: str
    model: str | None
    enabled: bool
    breaker: BreakerState
    retry_after: float
    paused_until: float | None
    in_flight: int
    requests: int
    failures: int
    limited: int
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    prompt_tokens: int
    completion_tokens: int
    cost: float
    queued: int = 0
    breaker_reason: str | None = None
    next_probe: float | None = None
    probes: int = 0
    concurrency: int | None = None
    quota: RateLimits | None = None
    hedges: int = 0  # times it was asked because another was late
