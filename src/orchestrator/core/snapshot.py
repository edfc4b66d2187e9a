"""What ``Router.snapshot()`` tells about one provider."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.events import BreakerState

__all__ = ["ProviderSnapshot"]


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """One provider at one moment. Seconds; ``retry_after`` is 0 when it would take a call now."""

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
