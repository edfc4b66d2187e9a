"""What a provider tells about its own limits."""

from __future__ import annotations

from orchestrator.core.record import record

__all__ = ["Quota", "RateLimits"]


@record(frozen=True, slots=True)
class Quota:
    """What is left of one limit, and when it is whole again.

    ``remaining`` of ``limit`` (``None``: not told) until ``reset``, in seconds from now (``None``: not told). Many
    providers do not wait with all of it until then but give it back bit by bit (a token bucket): ``refills``.
    """

    remaining: int
    limit: int | None = None
    reset: float | None = None
    refills: bool = False


@record(frozen=True, slots=True)
class RateLimits:
    """What one response told: of its requests, of its tokens; ``None`` for what it did not tell."""

    requests: Quota | None = None
    tokens: Quota | None = None
