"""What is known about one provider, kept up to date in O(1) per call; strategies and ``snapshot()`` read it."""

from __future__ import annotations

from math import exp, frexp

from orchestrator.core.types import Usage

__all__ = ["CandidateView", "LatencyHistogram"]

TAU = 10.0  # seconds: how fast samples age (Finagle's peak EWMA uses the same)
BASE_TOKENS = 50.0  # a call costs this many tokens of time before the first one is written
MIN_SHARE = 0.1  # of the newest sample: a burst must not count for nothing, as it would by age alone
PENALTY = 5.0  # seconds a failure counts for, at least
PENALTY_FACTOR = 4.0  # and at least so many times the provider's own pace


class CandidateView:
    """What a strategy sees of one provider. Read it; only the router writes.

    ``name, weight, priority, context_window`` come from the configuration; ``in_flight`` are calls under way;
    ``requests, failures, limited, prompt_tokens, completion_tokens, cost`` are totals; ``pace`` is an average of
    seconds per token (``latency / (50 + completion tokens)``), None before the first answer; ``sampled_at`` says when.
    """

    __slots__ = (
        "completion_tokens", "context_window", "cost", "failures", "histogram", "in_flight", "limited", "name",
        "pace", "penalised_at", "penalty", "priority", "prompt_tokens", "requests", "sampled_at", "weight",
    )

    def __init__(
        self, name: str, *, weight: float = 1.0, priority: int = 0, context_window: int | None = None
    ) -> None:
        self.name = name
        self.weight = weight
        self.priority = priority
        self.context_window = context_window
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        self.limited = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost = 0.0
        self.pace: float | None = None
        self.sampled_at = -TAU
        self.penalty = 0.0
        self.penalised_at = 0.0
        self.histogram = LatencyHistogram()

    def answered(self, at: float, latency: float, usage: Usage | None, length: int) -> None:
        """Take a success: ``latency`` seconds; ``length`` characters stand in (4 per token) for unknown usage."""
        tokens = usage.completion_tokens if usage is not None and usage.completion_tokens else length / 4
        sample = latency / (BASE_TOKENS + tokens)
        if self.pace is None:
            self.pace = sample
        else:
            share = max(MIN_SHARE, 1.0 - exp((self.sampled_at - at) / TAU))
            self.pace += share * (sample - self.pace)
        self.sampled_at = at
        self.penalty = 0.0
        self.histogram.add(latency)
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens

    def failed(self, at: float, retry_after: float | None) -> None:
        """Take a failure: its speed says nothing, or the provider that fails fastest would look the best."""
        self.failures += 1
        seconds = max(PENALTY, retry_after or 0.0)
        floor = PENALTY_FACTOR * self.pace if self.pace is not None else 0.0
        self.penalty = max(seconds / BASE_TOKENS, floor)
        self.penalised_at = self.sampled_at = at

    def expected_pace(self, at: float) -> float | None:
        """Seconds per token to expect now; a failure's penalty fades by ``e`` every 10 s. None: never measured."""
        if not self.penalty:
            return self.pace
        penalty = self.penalty * exp((self.penalised_at - at) / TAU)
        return penalty if self.pace is None else max(self.pace, penalty)

    def __repr__(self) -> str:
        return f"CandidateView({self.name!r}, in_flight={self.in_flight}, pace={self.pace})"


class LatencyHistogram:
    """Counts in buckets that grow by 2**(1/4) from 1 ms: quantiles within 10 %, in constant memory and time."""

    __slots__ = ("_counts", "_total")
    _SIZE = 80  # the last one holds all above 1 000 s

    def __init__(self) -> None:
        self._counts = [0] * self._SIZE
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        fraction, exponent = frexp(seconds * 1000.0)
        # fraction is in [0.5, 1): four steps per doubling, with the boundaries 2**(-3/4), 2**(-1/2), 2**(-1/4).
        step = (fraction >= 0.5946) + (fraction >= 0.7071) + (fraction >= 0.8409)
        self._counts[min(max(4 * exponent + step - 4, 0), self._SIZE - 1)] += 1
        self._total += 1

    def quantile(self, q: float) -> float | None:
        """The latency in seconds below which a share ``q`` of all calls lie; None without calls."""
        wanted = q * self._total
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return 0.001 * float(2.0 ** ((index + 0.5) / 4))
        return None

    def __len__(self) -> int:
        return self._total
